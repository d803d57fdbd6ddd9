// The parity command over the golden files, where they are; and over a golden folder of one case that the oracle makes
// here, whole and damaged, so that a comparison that accepts everything fails.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parity, type ParityResult } from '../../lib/cli/parity.js'
import { writeSafetensors, type TensorData } from '../../lib/files/safetensors.js'
import { type NdArray, array } from '../oracle/array.js'
import { type Batch, forward, greedyIds, model } from '../oracle/model.js'
import { tinyCheckpoint, tinyInputs, writeTiny } from '../oracle/tiny.js'
import { cli } from '../support/cli.js'
import { bytes, settled } from '../support/memory.js'
import { temporaryFolder } from '../support/tiny.js'

async function all(golden: string): Promise<ParityResult[]> {
  const results: ParityResult[] = []
  for await (const result of parity(golden)) results.push(result)
  return results
}

// -------------------------------------------------------------------------------------------------------- golden files

const golden = process.env.MT_GOLDEN ?? fileURLToPath(new URL('../../../shared/golden', import.meta.url))
if (!existsSync(join(golden, 'cases'))) {
  console.warn(
    `SKIPPED: no golden files in ${golden} (set MT_GOLDEN to their folder); the model is compared with the oracle alone`,
  )
  test.skip('golden files are absent', () => {})
} else {
  test('every golden case passes, and all memory is given back', async () => {
    const before = await settled()
    const results = await all(golden)
    assert.ok(results.length > 0)
    const failed = results.filter((r) => r.score.faults.length)
    assert.equal(
      failed.map((r) => `${r.name}: ${r.score.faults[0]}`),
      [],
    )
    const worst = (kind: 'forward' | 'gradient' | 'update') =>
      Math.max(...results.map((r) => r.score[kind])).toExponential(1)
    console.log(
      `${results.length} golden cases; worst relative errors: forward ${worst('forward')}, gradient ${worst('gradient')}, update ${worst('update')}`,
    )
    assert.is(await bytes(), before)
  })
}

// ------------------------------------------------------------------------------------------------------- one case here

type Tensors = Map<string, NdArray>

/** A golden folder with one image case; `damage` may change what the file says. */
async function folder(damage: (tensors: Tensors, config: Record<string, unknown>) => void = () => {}): Promise<string> {
  const at = temporaryFolder('golden')
  mkdirSync(join(at, 'cases'))
  const tiny = tinyCheckpoint('instructblip', 7)
  writeTiny(join(at, 'base'), tiny)
  const oracle = model(tiny.tensors, tiny.config)
  const batch = tinyInputs(tiny.config, 4, { frames: 0 })
  const tensors: Tensors = new Map(Object.entries(inputs(batch)))
  const kept = [
    'vision.last_hidden_state',
    'qformer.hidden.0',
    'qformer.last_hidden_state',
    'visual_tokens',
    'lm.hidden.0',
    'logits',
    'loss',
  ]
  const { visualTokens } = forward(oracle, batch, undefined, (name, value) => {
    if (kept.includes(name)) tensors.set(`out.${name}`, value)
    return value
  })
  tensors.set('out.greedy_ids', greedyIds(oracle, visualTokens, batch, 4))
  const config = { kind: 'image', base: 'base' }
  damage(tensors, config)
  const stored = [...tensors].map(
    ([name, { shape, data }]): TensorData =>
      /ids|mask|labels/.test(name)
        ? { name, dtype: 'I32', shape, data: Int32Array.from(data) }
        : { name, dtype: 'F64', shape, data },
  )
  await writeSafetensors(join(at, 'cases', 'image_here.safetensors'), stored, { config: JSON.stringify(config) })
  return at
}

const inputs = (b: Batch): Record<string, NdArray> => ({
  'in.pixel_values': b.pixelValues!,
  'in.qformer_ids': b.qformerIds!,
  'in.qformer_mask': b.qformerMask!,
  'in.input_ids': b.inputIds,
  'in.attention_mask': b.attentionMask,
  'in.labels': b.labels,
})
const faults = async (at: Promise<string>): Promise<string> =>
  (await all(await at)).flatMap((r) => r.score.faults).join('\n')

