// Runs that go wrong: numbers that are not finite, data that cannot be used, and errors in the middle. What can be known
// beforehand is reported before the first step, what was learned is saved, and success is reported for files that exist.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadAdapter } from '../../lib/adapter/save.js'
import { InputError } from '../../lib/errors.js'
import type { Checkpoint } from '../../lib/session/checkpoint.js'
import { openModel, type Model } from '../../lib/session/model.js'
import { full, write } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { train, type EpochEvent, type StepEvent, type TrainEvents } from '../../lib/train/loop.js'
import { cli } from '../support/cli.js'
import { configOf, jsonLines, makeWorld, trainConfig, writeCheckpoint, type World } from '../support/world.js'
import { poison } from '../support/poison.js'

let world: World
let model: Model
let checkpoint: Checkpoint
test.before(async () => {
  world = await makeWorld()
  model = await openModel(world.model)
  checkpoint = model.checkpoint
})
test.after(() => model.dispose())

const at = (...parts: string[]): string => join(world.root, ...parts)
const set = (t: Tensor, value: number): void => scope(() => write(t, full(t.shape, value)))

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise
  } catch (error) {
    assert.not.match((error as Error).message, /\n/)
    return error as Error
  }
  return assert.unreachable('nothing was thrown') as never
}

/** A checkpoint of which one weight holds a NaN. */
async function damaged(name: string, weight: string, value = NaN): Promise<string> {
  const folder = at(name)
  mkdirSync(folder)
  await writeCheckpoint(folder)
  await poison(join(folder, 'model.safetensors'), weight, value)
  return folder
}

// ------------------------------------------------------------------------------------------------- nothing was learned

for (const [what, weight, value] of [
  ['the output matrix', 'language_model.lm_head.weight', NaN],
  ['the Q-Former', 'qformer.encoder.layer.1.intermediate_query.dense.bias', -Infinity],
] as const) {
  test(`a short run without a finite step is not a success: ${what}`, async () => {
    const folder = await damaged(`damaged-${weight}`, weight, value)
    const config = trainConfig(world, `nothing-${weight}`, {
      model: folder,
      train: { epochs: 1, maxBadSteps: 50 },
      data: { val: undefined },
    })
    const epochs: EpochEvent[] = []
    const error = await failure(train(config, { onEpoch: (e) => void epochs.push(e) }))
    assert.instance(error, InputError)
    assert.match(
      error.message,
      /^training: none of the 3 steps was finite, the last because of the weight \S+, so nothing was learned; it holds a NaN or an infinity: the checkpoint is damaged, fetch it again\.$/,
    )
    assert.ok(error.message.includes(weight), error.message)
    assert.equal(
      epochs.map((e) => [e.best, Number.isFinite(e.loss)]),
      [[false, false]],
    )
    assert.not.ok(existsSync(join(config.output, 'best')))
  })
}

test('the command ends with 1 and names no folder that does not exist', async () => {
  writeFileSync(
    at('none.yaml'),
    JSON.stringify(
      configOf(world, 'none', {
        model: await damaged('damaged-cli', 'language_projection.bias'),
        train: { epochs: 1 },
        data: { val: undefined },
      }),
    ),
  )
  const { code, out, err } = await cli('train', at('none.yaml'))
  assert.is(code, 1)
  assert.not.match(out, /best adapter|best so far/)
  assert.match(
    err,
    /\nmtransllama: training: none of the 3 steps was finite, the last because of the weight language_projection\.bias, [^\n]+\n$/,
  )
})

test('an epoch that is not finite does not affect those after it', async () => {
  let t: Tensor
  const epochs: EpochEvent[] = []
  const result = await train(
    trainConfig(world, 'second', { train: { epochs: 3, maxBadSteps: 9 }, data: { val: undefined } }),
    {
      model,
      onStart: ({ adapter }) => set((t = adapter.parameters.get('temporal_position')!), NaN),
      onStep: (e) => e.step === 3 && set(t, 0),
      onEpoch: (e) => void epochs.push(e),
    },
  )
  assert.equal(
    epochs.map((e) => [Number.isFinite(e.loss), e.best]),
    [
      [false, false],
      [true, true],
      [true, true],
    ],
  )
  assert.ok(existsSync(result.best))
})

