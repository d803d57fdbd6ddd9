// What a run saves: it resumes from any save to the bits of a run that was never stopped, other configurations and data
// are refused, a save or a log that fails ends nothing, and the best is chosen as the configuration says.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { openModel, type Model } from '../../lib/session/model.js'
import { train, type StepEvent, type ValidationEvent } from '../../lib/train/loop.js'
import { jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'
import { refusal } from '../support/refusal.js'

let world: World
let model: Model
test.before(async () => {
  world = await makeWorld()
  model = await openModel(world.model)
})
test.after(() => model.dispose())

const at = (...parts: string[]): string => join(world.root, ...parts)
/** All files of tensors in a folder, by name. */
const weightsIn = (folder: string): Map<string, string> =>
  new Map(
    (readdirSync(folder, { recursive: true }) as string[])
      .filter((f) => f.endsWith('.safetensors'))
      .sort()
      .map((f) => [f, readFileSync(join(folder, f)).toString('base64')]),
  )
/** The numbers of a log that do not depend on the machine. */
const entries = (output: string) =>
  jsonLines(join(output, 'metrics.jsonl')).map(
    ({ time, seconds, tokensPerSecond, waited, waiting, ahead, memory, ...rest }) => rest,
  )

// 12 samples, batches of 2, two micro-batches a step: 3 steps an epoch
const small = {
  batch: 2,
  accumulation: 2,
  epochs: 3,
  saveEvery: 1,
  evalEvery: 2,
  keepLast: 20,
  batching: 'length',
  ema: 0.9,
}

test('from every save, also in the middle of an epoch, a run ends with the bits of one that was not stopped', async () => {
  // Rates by group: what they are by default is one number.
  const perGroup = { ...small, lr: { lora: 3e-3, router: 6e-3, position: 3e-3 } }
  const config = trainConfig(world, 'whole', { train: { ...perGroup, schedule: 'linear', warmup: 2 } })
  const seen: ValidationEvent[] = []
  const whole = await train(config, { model, onValidation: (e) => void seen.push(e) })
  assert.equal(
    seen.map((e) => e.step),
    [2, 4, 8],
  )
  assert.equal(readdirSync(config.output).sort(), [
    'best',
    'last',
    'metrics.jsonl',
    ...[1, 2, 3, 4, 5, 6, 7, 8].map((n) => `step-${n}`),
  ])
  const wanted = { last: weightsIn(whole.last), best: weightsIn(whole.best), log: entries(config.output) }
  assert.ok([...wanted.last.keys()].includes('training.safetensors'))
  for (const step of [1, 2, 4, 6, 7]) {
    const output = at(`from-${step}`)
    cpSync(config.output, output, { recursive: true })
    // What a killed process may leave: a lock, a folder that was being written, a line that was cut.
    writeFileSync(join(output, 'run.lock'), '{"pid": 4194304, "host": "elsewhere')
    mkdirSync(join(output, '.last.4194304.0badcafe.tmp'))
    writeFileSync(join(output, '.last.4194304.0badcafe.tmp', 'adapter_model.safetensors'), '')
    appendFileSync(join(output, 'metrics.jsonl'), '{"kind":"step","st')
    const steps: number[] = []
    const resumed = await train(
      { ...config, output },
      { model, resume: `step-${step}`, onStep: (e) => void steps.push(e.step) },
    )
    assert.is(steps[0], step + 1)
    assert.equal(weightsIn(resumed.last), wanted.last, `last from ${step}`)
    assert.equal(weightsIn(resumed.best), wanted.best, `best from ${step}`)
    assert.equal(entries(output), wanted.log, `log from ${step}`)
    assert.equal(
      readdirSync(output).filter((name) => name.startsWith('.') || name.endsWith('.lock')),
      [],
    )
  }
  assert.match(
    await refusal(train(config, { model, resume: 'step-99' })),
    /^--resume: expected a save of \S+, but got "step-99"; there are last, step-8, .*step-1\.$/,
  )
})

test('as many saves are kept as keepLast says, and a damaged one names those that can be used', async () => {
  const config = trainConfig(world, 'kept', {
    train: { ...small, epochs: 1, keepLast: 2, ema: 0 },
    data: { val: undefined },
  })
  await train(config, { model })
  assert.equal(readdirSync(config.output).sort(), ['best', 'last', 'metrics.jsonl', 'step-2'])
  writeFileSync(
    join(config.output, 'last', 'training.safetensors'),
    readFileSync(join(config.output, 'last', 'training.safetensors')).subarray(0, 999),
  )
  assert.match(
    await refusal(train(config, { model, resume: true })),
    /last\/training\.safetensors: .*; earlier saves are step-2: --resume step-2\.$/,
  )
  await train(config, { model, resume: 'step-2' })
})

test('another configuration, other data and another base are refused with the difference; --extend raises epochs', async () => {
  const config = trainConfig(world, 'same', { train: { ...small, epochs: 1, ema: 0 } })
  await train(config, { model })
  const other = (train: object, data: object = {}) =>
    trainConfig(world, 'same', { train: { ...small, epochs: 1, ema: 0, ...train }, data })
  assert.match(
    await refusal(train(other({ lr: 0.01, batching: 'shuffled' }), { model, resume: true })),
    /another configuration: train\.batching was "length" and is now "shuffled", train\.lr was 0\.003 and is now 0\.01; restore it/,
  )
  assert.match(
    await refusal(train(other({ epochs: 2 }), { model, resume: true })),
    /train\.epochs was 1 and is now 2; allow it with --extend, or restore it/,
  )
  const lines = readFileSync(world.train, 'utf8').trim().split('\n')
  const folder = join(world.train, '..')
  const changed = join(folder, 'changed.jsonl')
  const { answer, choices, ...first } = JSON.parse(lines[0]!)
  writeFileSync(changed, [JSON.stringify({ ...first, answer: 'other' }), ...lines.slice(2)].join('\n'))
  assert.match(
    await refusal(train(other({}, { train: changed }), { model, resume: true })),
    /other training samples: "[^"]+" is gone, "[^"]+" says something else; restore the manifest/,
  )
  writeFileSync(changed, [...lines.slice(1), lines[0]].join('\n'))
  assert.match(await refusal(train(other({}, { train: changed }), { model, resume: true })), /in another order/)
  // What changes neither what is learned nor what is chosen may change.
  await train(other({ saveEvery: 0, keepLast: 1, log: ['jsonl', 'csv'] }), { model, resume: true })
  assert.match(await refusal(train(other({ epochs: 2 }), { model, extend: true })), /holds a run already/)
  const extended = await train(other({ epochs: 2 }), { model, resume: true, extend: true })
  assert.is(extended.epochs.length, 2)
  const through = trainConfig(world, 'two', { train: { ...small, epochs: 2, ema: 0 } })
  assert.equal(weightsIn(extended.last), weightsIn((await train(through, { model })).last))
})

test('a run that an earlier version saved resumes', async () => {
  const config = trainConfig(world, 'old', { train: { epochs: 3 } })
  const stop = new AbortController()
  await train(config, { model, signal: stop.signal, onStep: (e) => e.step === 5 && stop.abort() }).catch(() => {})
  const path = join(config.output, 'last', 'training.json')
  const state = JSON.parse(readFileSync(path, 'utf8'))
  const { batching, ema, evalEvery, patience, maxSkipped, ...before } = state.config.train
  const { epoch, position, loss, tokens, step, bad, epochs } = state.progress
  const old = {
    train: before,
    adapter: state.config.adapter,
    sampling: state.config.sampling,
    samples: state.data.training.map(([id]: string[]) => id),
  }
  const { configHash } = await import('../../lib/train/state.js')
  const { data, ...rest } = state
  writeFileSync(
    path,
    JSON.stringify({
      ...rest,
      version: 1,
      config: old,
      configHash: configHash(old),
      progress: { epoch, position, loss, tokens, step, bad, epochs },
    }),
  )
  const resumed = await train(config, { model, resume: true })
  const through = await train(trainConfig(world, 'new', { train: { epochs: 3 } }), { model })
  assert.equal(weightsIn(resumed.last), weightsIn(through.last))
  assert.equal(weightsIn(resumed.best), weightsIn(through.best))
})

test('a save that fails is said once, the run goes on, and the next save point writes all', async () => {
  const config = trainConfig(world, 'full', { train: { ...small, epochs: 3, keepLast: 1 }, data: { val: undefined } })
  const notices: string[] = []
  const blocked = join(config.output, 'last')
  const result = await train(config, {
    model,
    onNotice: (sentence) => void notices.push(sentence),
    onStep: ({ step }) => {
      if (step === 3) {
        renameSync(blocked, at('aside'))
        mkdirSync(blocked)
        writeFileSync(join(blocked, 'thesis.txt'), 'mine')
      }
      if (step === 6) rmSync(blocked, { recursive: true })
    },
  })
  assert.is(notices.length, 2, notices.join('\n'))
  assert.match(notices[0]!, /last: expected a saved adapter.*; training goes on, and the next save point tries again/)
  assert.match(notices[1]!, /last: saved again/)
  const through = trainConfig(world, 'free', { train: { ...small, epochs: 3, keepLast: 1 }, data: { val: undefined } })
  const free = await train(through, { model })
  for (const name of ['last', 'best'] as const) assert.equal(weightsIn(result[name]), weightsIn(free[name]), name)
})

test('a run whose last save fails says so at the end, and keeps what was there', async () => {
  const config = trainConfig(world, 'lost', { train: { ...small, epochs: 1 }, data: { val: undefined } })
  const notices: string[] = []
  const message = await refusal(
    train(config, {
      model,
      onNotice: (sentence) => void notices.push(sentence),
      onStep: ({ step }) => {
        if (step !== 2) return
        rmSync(join(config.output, 'last'), { recursive: true })
        writeFileSync(join(config.output, 'last'), 'a file')
      },
    }),
  )
  assert.match(message, /last/)
  assert.is(notices.length, 1)
  assert.is(readFileSync(join(config.output, 'last'), 'utf8'), 'a file')
})

test('two runs in one folder: the second is refused', async () => {
  const config = trainConfig(world, 'twice', { train: { epochs: 1 }, data: { val: undefined } })
  let second: Promise<string> | undefined
  await train(config, { model, onStep: () => void (second ??= refusal(train(config, { model, resume: true }))) })
  assert.match(await second!, new RegExp(`^output: \\S+twice is in use by process ${process.pid} on `))
  assert.not.ok(existsSync(join(config.output, 'run.lock')))
})

test('training ends after patience validations without a new best, by the metric that is named', async () => {
  const config = trainConfig(world, 'patient', { train: { epochs: 40, metric: 'valLoss', patience: 2, lr: 0.05 } })
  const result = await train(config, { model })
  const losses = result.epochs.map((e) => e.valLoss!)
  const best = losses.indexOf(Math.min(...losses))
  assert.ok(result.early && losses.length < 40, `${losses}`)
  assert.is(losses.length, best + 3)
  assert.ok(result.epochs[best]!.best)
  assert.equal((await train(config, { model, resume: true })).epochs, result.epochs)
  assert.match(
    await refusal(
      Promise.resolve().then(() =>
        trainConfig(world, 'no', { train: { metric: 'accuracy' }, data: { val: undefined } }),
      ),
    ),
    /train\.metric: expected loss, since data\.val is not given, but got "accuracy"/,
  )
})

test('clips that cannot be used are left out, named and counted, up to maxSkipped', async () => {
  writeFileSync(at('noise.mp4'), 'this is no video')
  const lines = jsonLines(world.train).map(
    (l): Record<string, any> => ({ ...l, video: join(world.train, '..', l.video) }),
  )
  lines[3]!.video = at('noise.mp4')
  writeFileSync(at('bad.jsonl'), lines.map((l) => JSON.stringify(l)).join('\n'))
  const config = (name: string, maxSkipped: number) =>
    trainConfig(world, name, {
      train: { epochs: 2, maxSkipped, saveEvery: 1 },
      data: { train: at('bad.jsonl'), val: undefined },
    })
  const notices: string[] = []
  const steps: StepEvent[] = []
  const stop = new AbortController()
  const events = { model, onNotice: (s: string) => void notices.push(s), onStep: (e: StepEvent) => void steps.push(e) }
  await train(config('skips', 1), {
    ...events,
    signal: stop.signal,
    onFeatures: () => {},
    onStep: (e) => (steps.push(e), e.step === 2 && stop.abort()),
  }).catch(() => {})
  const result = await train(config('skips', 1), { ...events, resume: true })
  assert.equal(result.skipped, [lines[3]!.id])
  assert.is(notices.length, 1)
  assert.match(notices[0]!, new RegExp(`^sample "${lines[3]!.id}" is left out: .*noise\\.mp4`))
  assert.ok(
    steps.every((s) => s.steps === 6),
    '11 samples in batches of 4',
  )
  assert.match(await refusal(train(config('refused', 0), events)), /noise\.mp4/)
  writeFileSync(at('noise.mp4'), 'neither is this')
  lines[4]!.video = at('noise.mp4')
  writeFileSync(at('bad.jsonl'), lines.map((l) => JSON.stringify(l)).join('\n'))
  assert.match(
    await refusal(train(config('more', 1), events)),
    /^data: 1 of \d+ clips cannot be used, so 2 samples would be left out, and train\.maxSkipped is 1: /,
  )
})

test.run()
