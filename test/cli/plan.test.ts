// What plan says against what then happens: bytes allocated by a question and by training, in processes of their own;
// and refusals before anything is loaded.
import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { stringify } from 'yaml'
import { readManifest } from '../../lib/data/manifest.js'
import { native } from '../../lib/native.js'
import { askFootprint, outlineOf, type Footprint } from '../../lib/session/footprint.js'
import { openTexts } from '../../lib/session/checkpoint.js'
import { encode, imageTextConfig } from '../../lib/session/encode.js'
import { full } from '../../lib/ops/copy.js'
import { linear } from '../../lib/ops/linear.js'
import { rehearse } from '../../lib/tensor/rehearsal.js'
import { scope } from '../../lib/tensor/scope.js'
import { memory, sync } from '../../lib/tensor/runtime.js'
import { readTrainConfig } from '../../lib/train/config.js'
import { sizesOf, trainFootprint } from '../../lib/train/footprint.js'
import { cli } from '../support/cli.js'
import { settled } from '../support/memory.js'
import { configOf, makeWorld, type World } from '../support/world.js'

let world: World
const at = (name: string): string => join(world.root, name)
test.before(async () => {
  world = await makeWorld()
})

const module = (path: string): string => JSON.stringify(new URL(`../../lib/${path}.ts`, import.meta.url).href)

/** The most that tensors took at one time. */
interface Measured {
  allocated: number
}

/** Of a process that runs `code`. */
function measured(code: string): Measured {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      ...['--import', 'tsx', '--input-type=module', '-e'],
      `const { openModel } = await import(${module('session/model')})
       const { train } = await import(${module('train/loop')})
       const { readTrainConfig } = await import(${module('train/config')})
       const { memory, sync } = await import(${module('tensor/runtime')})
       ${code}
       await sync()
       console.log(JSON.stringify({ allocated: memory().peak }))`,
    ],
    { encoding: 'utf8' },
  )
  assert.is(status, 0, stderr)
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Measured
}

const within = (planned: number, found: number, share: number, what: string): void =>
  assert.ok(Math.abs(planned / found - 1) <= share, `${what}: planned ${planned}, measured ${found}`)

test('a rehearsal takes no memory, computes nothing and counts what would be taken', async () => {
  const before = await settled()
  const peak = memory().peak
  let seen: unknown[] = []
  const { peak: found, resident } = await rehearse(() =>
    scope(async () => {
      const w = full([1 << 14, 1 << 14], 1) // 1 GiB
      const x = full([4, 1 << 14], 1)
      seen = [...(await linear(x, w).data())].slice(0, 3)
    }),
  )
  assert.equal(seen, [0, 0, 0])
  assert.ok(found >= 2 ** 30 && found < 2 ** 30 + 2 ** 20, `${found}`)
  assert.ok(resident >= found)
  assert.is(await settled(), before)
  assert.is(memory().peak, peak)
  assert.is((await full([2], 3).data())[1], 3, 'and then it computes again')
})

/** Of a question and of training: planned, and measured. */
async function compared(
  model: string,
  name: string,
  precision: 'float32' | 'bfloat16',
  check: (planned: Footprint, found: Measured, what: string) => void,
): Promise<void> {
  const outline = await outlineOf(model)
  const [sample] = await readManifest(world.val)
  const texts = { ...(await openTexts(model, outline.config)), model: { config: outline.config } }
  const encoded = encode(texts, imageTextConfig(texts, 4), { prompt: sample!.prompt })
  const sizes = {
    frames: 4,
    qformerTokens: encoded.qformer?.length ?? 0,
    promptTokens: encoded.prompt.length,
    answerTokens: 8,
  }
  const question = JSON.stringify({ video: sample!.video, fps: sample!.fps, prompt: sample!.prompt })
  const asked = await askFootprint(outline, sizes, { device: 'cpu', precision })
  check(
    asked,
    measured(
      `const model = await openModel(${JSON.stringify(model)}, { precision: '${precision}' })
       for await (const _ of model.ask(${question}, { maxTokens: 8 }));`,
    ),
    `a question in ${precision}`,
  )
  const path = at(`${name}-${precision}.yaml`)
  const more = { train: { epochs: 2, batch: 3 }, model }
  writeFileSync(path, stringify(configOf(world, at(`${name}-${precision}`), more)))
  const config = await readTrainConfig(path)
  const samples = await readManifest(world.train)
  const val = config.data.val === undefined ? [] : await readManifest(config.data.val)
  const trained = await trainFootprint(outline, config, await sizesOf(model, outline, config, samples, val), {
    device: 'cpu',
    precision,
  })
  check(
    trained,
    measured(`await train(await readTrainConfig(${JSON.stringify(path)}), { precision: '${precision}' })`),
    `training in ${precision}`,
  )
}

for (const precision of ['float32', 'bfloat16'] as const)
  test(`the tiny world in ${precision}: what is allocated within a tenth of what is planned`, () =>
    compared(world.model, 'tiny', precision, (planned, { allocated }, what) => {
      within(planned.allocated, allocated, 0.1, what)
      sums(planned)
    }))

test('a model of some width: the same', async () => {
  const { hubConfig, writeCheckpoint } = await import('../../bench/full-size/checkpoint.js')
  const hub = hubConfig('float32') as Record<'vision_config' | 'qformer_config' | 'text_config', object>
  const wide = { hidden_size: 256, num_attention_heads: 4, intermediate_size: 1024, num_hidden_layers: 3 }
  const config = {
    ...hub,
    vision_config: { ...hub.vision_config, ...wide },
    qformer_config: { ...hub.qformer_config, ...wide, encoder_hidden_size: 256 },
    text_config: { ...hub.text_config, ...wide },
  }
  const model = at('wide')
  await writeCheckpoint(model, { dtype: 'bfloat16', config })
  for (const precision of ['float32', 'bfloat16'] as const)
    await compared(model, 'wide', precision, (planned, { allocated }, what) => {
      within(planned.allocated, allocated, 0.1, what)
      sums(planned)
    })
})

