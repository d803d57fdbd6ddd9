// Whole training runs on a tiny random checkpoint: they learn, write what they should, repeat to the bit, can be stopped
// and resumed, skip steps that are not finite, do not block the event loop and free their memory.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { Adapter } from '../../lib/adapter/adapter.js'
import { loadAdapter } from '../../lib/adapter/save.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import type { Checkpoint } from '../../lib/session/checkpoint.js'
import { openModel, type Model } from '../../lib/session/model.js'
import { predictSamples, type Prediction } from '../../lib/eval/evaluate.js'
import { Features } from '../../lib/session/features.js'
import { full, write } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { threads } from '../../lib/tensor/runtime.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { train, type StepEvent, type TrainResult } from '../../lib/train/loop.js'
import { AdamW, type Outcome } from '../../lib/train/optimizer.js'
import { Trainer } from '../../lib/train/trainer.js'
import { relativeError } from '../oracle/array.js'
import { bytes, settled } from '../support/memory.js'
import { jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

let world: World
let model: Model
let checkpoint: Checkpoint
let samples: Sample[]
/** Bytes of memory before anything, and with the model open. */
let [start, held] = [0, 0]
test.before(async () => {
  start = await settled()
  world = await makeWorld()
  model = await openModel(world.model)
  checkpoint = model.checkpoint
  samples = await readManifest(world.train)
  held = await bytes()
})

async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise
  } catch (error) {
    return error as Error
  }
  return assert.unreachable('nothing was thrown') as never
}

const featuresOf = (frames = 3): Features => new Features(checkpoint, { frames, sampling: { kind: 'uniform' } })
const predict = async (adapter: Adapter | undefined, of: Sample[], batch?: number): Promise<Prediction[]> => {
  const all: Prediction[] = []
  for await (const p of predictSamples(checkpoint, featuresOf(), of, { adapter, ...(batch && { batch }) })) all.push(p)
  return all
}
/** All weights that a folder holds, by file. */
const weightsIn = (folder: string): Map<string, string> =>
  new Map(
    (readdirSync(folder, { recursive: true }) as string[])
      .filter((f) => f.endsWith('.safetensors'))
      .sort()
      .map((f) => [f, readFileSync(join(folder, f)).toString('base64')]),
  )

// --------------------------------------------------------------------------------------------------------- a whole run

let first: TrainResult

test('a run learns, and writes its metrics and two adapters that answer as the trained one did', async () => {
  const config = trainConfig(world, 'first', { train: { epochs: 6 } })
  const steps: StepEvent[] = []
  let ready = 0
  let trained: Prediction[] | undefined
  let adapter: Adapter | undefined
  first = await train(config, {
    model,
    onStart: (s) => void (adapter = s.adapter),
    onFeatures: (done, total) => void (ready = done / total),
    onStep: (e) => void steps.push(e),
  })
  assert.is(ready, 1)
  assert.is(steps.length, 6 * 3)
  assert.equal(
    steps.map((s) => s.step),
    Array.from({ length: 18 }, (_, i) => i + 1),
  )
  assert.ok(steps.every((s) => s.steps === 18 && s.bad === undefined && s.norm > 0 && s.tokens >= 8))
  const losses = first.epochs.map((e) => e.loss)
  assert.ok(losses.at(-1)! < 0.9 * losses[0]!, `loss ${losses}`)
  assert.ok(
    losses.every((l, i) => i === 0 || l < losses[i - 1]!),
    `it falls every epoch: ${losses}`,
  )
  assert.ok(adapter!.parameters.values().next().value!.disposed, 'the adapter of the run is freed')

  const lines = jsonLines(join(config.output, 'metrics.jsonl'))
  assert.is(lines.filter((l) => l.kind === 'step').length, 18)
  const epochs = lines.filter((l) => l.kind === 'epoch')
  assert.equal(
    epochs.map((e) => e.loss),
    losses,
  )
  assert.ok(epochs.every((e) => e.accuracy >= 0 && e.accuracy <= 1 && Object.keys(e.tasks).length > 1))

  const validation = await readManifest(world.val)
  for (const [folder, epoch] of [
    [first.last, first.epochs.at(-1)!],
    [first.best, first.epochs.findLast((e) => e.best)!],
  ] as const) {
    const loaded = await loadAdapter(folder, checkpoint)
    const again = await predict(loaded, validation)
    assert.is(again.filter((p) => p.correct).length / again.length, epoch.accuracy, folder)
    if (folder === first.last) trained = again
    loaded.dispose()
  }
  const untrained = await predict(undefined, validation)
  assert.not.equal(
    trained!.map((p) => p.losses),
    untrained.map((p) => p.losses),
  )
  assert.is(await bytes(), held)
})