test('an adapter that is not finite at the end of an epoch is not the best, and replaces none that is', async () => {
  let t: Tensor
  const epochs: EpochEvent[] = []
  const { best, last } = await train(trainConfig(world, 'late', { train: { epochs: 2, maxBadSteps: 9 } }), {
    model,
    onStart: ({ adapter }) => void (t = adapter.parameters.get('layer.2.cross.q.lora_B')!),
    onStep: (e) => e.step === 6 && set(t, Infinity),
    onEpoch: (e) => void epochs.push(e),
  })
  assert.equal(
    epochs.map((e) => [e.best, e.notFinite]),
    [
      [true, undefined],
      [false, 'layer.2.cross.q.lora_B'],
    ],
  )
  for (const folder of [best, last]) (await loadAdapter(folder, checkpoint)).dispose()
})

test('the count of bad steps continues when a run is resumed', async () => {
  const config = trainConfig(world, 'counted', { train: { epochs: 4, maxBadSteps: 5 }, data: { val: undefined } })
  const run = (stopAt: number, resume: boolean, seen: StepEvent[]): Promise<unknown> => {
    const stop = new AbortController()
    let t: Tensor
    const events: TrainEvents = {
      onStart: ({ adapter }) => set((t = adapter.parameters.get('spatial_position')!), NaN),
      onStep: (e) => {
        seen.push(e)
        if (e.step === stopAt) set(t, 0), stop.abort(new Error('enough'))
      },
    }
    return train(config, { model, resume, signal: stop.signal, ...events })
  }
  const seen: StepEvent[] = []
  assert.is((await failure(run(3, false, seen))).message, 'enough')
  assert.match(
    (await failure(run(0, true, seen))).message,
    /^training: 5 steps in a row were not finite, the last because of spatial_position; /,
  )
  assert.equal(
    seen.map((e) => e.step),
    [1, 2, 3, 4, 5],
  )
})

test('a bad step that no tensor explains names its samples', async () => {
  const seen: StepEvent[] = []
  let t: Tensor
  await train(trainConfig(world, 'large', { train: { epochs: 1, maxBadSteps: 9 }, data: { val: undefined } }), {
    model,
    onStart: ({ adapter }) => void (t = adapter.parameters.get('layer.0.spatial.v.lora_B')!),
    onStep: (e) => (seen.push(e), set(t, e.step === 1 ? 3e38 : 0)),
  })
  assert.equal(
    seen.map((e) => e.bad === undefined),
    [true, false, true],
  )
  assert.match(seen[1]!.bad!, /^(the loss|the gradient of \S+) \(samples "[^"]+"(, "[^"]+"){3}\)$/)
  const { layer, sample } = seen[1]!.place!
  assert.match(layer, /^layer\.0\./, 'the first layer that the parameter is in')
  assert.ok(seen[1]!.bad!.includes(JSON.stringify(sample)))
  assert.equal([seen[0]!.place, seen[2]!.place], [undefined, undefined])
})

// ------------------------------------------------------------------------------------------------ errors in the middle

for (const [what, error] of [
  ['of ours', new InputError('the disk of the listener is full.')],
  ['of anybody', new TypeError('x is not a function')],
] as const) {
  test(`an error ${what} in the middle saves what was learned, and the run goes on as one that had none`, async () => {
    const config = trainConfig(world, `thrown-${error.name}`, { train: { epochs: 3 } })
    const thrown = await failure(
      train(config, {
        model,
        onStep: (e) => {
          if (e.step === 5) throw error
        },
      }),
    )
    assert.ok(thrown.message.startsWith(error.message.replace(/\.$/, '')), thrown.message)
    if (error instanceof InputError)
      assert.match(thrown.message, /; what was learned in 5 steps is in \S+last, and --resume goes on from there\.$/)
    assert.is(JSON.parse(readFileSync(join(config.output, 'last', 'training.json'), 'utf8')).steps, 5)
    const resumed = await train(config, { model, resume: true })
    const through = await train(trainConfig(world, `through-${error.name}`, { train: { epochs: 3 } }), { model })
    assert.equal(
      resumed.epochs.slice(1).map((e) => e.loss),
      through.epochs.slice(1).map((e) => e.loss),
    )
    assert.equal(
      readFileSync(join(resumed.last, 'adapter_model.safetensors')),
      readFileSync(join(through.last, 'adapter_model.safetensors')),
    )
  })
}

