// The loader: features of the steps to come are computed while a step runs, in bounded memory, and nothing that a run
// learns depends on it; clips that turn out to be damaged are left out at their turn, and whatever ends a run ends it.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import { Features } from '../../lib/session/features.js'
import { NotFiniteError } from '../../lib/session/finite.js'
import { openModel, type Model } from '../../lib/session/model.js'
import { train, type StepEvent, type TrainOptions } from '../../lib/train/loop.js'
import { Loader } from '../../lib/session/loader.js'
import { bytes, settled } from '../support/memory.js'
import { jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

let world: World
let model: Model
let samples: Sample[]
let held: number
test.before(async () => {
  world = await makeWorld()
  model = await openModel(world.model)
  samples = await readManifest(world.train)
  held = await settled()
})
test.after(() => model.dispose())

const at = (...parts: string[]): string => join(world.root, ...parts)
const failure = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => assert.unreachable('nothing was thrown') as never,
    (error: Error) => error,
  )
const weightsIn = (folder: string): string[] =>
  (readdirSync(folder, { recursive: true }) as string[])
    .filter((f) => f.endsWith('.safetensors'))
    .sort()
    .map((f) => `${f} ${readFileSync(join(folder, f)).toString('base64')}`)

// ---------------------------------------------------------------------------------------------------------- the loader

/** Features whose clips arrive when the test says so. */
class Slow extends Features {
  readonly begun: string[] = []
  readonly released: string[] = []
  readonly #waiting = new Map<string, { arrive(): void; fail(error: Error): void }>()
  constructor() {
    super(model.checkpoint, { frames: 2, sampling: { kind: 'uniform' } })
  }
  override hold({ id = '' }: { id?: string }, signal?: AbortSignal): Promise<() => void> {
    this.begun.push(id)
    return new Promise((resolve, reject) => {
      signal?.addEventListener('abort', () => reject(signal.reason as Error))
      this.#waiting.set(id, { arrive: () => resolve(() => void this.released.push(id)), fail: reject })
    })
  }
  /** Lets clips arrive. */
  async arrive(...ids: string[]): Promise<void> {
    await new Promise(setImmediate) // what begins, has begun
    for (const id of ids) this.#waiting.get(id)!.arrive()
    await new Promise(setImmediate)
  }
  /** Lets all clips arrive, those included that begin for that. */
  async arriveAll(): Promise<void> {
    await new Promise(setImmediate)
    for (let i = 0; i < this.begun.length; i++) await this.arrive(this.begun[i]!)
  }
  async fail(id: string, error: Error): Promise<void> {
    await new Promise(setImmediate)
    this.#waiting.get(id)!.fail(error)
    await new Promise(setImmediate)
  }
}
const sample = (id: string, video = `${id}.mp4`): Sample => ({ id, video, prompt: 'p', answer: 'a' })
const groups = (...names: string[]): Sample[][] => names.map((group) => [...group].map((id) => sample(id)))
const settledNow = async (promise: Promise<unknown>): Promise<boolean> => {
  let done = false
  void promise.then(
    () => (done = true),
    () => (done = true),
  )
  await new Promise(setImmediate)
  return done
}

test('clips begin in order, go on while nobody asks, and no more are held than there is room for', async () => {
  const slow = new Slow()
  const loader = new Loader(slow, groups('ab', 'cd', 'ef', 'gh'), { bytes: 3 * slow.clipBytes })
  const first = loader.next()
  await slow.arriveAll()
  assert.equal(slow.begun, [...'abcde'], 'two that are waited for, three ahead, and there is no more room')
  assert.equal([...(await first).lost], [])
  assert.is(loader.arrived, 5)
  const second = await loader.next()
  assert.equal([...second.lost], [])
  assert.equal(slow.released, [...'ab'])
  await slow.arriveAll()
  assert.equal(slow.begun, [...'abcdefg'])
  await loader.stop()
  assert.equal([...slow.released].sort(), [...'abcdefg'], 'all are let go')
})

test('without room nothing is read before it is asked for', async () => {
  const slow = new Slow()
  const loader = new Loader(slow, groups('a', 'b'), { bytes: 0 })
  const first = loader.next()
  await slow.arrive('a')
  await first
  assert.equal(slow.begun, ['a'])
  const second = loader.next()
  await slow.arrive('b')
  await second
  assert.equal(slow.begun, ['a', 'b'])
  await loader.stop()
})