test('the same seed gives the same bits, on one thread or two; another seed gives others', async () => {
  const short = { train: { epochs: 1 }, data: { val: undefined } }
  const run = (output: string, seed = 5) =>
    train(trainConfig(world, output, { ...short, train: { epochs: 1, seed } }), { model }).then((r) =>
      weightsIn(r.last),
    )
  const before = threads()
  try {
    threads(2)
    const a = await run('seed-a')
    assert.ok(a.size >= 4, `${[...a.keys()]}`) // LoRA by role, the rest, and the moments
    assert.equal(await run('seed-b'), a)
    threads(1)
    assert.equal(await run('seed-c'), a)
    const other = await run('seed-d', 6)
    for (const [file, content] of other) assert.is.not(content, a.get(file), file)
  } finally {
    threads(before)
  }
})

test('a run that was stopped ends as one that was not, and the one that was not is not overwritten', async () => {
  const config = trainConfig(world, 'stopped', { train: { epochs: 6 } })
  const controller = new AbortController()
  const seen: number[] = []
  const stopped = await failure(
    train(config, {
      model,
      signal: controller.signal,
      onStep: (e) => {
        seen.push(e.step)
        if (e.step === 8) controller.abort(new Error('enough'))
      },
    }),
  )
  assert.is(stopped.message, 'enough')
  assert.equal(seen, [1, 2, 3, 4, 5, 6, 7, 8])
  assert.is(jsonLines(join(config.output, 'metrics.jsonl')).filter((l) => l.kind === 'step').length, 8)
  const half = await loadAdapter(join(config.output, 'last'), checkpoint)
  assert.ok((await predict(half, samples.slice(0, 2))).every((p) => Object.values(p.losses!).every(Number.isFinite)))
  half.dispose()
  assert.is(await bytes(), held)
  assert.match((await failure(train(config, { model }))).message, /holds a run already/)

  const result = await train(config, { model, resume: true })
  assert.equal(weightsIn(result.last), weightsIn(first.last))
  assert.equal(
    result.epochs.map((e) => e.loss),
    first.epochs.map((e) => e.loss),
  )
  assert.is(await bytes(), held)
})

test('a signal that is aborted from the start ends the run before anything is trained', async () => {
  const config = trainConfig(world, 'never')
  assert.is((await failure(train(config, { model, signal: AbortSignal.abort(new Error('no')) }))).message, 'no')
  assert.not.ok(existsSync(join(config.output, 'last')))
  assert.is(await bytes(), held)
})

// ------------------------------------------------------------------------------------------------------------- a step