test('problems of the data are reported before the first step, all clips together', async () => {
  writeFileSync(at('clips', 'noise.mp4'), 'this is no video')
  const lines = jsonLines(world.train).map(
    (l): Record<string, unknown> => ({ ...l, video: join(world.root, 'clips', 'train', l.video.split('/').at(-1)!) }),
  )
  lines[2]!.video = at('clips', 'noise.mp4')
  lines[5]!.start = 900
  writeFileSync(at('two-bad.jsonl'), lines.map((l) => `${JSON.stringify(l)}\n`).join(''))
  const config = trainConfig(world, 'two-bad', { data: { train: at('two-bad.jsonl') } })
  const { message } = await failure(train(config, { model, onStep: () => assert.unreachable('a step was made') }))
  assert.match(
    message,
    /^data: 2 of \d+ clips cannot be used: .*noise\.mp4: expected a video file.*; .*start: expected a time before the end/,
  )
})

test('after ten bad clips the run ends, without reading thousands', async () => {
  const [line] = jsonLines(world.train)
  writeFileSync(
    at('many-bad.jsonl'),
    Array.from(
      { length: 40 },
      (_, i) => `${JSON.stringify({ ...line, id: `${i}`, video: at('clips', 'noise.mp4'), end: i + 1 })}\n`,
    ).join(''),
  )
  const { message } = await failure(
    train(trainConfig(world, 'many-bad', { data: { train: at('many-bad.jsonl'), val: undefined } }), { model }),
  )
  assert.match(message, /^data: 10 of the first 10 of 40 clips cannot be used: /)
  for (const i of [0, 9]) assert.ok(message.includes(`many-bad.jsonl, line ${i + 1}, sample "${i}": `), message)
})

test('an output that will not take a saved run is refused before the first step', async () => {
  for (const name of ['best', 'last']) {
    mkdirSync(at(`taken-${name}`, name), { recursive: true })
    writeFileSync(at(`taken-${name}`, name, 'thesis.txt'), 'mine')
    const { message } = await failure(
      train(trainConfig(world, `taken-${name}`), { model, onStep: () => assert.unreachable('a step was made') }),
    )
    assert.match(
      message,
      new RegExp(
        `${name}: expected a saved adapter, an empty folder or none, but got "a folder that holds thesis\\.txt"; choose another folder`,
      ),
    )
  }
})

test('one folder of images at two rates is two clips', async () => {
  const { default: sharp } = await import('sharp')
  mkdirSync(at('frames'))
  for (let i = 0; i < 8; i++)
    await sharp({ create: { width: 21, height: 21, channels: 3, background: { r: 30 * i, g: 0, b: 90 } } })
      .png()
      .toFile(at('frames', `${i}.png`))
  const sample = {
    video: 'frames',
    start: 0,
    end: 1,
    prompt: 'how many objects move ?',
    answer: 'one',
    choices: ['one', 'two'],
  }
  writeFileSync(
    at('rates.jsonl'),
    [2, 4, 8].map((fps) => `${JSON.stringify({ id: `${fps}`, fps, ...sample })}\n`).join(''),
  )
  let total = 0
  await train(
    trainConfig(world, 'rates', { train: { epochs: 1 }, data: { train: at('rates.jsonl'), val: undefined } }),
    { model, onFeatures: (_, n) => void (total = n) },
  )
  assert.is(total, 3)
})

test.run()