/** Changes one number of a tensor by a part of the tensor's norm. */
function nudge(tensors: Tensors, name: string, part: number): void {
  const { shape, data } = tensors.get(name)!
  const size = Math.sqrt(data.reduce((sum, x) => sum + x * x, 0))
  tensors.set(
    name,
    array(
      shape,
      data.map((x, i) => (i === data.length - 1 ? x + part * size : x)),
    ),
  )
}

test('a case made by the oracle passes', async () => {
  const results = await all(await folder())
  assert.is(results.length, 1)
  assert.equal(results[0]!.score.faults, [])
  assert.ok(results[0]!.score.forward > 0 && results[0]!.score.forward < 1e-5)
})

test('one number that differs fails by name, from past the limit on and not below it', async () => {
  for (const name of [
    'out.vision.last_hidden_state',
    'out.qformer.last_hidden_state',
    'out.visual_tokens',
    'out.logits',
    'out.loss',
  ]) {
    assert.match(
      await faults(folder((t) => nudge(t, name, 3e-5))),
      new RegExp(`${name}: relative error .* past 0.00001`),
    )
  }
  assert.is(await faults(folder((t) => nudge(t, 'out.logits', 3e-6))), '')
})

test('another answer, a NaN, another shape, an output that is not computed, and a file that is not a case all fail', async () => {
  assert.match(
    await faults(
      folder((t) => {
        t.get('out.greedy_ids')!.data[5]! += 1
      }),
    ),
    /greedy ids of sample 1/,
  )
  assert.match(
    await faults(
      folder((t) => {
        t.get('out.logits')!.data[7] = NaN
      }),
    ),
    /out\.logits: relative error Infinity/,
  )
  assert.match(
    await faults(
      folder((t) => {
        t.set('out.loss', array([2], [1, 1]))
      }),
    ),
    /out\.loss/,
  )
  assert.match(
    await faults(
      folder((t) => {
        t.set('out.nothing', array([1]))
      }),
    ),
    /out\.nothing: nothing of that name/,
  )
  assert.match(
    await faults(
      folder((_, config) => {
        config.kind = 'unheard'
      }),
    ),
    /no case of kind unheard/,
  )
  assert.match(
    await faults(
      folder((_, config) => {
        delete config.kind
      }),
    ),
    /says its configuration in the metadata/,
  )
  assert.match(
    await faults(
      folder((_, config) => {
        config.base = 'elsewhere'
      }),
    ),
    /elsewhere/,
  )
})

test('the command: exit 0 with a line a case and the counts, exit 1 past a limit or without cases, one sentence without a folder', async () => {
  const good = await cli('parity', '--golden', await folder())
  assert.is(good.code, 0)
  assert.match(good.out, /^ok   image_here +forward +\d\.\de-\d+ +gradient +0\n1 passed, 0 failed\n$/)
  const bad = await cli('parity', '--golden', await folder((t) => nudge(t, 'out.loss', 1e-3)))
  assert.is(bad.code, 1)
  assert.match(bad.out, /^FAIL image_here .*\n +out\.loss: relative error \S+e-4 past 0\.00001\n0 passed, 1 failed\n$/)
  const empty = temporaryFolder('golden')
  mkdirSync(join(empty, 'cases'))
  assert.is((await cli('parity', '--golden', empty)).code, 1)
  const none = await cli('parity', '--golden', join(empty, 'none'))
  assert.is(none.code, 1)
  assert.match(none.err, /^mtransllama: .*none: expected a golden folder.*\n$/)
  const device = await cli('parity', '--golden', empty, '--device', 'abacus')
  assert.is(device.code, 1)
  assert.match(device.err, /^mtransllama: device: expected cpu, cuda or cuda: and a number, but got "abacus".*\n$/)
})

test.run()