/** A trainer on the training set, whose optimiser also keeps the gradients of its last step. */
class Recorder extends AdamW {
  gradients = new Map<string, Float32Array>()
  override async finish(report: Tensor): Promise<Outcome> {
    const outcome = await super.finish(report)
    for (const { name, tensor: t } of this.parameters)
      if (t.grad) this.gradients.set(name, t.grad.dataBlocking() as Float32Array)
    return outcome
  }
}
function makeTrainer(
  more: Parameters<typeof trainConfig>[2] = {},
  features = featuresOf(),
): { trainer: Trainer; optimizer: Recorder; adapter: Adapter; dispose(): void } {
  const { adapter: config, train: t } = trainConfig(world, 'nowhere', more)
  const adapter = new Adapter(checkpoint.model.config, config, { seed: 3 })
  // Not at the start, where half of the LoRA has no gradient.
  for (const [name, p] of adapter.parameters)
    if (/lora_B|position/.test(name))
      scope(() =>
        write(
          p,
          tensor(
            Float32Array.from({ length: p.size }, (_, i) => 0.1 * Math.sin(i + name.length)),
            p.shape,
          ),
        ),
      )
  const optimizer = new Recorder(
    adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
    { lr: t.lr as number, betas: t.betas, eps: t.eps, weightDecay: t.weightDecay },
  )
  return {
    trainer: new Trainer(checkpoint, adapter, features, optimizer),
    optimizer,
    adapter,
    dispose: () => (optimizer.dispose(), adapter.dispose()),
  }
}
/** Answers of one, two and three words, so that a mean of means would be another number. */
const uneven = (): Sample[] =>
  samples
    .slice(0, 4)
    .map((s, i): Sample => ({ ...s, answer: ['yes', 'red circle', 'circle left up', 'no'][i]!, choices: undefined }))

test('two micro-batches of two are a batch of four: the same loss and gradients', async () => {
  const run = async (microBatches: Sample[][]) => {
    const { trainer, optimizer, dispose } = makeTrainer()
    const result = await trainer.step(microBatches)
    dispose()
    return { ...result, gradients: optimizer.gradients }
  }
  const whole = await run([uneven()])
  assert.is(whole.tokens, 1 + 2 + 3 + 1 + 4) // and an end each
  for (const parts of [
    [uneven().slice(0, 2), uneven().slice(2)],
    [uneven().slice(0, 1), uneven().slice(1)],
  ]) {
    const split = await run(parts)
    assert.is(split.tokens, whole.tokens)
    assert.ok(Math.abs(split.loss - whole.loss) <= 1e-5 * whole.loss)
    assert.ok(Math.abs(split.norm - whole.norm) <= 1e-5 * whole.norm)
    assert.equal([...split.gradients.keys()], [...whole.gradients.keys()])
    const flat = (g: Map<string, Float32Array>): number[] => [...g.values()].flatMap((x) => [...x])
    const error = relativeError(flat(split.gradients), flat(whole.gradients))
    assert.ok(error <= 1e-5, `gradients differ by ${error}`)
  }
})

test('what a sample is predicted as does not depend on the batch it is in', async () => {
  const adapter = await loadAdapter(first.last, checkpoint)
  for (const a of [adapter, undefined]) {
    const [alone, together, reversed] = [
      await predict(a, samples, 1),
      await predict(a, samples, 16),
      (await predict(a, [...samples].reverse(), 5)).reverse(),
    ]
    assert.ok(new Set(samples.map((s) => s.prompt.length)).size > 2, 'lengths differ')
    for (const other of [together, reversed]) {
      assert.equal(
        other.map((p) => p.prediction),
        alone.map((p) => p.prediction),
      )
      for (const [i, p] of other.entries()) {
        const [x, y] = [Object.values(p.losses!), Object.values(alone[i]!.losses!)]
        assert.ok(relativeError(x, y) <= 1e-5, `${p.id}: ${x} against ${y}`)
      }
    }
  }
  const open = samples.map((s): Sample => ({ ...s, choices: undefined }))
  assert.equal(
    (await predict(adapter, open, 16)).map((p) => p.prediction),
    (await predict(adapter, open, 1)).map((p) => p.prediction),
  )
  adapter.dispose()
  assert.is(await bytes(), held)
})

// ----------------------------------------------------------------------------------------- numbers that are not finite