test('an error ahead of its group is kept until that is asked for, and a clip is not read twice', async () => {
  const slow = new Slow()
  const same = sample('z', 'b.mp4')
  const loader = new Loader(slow, [[sample('a')], [sample('b')], [sample('c'), same]])
  const first = loader.next()
  const broken = new InputError('b.mp4 is damaged.')
  await slow.fail('b', broken)
  await slow.arrive('a')
  assert.equal([...(await first).lost], [])
  assert.equal(
    [...(await loader.next()).lost].map(([{ id }, error]) => [id, error]),
    [['b', broken]],
  )
  await slow.arrive('c')
  assert.equal(
    [...(await loader.next()).lost].map(([{ id }, error]) => [id, error]),
    [['z', broken]],
  )
  assert.not.ok(slow.begun.includes('z'))
  await loader.stop()
})

test('an error that is no clip’s own ends it at its turn; a signal ends the waiting; a stop leaves nothing behind', async () => {
  for (const error of [new TypeError('x is not a function'), new NotFiniteError('the features are not finite.')]) {
    const slow = new Slow()
    const loader = new Loader(slow, groups('a', 'b'))
    const first = loader.next()
    await slow.fail('b', error)
    await slow.arrive('a')
    await first
    assert.is(await failure(loader.next()), error)
    await loader.stop()
  }
  const slow = new Slow()
  const stop = new AbortController()
  const loader = new Loader(slow, groups('abcdefgh', 'ijklmnop'), { signal: stop.signal })
  const first = loader.next()
  assert.not.ok(await settledNow(first))
  stop.abort(new Error('enough'))
  assert.is((await failure(first)).message, 'enough')
  const { length } = slow.begun
  await loader.stop()
  assert.is(slow.begun.length, length, 'nothing is begun after it')
})

// ------------------------------------------------------------------------------------------------------------ the runs

test('features of new clips are computed while steps run, and the bits are those of a run without', async () => {
  const run = async (name: string, cache: string, ahead?: number) => {
    const steps: StepEvent[] = []
    const config = trainConfig(world, name, { train: { batch: 1 }, data: { cache: at(cache) } })
    const { last } = await train(config, { model, ahead, onStep: (e) => void steps.push(e) })
    assert.ok(steps.every(({ waiting }) => waiting >= 0 && waiting <= 1))
    return { weights: weightsIn(last), ahead: steps.reduce((sum, s) => sum + s.ahead, 0), output: config.output }
  }
  const alone = await run('alone', 'cold-a', 0)
  assert.is(alone.ahead, 0)
  const ahead = await run('ahead', 'cold-b')
  assert.ok(ahead.ahead > 0, 'none of the features arrived during a step')
  assert.equal(ahead.weights, alone.weights)
  const warm = await run('warm', 'cold-b')
  assert.equal(warm.weights, alone.weights)
  assert.ok(warm.ahead > 0)
  const epochs = jsonLines(join(warm.output, 'metrics.jsonl')).filter(({ kind }) => kind === 'epoch')
  assert.ok(epochs.every(({ waiting }) => waiting >= 0 && waiting <= 1))
  assert.is(await bytes(), held)
})

/**
 * A set whose clip of two samples, the fifth and the sixth, can be opened but not read: a folder of images of which one
 * is none.
 */
async function damaged(name: string): Promise<{ path: string; ids: string[] }> {
  const { default: sharp } = await import('sharp')
  mkdirSync(at(name))
  for (let i = 0; i < 6; i++)
    await sharp({ create: { width: 21, height: 21, channels: 3, background: { r: 30 * i, g: 0, b: 90 } } })
      .png()
      .toFile(at(name, `${i}.png`))
  writeFileSync(at(name, '3.png'), 'this is no picture')
  const lines = samples.map(({ ...rest }): Record<string, unknown> => rest)
  for (const i of [4, 5]) lines[i] = { ...lines[i], video: at(name), fps: 6, start: undefined, end: undefined }
  const path = at(`${name}.jsonl`)
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
  return { path, ids: [samples[4]!.id, samples[5]!.id] }
}