function sums({ rows, total }: Footprint): void {
  assert.is(
    rows.reduce((n, r) => n + r.bytes, 0),
    total,
  )
  assert.ok(rows.every((r) => r.bytes >= 0))
}

test('the hub’s model from its config.json alone: bytes of its parts; a card of 12 GB holds it in no way so far', async () => {
  const { hubConfig } = await import('../../bench/full-size/checkpoint.js')
  const path = at('hub-config.json')
  writeFileSync(path, JSON.stringify(hubConfig('float32')))
  const outline = await outlineOf(path)
  const sizes = { frames: 4, qformerTokens: 32, promptTokens: 32, answerTokens: 8 }
  const planned = await askFootprint(outline, sizes, { device: 'cpu', memory: 24e9, precision: 'bfloat16' })
  const part = (name: string): number => planned.rows.find((r) => r.part === name)!.bytes
  // 6.74 · 10⁹ parameters of LLaMA with 32,064 rows, its norms in float32.
  within(part('weights: language model'), 2 * 6_738_939_904, 0.001, 'language model')
  within(part('weights: vision'), 2 * 985_952_256, 0.01, 'vision')
  assert.is(part('KV cache'), 2 * 32 * 4096 * (32 + 32 + 8) * 2)
  assert.ok(planned.total < 20e9, `${planned.total}`)
  const start = await settled()
  const again = await askFootprint(outline, sizes, { device: 'cpu', memory: 24e9, precision: 'bfloat16' })
  assert.is(again.allocated, planned.allocated, 'the same again')
  assert.is(await settled(), start)
})

test('plan: tables for CPU and GPU, the sum, and the nearest setting that fits', async () => {
  const path = at('planned.yaml')
  writeFileSync(path, stringify(configOf(world, at('planned'), { train: { batch: 4 } })))
  const { code, out, err } = await cli('plan', path)
  assert.is(code, 0, err)
  for (const part of [
    'train on cpu',
    'train on gpu',
    'weights: vision',
    'activations',
    'moments',
    'feature cache',
    'total',
  ])
    assert.ok(out.includes(part), part)
  assert.match(out, /all of it fits\n$/)
  const model = await cli('plan', world.model, '--device', 'cpu', '--memory', '12G')
  assert.match(model.out, /ask on cpu, float32\n[^]*KV cache[^]*there is +12\.88 GB\n[^]*train on cpu, float32\n/)
  const on = async (memory: string): Promise<string> =>
    (await cli('plan', path, '--device', 'cuda', '--memory', memory)).out
  const total = Number(/^total +([\d.]+) MB$/m.exec(await on('4G'))![1])
  const small = await on(String(Math.round((total - 0.15) * 1e6)))
  assert.match(
    small,
    /train takes \d+\.\d MB and cuda:0 has \d+\.\d MB; the nearest setting that fits: train\.recompute (language|all)\n/,
  )
  assert.match((await cli('plan', path, '--memory', 'much')).err, /--memory: expected bytes, as 12G, but got "much"/)
  assert.match((await cli('plan', at('none'))).err, /none: no such folder or file\./)
})

test('train, ask, eval and serve refuse what MT_MEMORY_LIMIT does not hold, with the table, and write nothing', async () => {
  const path = at('refused.yaml')
  writeFileSync(path, stringify(configOf(world, at('refused'), { train: { batch: 4 } })))
  process.env.MT_MEMORY_LIMIT = '100M'
  try {
    const trained = await cli('train', path, '--device', 'cpu')
    assert.is(trained.code, 1)
    assert.match(
      trained.err,
      /^mtransllama: +train on cpu\nweights: [^]+\ntotal +\d+\.\d MB\nthere is +104\.9 MB\nmemory: train takes \d+\.\d MB and cpu has 104\.9 MB; no setting of this model fits\.\n$/,
    )
    assert.not.ok(existsSync(at('refused')))
    const asked = await cli(
      'ask',
      '--model',
      world.model,
      '--video',
      at('none.mp4'),
      '--prompt',
      'what',
      '--device',
      'cpu',
    )
    assert.match(asked.err, /memory: ask takes \d+\.\d MB and cpu has 104\.9 MB/)
    const [predictions, data] = [at('refused.jsonl'), world.val]
    const on = ['--model', world.model, '--device', 'cpu']
    const evaluated = await cli('eval', ...on, '--data', data, '--output', predictions)
    assert.is(evaluated.code, 1)
    assert.match(evaluated.err, /eval on cpu\n[^]+\nfeatures of a batch +\d+\.\d kB\n/)
    assert.match(
      evaluated.err,
      /memory: eval takes \d+\.\d MB and cpu has 104\.9 MB; no setting of this model fits\.\n$/,
    )
    assert.not.ok(existsSync(predictions))
    const served = await cli('serve', ...on, '--port', '0')
    assert.is(served.code, 1)
    assert.match(served.err, /memory: serve takes \d+\.\d MB and cpu has 104\.9 MB/)
  } finally {
    delete process.env.MT_MEMORY_LIMIT
  }
  assert.ok(native().memory().limit > 1e9)
  await sync()
})

test.run()