test('a step that is not finite is skipped and names the tensor; the next good one goes on', async () => {
  const { trainer, optimizer, adapter, dispose } = makeTrainer()
  const name = 'layer.2.cross.q.lora_A'
  const p = adapter.parameters.get(name)!
  const good = (await p.data()) as Float32Array
  const values = () => Promise.all([...adapter.parameters].filter(([n]) => n !== name).map(([, t]) => t.data()))
  const before = await values()
  for (const poison of [NaN, Infinity, -Infinity]) {
    const bad = Float32Array.from(good)
    bad[bad.length - 1] = poison
    scope(() => write(p, tensor(bad, p.shape)))
    const result = await trainer.step([uneven()])
    assert.is(result.bad, name)
    assert.is(optimizer.steps, 0)
    assert.equal(await values(), before)
    assert.ok(
      [...adapter.parameters.values()].every((t) => t.grad === undefined),
      'no gradient is left',
    )
  }
  scope(() => write(p, tensor(good, p.shape)))
  const result = await trainer.step([uneven()])
  assert.is(result.bad, undefined)
  assert.is(optimizer.steps, 1)
  assert.not.equal(await values(), before)
  for (const { m, v } of optimizer.moments.values())
    for (const t of [m, v]) assert.ok(((await t.data()) as Float32Array).every(Number.isFinite))
  dispose()
})

test('a run of them ends training with one sentence, in time', async () => {
  const config = trainConfig(world, 'bad', { train: { maxBadSteps: 4, epochs: 9 } })
  const seen: StepEvent[] = []
  const error = await failure(
    train(config, {
      model,
      onStart: ({ adapter }) => {
        const p = adapter.parameters.get('layer.1.spatial.v.lora_B')!
        scope(() => write(p, full(p.shape, NaN)))
      },
      onStep: (e) => void seen.push(e),
    }),
  )
  assert.instance(error, InputError)
  assert.match(
    error.message,
    /^training: 4 steps in a row were not finite, the last because of layer\.1\.spatial\.v\.lora_B; lower train\.lr or set train\.clip\.$/,
  )
  assert.equal(
    seen.map((e) => e.bad),
    Array(4).fill('layer.1.spatial.v.lora_B'),
  )
  assert.is(jsonLines(join(config.output, 'metrics.jsonl')).filter((l) => l.bad).length, 4)
  assert.is(await bytes(), held)
})

test('bad steps that are not in a row do not end it', async () => {
  let p: Tensor
  let bad = 0
  const poison = (value: number): void => scope(() => write(p, full(p.shape, value)))
  await train(trainConfig(world, 'mixed', { train: { maxBadSteps: 2, epochs: 3 }, data: { val: undefined } }), {
    model,
    onStart: ({ adapter }) => void (p = adapter.parameters.get('spatial_position')!),
    onStep: (e) => {
      bad += Number(e.bad !== undefined)
      poison(e.step % 2 ? NaN : 0)
    },
  })
  assert.is(bad, 4)
})

// ---------------------------------------------------------------------------------------------- the process around it

test('the event loop is free during a long step', async () => {
  const features = featuresOf(8)
  const { trainer, dispose } = makeTrainer({ frames: 8 }, features)
  const many = Array.from({ length: 192 }, (_, i) => samples[i % samples.length]!)
  await trainer.step([samples]) // features and masks are there
  const begin = performance.now()
  const ticks: number[] = []
  const timer = setInterval(() => ticks.push(performance.now()), 5)
  await trainer.step([many])
  const duration = performance.now() - begin
  clearInterval(timer)
  dispose()
  console.log(
    `one step of ${many.length} samples: ${duration.toFixed(0)} ms, a timer of 5 ms fired ${ticks.length} times`,
  )
  assert.ok(duration > 100, `a step of ${duration} ms is not long`)
  // One in twenty would do, since the machine may be busy with other things; a step that blocks lets two or three
  // through.
  assert.ok(ticks.length > duration / 100 && ticks.length >= 5, `${ticks.length} ticks in ${duration} ms`)
})

test('memory after fifty steps is what it was after the first, and at the end what it was at the start', async () => {
  const { trainer, dispose } = makeTrainer()
  const batches = [[samples.slice(0, 4)], [samples.slice(4, 8), uneven()]]
  for (const b of batches) await trainer.step(b)
  const after = await bytes()
  for (let i = 1; i < 50; i++) await trainer.step(batches[i % 2]!)
  assert.is(await bytes(), after)
  dispose()
  assert.is(await bytes(), held)
  model.dispose()
  assert.is(await bytes(), start)
})

test.run()