test('a clip that turns out to be damaged is left out at its turn, named once, counted, and resumes to the bit', async () => {
  const { path, ids } = await damaged('torn')
  const config = (name: string) =>
    trainConfig(world, name, { train: { batch: 2, maxSkipped: 2, saveEvery: 1 }, data: { train: path } })
  const run = async (name: string, options: TrainOptions = {}) => {
    const notices: string[] = []
    const steps: StepEvent[] = []
    const result = await train(config(name), {
      model,
      onNotice: (sentence) => void notices.push(sentence),
      ...options,
      onStep: (e) => (steps.push(e), options.onStep?.(e)),
    }).catch((error: Error) => error)
    return { result, notices, steps }
  }
  const whole = await run('torn-whole')
  assert.not.instance(whole.result, Error)
  if (whole.result instanceof Error) return
  assert.equal([...whole.result.skipped].sort(), [...ids].sort())
  assert.is(whole.notices.length, 2)
  for (const [i, id] of ids.entries())
    assert.match(whole.notices[i]!, new RegExp(`^sample "${id}" is left out: .*torn.*3\\.png`))
  assert.equal(
    [whole.steps.length, new Set(whole.steps.map(({ steps }) => steps)).size],
    [12, 1],
    'batches are smaller, not fewer',
  )
  const single = await run('torn-single', { ahead: 0 })
  assert.equal(weightsIn(config('torn-single').output), weightsIn(config('torn-whole').output))
  assert.equal(single.notices, whole.notices)
  for (const stopAt of [1, 7]) {
    const stop = new AbortController()
    const name = `torn-${stopAt}`
    const before = await run(name, { signal: stop.signal, onStep: (e) => e.step === stopAt && stop.abort() })
    const after = await run(name, { resume: true })
    assert.equal([...before.notices, ...after.notices].sort(), [...whole.notices].sort(), 'said once')
    assert.equal(
      weightsIn(join(config(name).output, 'last')),
      weightsIn(join(config('torn-whole').output, 'last')),
      `stopped after step ${stopAt}`,
    )
  }
  assert.is(await bytes(), held)
})

test('more damaged clips than may be left out end the run with what was learned; it resumes with more', async () => {
  const { path } = await damaged('ruined')
  const config = (maxSkipped: number) =>
    trainConfig(world, 'ruined-run', { train: { batch: 1, maxSkipped }, data: { train: path } })
  const { message } = await failure(train(config(1), { model, onNotice: () => {} }))
  assert.match(
    message,
    /^\S+ruined\.jsonl, line [56], sample "[^"]+": .*3\.png.*; without it 2 samples would be left out, and train\.maxSkipped is 1: repair the clip or allow more .*; what was learned in \d+ steps is in \S+last, and --resume goes on from there\.$/,
  )
  const { skipped } = await train(config(2), { model, resume: true, onNotice: () => {} })
  assert.is(skipped.length, 2)
  // The same in the samples of a validation.
  const validated = trainConfig(world, 'ruined-validation', { train: { maxSkipped: 2 }, data: { val: path } })
  const notices: string[] = []
  const result = await train(validated, { model, onNotice: (sentence) => void notices.push(sentence) })
  assert.is(result.skipped.length, 2)
  assert.is(notices.length, 2)
  const epochs = jsonLines(join(validated.output, 'metrics.jsonl')).filter(({ kind }) => kind === 'epoch')
  assert.ok(
    epochs.length === 2 && epochs.every(({ accuracy }) => Math.abs(accuracy * 10 - Math.round(accuracy * 10)) < 1e-9),
    'of ten',
  )
  assert.is(await bytes(), held)
})

test('a stop and an error in the middle end the reading ahead, and memory returns', async () => {
  for (const [name, reason] of [
    ['interrupted', undefined],
    ['thrown', new TypeError('x is not a function')],
  ] as const) {
    const stop = new AbortController()
    const config = trainConfig(world, `ended-${name}`, { train: { batch: 1 }, data: { cache: at(`cold-${name}`) } })
    const error = await failure(
      train(config, {
        model,
        signal: stop.signal,
        onStep: () => {
          if (reason) throw reason
          stop.abort(new Error('enough'))
        },
      }),
    )
    assert.is(error.message, reason?.message ?? 'enough')
    const files = () => (readdirSync(at(`cold-${name}`), { recursive: true }) as string[]).length
    const before = files()
    await new Promise((resolve) => setTimeout(resolve, 20))
    assert.is(files(), before, 'nothing is computed any more')
    assert.is(await bytes(), held)
    await train(config, { model, resume: true })
    assert.equal(
      weightsIn(join(config.output, 'last')),
      weightsIn(at('alone', 'last')),
      'the bits of a run that nothing happened to',
    )
  }
})

// ------------------------------------------------------------------------------------------------------ the features

test('what is held stays in memory whatever its limit, and no longer', async () => {
  const features = new Features(model.checkpoint, { frames: 2, sampling: { kind: 'uniform' }, memory: 0 })
  const [one, other] = [at('held'), samples[0]!.video]
  cpSync(samples[2]!.video, one, { recursive: true })
  const [release, again] = [await features.hold({ video: one, fps: samples[2]!.fps }), features.hold({ video: other })]
  const second = await again
  const data = await features.of({ video: one, fps: samples[2]!.fps })
  rmSync(one, { recursive: true })
  assert.is(await features.of({ video: one, fps: samples[2]!.fps }), data)
  release()
  second()
  await features.of({ video: samples[4]!.video })
  assert.instance(await failure(features.of({ video: one, fps: samples[2]!.fps })), InputError)
})

test.run()
