// Several ranks compute one run: they learn what one rank learns, to the bit in each rerun, and what ends one of them
// ends all. First within this process, then under mpirun.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { InputError } from '../../lib/errors.js'
import { readManifest } from '../../lib/data/manifest.js'
import { predictSamples, type Prediction, type Unpredicted } from '../../lib/eval/evaluate.js'
import { localTransports } from '../../lib/ranks/local.js'
import { RankError, Ranks, RankStopped } from '../../lib/ranks/ranks.js'
import { Features } from '../../lib/session/features.js'
import { openModel, type Model } from '../../lib/session/model.js'
import type { TrainConfig } from '../../lib/train/config.js'
import { train, type StepEvent, type TrainOptions, type TrainResult } from '../../lib/train/loop.js'
import { cli, start, type Ended } from '../support/cli.js'
import { launcher, mpirun, ranksOf, startJob } from '../support/mpi.js'
import { configOf, jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

let world: World
let model: Model
test.before(async () => {
  world = await makeWorld()
  model = await openModel(world.model)
})
test.after(() => model.dispose())

const at = (...parts: string[]): string => join(world.root, ...parts)

/** Trains by `n` ranks of this process; `options` may differ by rank. */
function together(
  n: number,
  config: TrainConfig | ((rank: number) => TrainConfig),
  options: TrainOptions | ((rank: number) => TrainOptions) = {},
): Promise<PromiseSettledResult<TrainResult>[]> {
  const of = <T>(value: T | ((rank: number) => T), rank: number): T =>
    typeof value === 'function' ? (value as (rank: number) => T)(rank) : value
  const runs = localTransports(n).map((transport, rank) => {
    const ranks = new Ranks(transport)
    return train(of(config, rank), { model, onNotice: () => {}, ...of(options, rank), ranks }).finally(() =>
      ranks.close(),
    )
  })
  return Promise.allSettled(runs)
}

async function done(all: Promise<PromiseSettledResult<TrainResult>[]>): Promise<TrainResult> {
  const results = await all
  for (const r of results) if (r.status === 'rejected') throw r.reason
  return (results[0] as PromiseFulfilledResult<TrainResult>).value
}

/** The errors of all ranks. */
const errors = (results: readonly PromiseSettledResult<unknown>[]): Error[] =>
  results.map((r) => {
    assert.is(r.status, 'rejected')
    return (r as PromiseRejectedResult).reason as Error
  })

/** A hash of the tensors of a run's last and best adapter, moments included. */
function bits(output: string): string {
  const hash = createHash('sha256')
  for (const name of ['last', 'best'])
    for (const file of (readdirSync(join(output, name), { recursive: true }) as string[]).sort())
      if (file.endsWith('.safetensors')) hash.update(file).update(readFileSync(join(output, name, file)))
  return hash.digest('hex')
}

/** Losses of the steps that a run's log has. */
const losses = (output: string): number[] =>
  jsonLines(join(output, 'metrics.jsonl'))
    .filter((e) => e.kind === 'step')
    .map((e) => e.loss as number)

// Batches of 4 and one of 3, in two micro-batches; validation; all that is saved.
const settings = {
  train: { batch: 2, accumulation: 2, epochs: 3, saveEvery: 1, evalEvery: 2, ema: 0.9, metric: 'valLoss', clip: 1 },
}

test('two ranks learn what one learns: 50 steps, each loss to 1e-6', async () => {
  const long = { train: { batch: 4, epochs: 17, lr: 1e-3 }, data: { val: undefined } }
  const [one, two] = [trainConfig(world, 'one', long), trainConfig(world, 'two', long)]
  await train(one, { model })
  await done(together(2, two))
  const [a, b] = [losses(one.output), losses(two.output)]
  assert.is(a.length, 51)
  assert.is(b.length, 51)
  const worst = Math.max(...a.map((loss, i) => Math.abs(loss - b[i]!) / loss))
  assert.ok(worst > 0 && worst < 1e-6, `the losses differ by ${worst}`)
  assert.ok(a.at(-1)! < a[0]!)
})

test('a run of one rank is that of a process without ranks, to the bit', async () => {
  const [plain, alone] = [trainConfig(world, 'plain', settings), trainConfig(world, 'alone', settings)]
  await train(plain, { model })
  await done(together(1, alone))
  assert.is(bits(alone.output), bits(plain.output))
})

test('the same bits in a rerun by as many ranks, and by ranks that resumed', async () => {
  const configs = ['first', 'again', 'resumed'].map((name) => trainConfig(world, name, settings))
  const [first, again, resumed] = configs as [TrainConfig, TrainConfig, TrainConfig]
  const result = await done(together(3, { ...first, train: { ...first.train, batch: 3 } }))
  await done(together(3, { ...again, train: { ...again.train, batch: 3 } }))
  assert.is(bits(again.output), bits(first.output))
  assert.is(result.epochs.length, 3)
  assert.type(result.epochs[0]!.valLoss, 'number')
  // Stopped on a rank that is not the first, then resumed.
  const stop = new AbortController()
  const stopped = { ...resumed, train: { ...resumed.train, batch: 3 } }
  const results = await together(3, stopped, (rank) => ({
    onStep: ({ step }: StepEvent) => void (rank === 2 && step === 3 && stop.abort(new Error('enough'))),
    ...(rank === 2 && { signal: stop.signal }),
  }))
  const [zero, one, two] = errors(results)
  assert.instance(zero, RankStopped)
  assert.instance(one, RankStopped)
  assert.is(two!.message, 'enough')
  const state = JSON.parse(readFileSync(join(stopped.output, 'last', 'training.json'), 'utf8'))
  assert.is(state.progress.step, 3)
  await done(together(3, stopped, { resume: true }))
  assert.is(bits(stopped.output), bits(first.output))
})

test('another number of ranks resumes with rescale alone', async () => {
  const short = trainConfig(world, 'scaled', { train: { epochs: 1 } })
  const longer = trainConfig(world, 'scaled', { train: { epochs: 2 } })
  await done(together(2, short))
  const [error] = errors(await together(3, longer, { resume: true, extend: true }))
  assert.match(
    error!.message,
    /the saved run had another configuration: ranks was 2 and is now 3; gradients are then added in another order, which --rescale allows; or restore it/,
  )
  const one = await train(longer, { model, resume: true, extend: true }).catch((e: Error) => e)
  assert.match((one as Error).message, /ranks was 2 and is now 1/)
  const rest = await done(together(3, longer, { resume: true, extend: true, rescale: true }))
  assert.is(rest.epochs.length, 2)
  assert.is((await train(trainConfig(world, 'no', {}), { model, rescale: true }).catch((e) => e)).name, 'InputError')
})

test('ranks with other configurations or manifests are refused before the first step', async () => {
  const [zero] = errors(
    await together(2, (rank) => trainConfig(world, 'unequal', { train: { lr: rank ? 1e-3 : 2e-3 } })),
  )
  assert.match(
    zero!.message,
    /^configuration: rank 1 has [0-9a-f]{16}, but rank 0 has [0-9a-f]{16}; every rank has to read the same files/,
  )
  const lines = jsonLines(world.train).map(
    (l): Record<string, any> => ({ ...l, video: join(world.train, '..', l.video) }),
  )
  lines[0]!.prompt += ' Look twice.'
  writeFileSync(at('other.jsonl'), lines.map((l) => JSON.stringify(l)).join('\n'))
  for (const error of errors(
    await together(2, (rank) => trainConfig(world, 'unequal', rank ? { data: { train: at('other.jsonl') } } : {})),
  ))
    assert.match(error.message, /^data\.train: rank 1 has/)
  assert.not.ok(existsSync(at('unequal', 'last')))
})

test('more ranks than a batch has samples are refused', async () => {
  for (const error of errors(await together(3, trainConfig(world, 'many', { train: { batch: 2 } }))))
    assert.is(
      error.message,
      'train.batch: expected at least a sample for each of 3 ranks, but got 2; start at most 2 ranks, or raise train.batch.',
    )
})

test('what one rank cannot go on with ends all with its sentence, and the first saves', async () => {
  const config = trainConfig(world, 'fails', settings)
  const results = await together(2, config, (rank) => ({
    onStep: ({ step }: StepEvent) => {
      if (rank === 1 && step === 2) throw new InputError('the disk of this rank is full.')
    },
  }))
  const [zero, one] = errors(results)
  assert.instance(zero, InputError)
  assert.match(zero!.message, /^rank 1: the disk of this rank is full; what was learned in \d steps is in \S+last, and/)
  assert.is(one!.message, 'the disk of this rank is full.')
  assert.is(JSON.parse(readFileSync(join(config.output, 'last', 'training.json'), 'utf8')).progress.step, 2)
})

test('a clip that cannot be used is left out by all ranks', async () => {
  writeFileSync(at('noise.mp4'), 'this is no video')
  const lines = jsonLines(world.train).map(
    (l): Record<string, any> => ({ ...l, video: join(world.train, '..', l.video) }),
  )
  lines[3]!.video = at('noise.mp4')
  writeFileSync(at('bad.jsonl'), lines.map((l) => JSON.stringify(l)).join('\n'))
  const notices: string[] = []
  const config = trainConfig(world, 'skips', {
    train: { maxSkipped: 1 },
    data: { train: at('bad.jsonl'), val: undefined },
  })
  const result = await done(together(2, config, { onNotice: (s) => void notices.push(s) }))
  assert.equal(result.skipped, [lines[3]!.id])
  assert.is(notices.length, 1, notices.join('\n'))
  const refused = trainConfig(world, 'refused', { data: { train: at('bad.jsonl') } })
  for (const error of errors(await together(2, refused))) assert.match(error.message, /noise\.mp4/)
})

test('two ranks predict what one predicts, each a share', async () => {
  const samples = [...(await readManifest(world.train)), ...(await readManifest(world.val))]
  samples[4] = { ...samples[4]!, video: at('noise.mp4') }
  const predicted = async (ranks: Ranks): Promise<{ lines: (Prediction | Unpredicted)[]; computed: number }> => {
    const features = new Features(model.checkpoint, { frames: 2, sampling: { kind: 'uniform' } })
    const lines: (Prediction | Unpredicted)[] = []
    let computed = 0
    const { of } = features
    features.of = (...args) => (computed++, of.apply(features, args))
    const options = { ranks, batch: 3, maxTokens: 4, onUnpredicted: (line: Unpredicted) => void lines.push(line) }
    for await (const p of predictSamples(model.checkpoint, features, samples, options)) lines.push(p)
    return { lines: lines.sort((a, b) => (a.id < b.id ? -1 : 1)), computed }
  }
  const one = await predicted(new Ranks())
  const [zero, other] = await Promise.all(localTransports(2).map((t) => predicted(new Ranks(t))))
  const said = (lines: readonly (Prediction | Unpredicted)[]) =>
    lines.map((l) => ('error' in l ? [l.id, l.error] : [l.id, l.prediction]))
  assert.is(one.lines.length, samples.length)
  assert.is(one.lines.filter((l) => 'error' in l).length, 1)
  assert.equal(said(zero!.lines), said(one.lines))
  assert.equal(other!.lines, zero!.lines)
  assert.is(zero!.computed + other!.computed, one.computed)
})

test('ranks: numbers are added in rank order, to the bit, and each rank gets all sums', async () => {
  for (const [n, length] of [
    [2, 7],
    [3, 1],
    [5, 64],
  ] as const) {
    const parts = Array.from({ length: n }, (_, r) =>
      Float32Array.from({ length }, (_, i) => Math.sin(7 * i + 13 * r + 1) * 10 ** ((5 * i + 3 * r) % 7)),
    )
    const added = (all: readonly Float32Array[]): Float32Array => all.reduce((a, b) => a.map((x, i) => x + b[i]!))
    const sums = await Promise.all(localTransports(n).map((t, r) => new Ranks(t).sum(parts[r]!)))
    for (const sum of sums) assert.equal(sum, added(parts))
    if (length > 9) assert.not.equal(added([...parts].reverse()), added(parts), 'the order makes a difference')
  }
  const [a, b] = localTransports(2).map((t) => new Ranks(t))
  for (const error of errors(await Promise.allSettled([a!.sum(new Float32Array(3)), b!.sum(new Float32Array(4))])))
    assert.is(error.message, 'the ranks add different numbers of elements: 3, 4')
})

test('ranks: an exchange that one rank enters differently says so on all', async () => {
  const [a, b] = localTransports(2).map((t) => new Ranks(t))
  const all = errors(await Promise.allSettled([a!.gather(1), b!.fromFirst(new Uint8Array(3))]))
  for (const error of all) assert.match(error.message, /not at the same place: rank 0 would gather, rank 1 would broad/)
  assert.ok(a!.broken && b!.broken)
  const [c, d] = localTransports(2).map((t) => new Ranks(t))
  const both = Promise.allSettled([c!.close(), d!.failed(new InputError('no')).then(() => d!.close())])
  const [first, second] = await both
  assert.instance((first as PromiseRejectedResult).reason, RankError)
  assert.is((first as PromiseRejectedResult).reason.message, 'rank 1: no')
  assert.is(second!.status, 'fulfilled')
})

// ---- under mpirun

/** A configuration file. */
function file(name: string, more: Parameters<typeof configOf>[2]): { path: string; output: string } {
  const path = at(`${name}.json`)
  writeFileSync(path, JSON.stringify(configOf(world, name, more)))
  return { path, output: at(name) }
}
const command = (path: string, ...more: string[]): string[] => ['train', path, '--device', 'cpu', ...more]
const mpi = ['--parallel', 'mpi']

/** Waits until a run's log has so many lines. */
async function logged(output: string, lines: number): Promise<void> {
  const log = join(output, 'metrics.jsonl')
  for (let i = 0; i < 1200; i++) {
    if (existsSync(log) && readFileSync(log, 'utf8').split('\n').length > lines) return
    await sleep(25)
  }
  throw new Error(`${log} did not get ${lines} lines`)
}

/** Whether a process is there and has not ended. */
const lives = (pid: number): boolean => {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

const under = mpirun ? test : test.skip
if (!mpirun)
  console.log('SKIP: there is no mpirun of Open MPI here (apt-get install openmpi-bin), so nothing runs under it')

under('mpirun: two processes learn the bits of two ranks in one process', async () => {
  const within = trainConfig(world, 'within', settings)
  await done(together(2, within))
  const { path, output } = file('processes', settings)
  const { code, out, err } = await startJob(ranksOf(2, ...command(path, ...mpi))).ended
  assert.is(code, 0, `${out}${err}`)
  assert.is(bits(output), bits(within.output))
  assert.is(out.match(/best adapter:/g)?.length, 1, 'the first rank alone prints')
})

const endless = { train: { epochs: 400, saveEvery: 1 }, data: { val: undefined } }

under('mpirun: a killed rank ends all, SIGUSR2 saves once, and both resume to the bits of a whole run', async () => {
  const killed = file('killed', endless)
  const job = startJob(ranksOf(2, ...command(killed.path, ...mpi)))
  await logged(killed.output, 4)
  const pids = [job.pid(0), job.pid(1)]
  process.kill(pids[1]!, 'SIGKILL')
  const { code, err } = await job.ended
  assert.is.not(code, 0)
  assert.match(err, /rank 1 .*signal 9 \(Killed\)/)
  // mpirun ends a moment before the last of its processes.
  for (let i = 0; i < 200 && pids.some(lives); i++) await sleep(25)
  assert.not.ok(pids.some(lives), 'a rank is left')
  const saved = JSON.parse(readFileSync(join(killed.output, 'last', 'training.json'), 'utf8'))

  const stopped = file('stopped', endless)
  const second = startJob(ranksOf(2, ...command(stopped.path, ...mpi)))
  await logged(stopped.output, 4)
  second.process.kill('SIGUSR2') // which mpirun passes on at once
  const ended = await second.ended
  assert.is(ended.code, 140)
  assert.is(ended.err.match(/stopping after this step and saving/g)?.length, 1, ended.err)
  const state = JSON.parse(readFileSync(join(stopped.output, 'last', 'training.json'), 'utf8'))
  const steps = jsonLines(join(stopped.output, 'metrics.jsonl')).filter((l) => l.kind === 'step').length
  assert.is(state.progress.step, steps, 'the last step is saved')

  // Both go on within this process until the later one's step.
  const until = Math.max(saved.progress.step, state.progress.step) + 2
  const reached = async (config: TrainConfig, options: TrainOptions): Promise<string> => {
    const stop = new AbortController()
    await together(2, config, (rank) => ({
      ...options,
      signal: stop.signal,
      onStep: ({ step }) => void (rank === 0 && step === until && stop.abort(new Error('enough'))),
    }))
    assert.is(JSON.parse(readFileSync(join(config.output, 'last', 'training.json'), 'utf8')).progress.step, until)
    return createHash('sha256')
      .update(readFileSync(join(config.output, 'last', 'training.safetensors')))
      .digest('hex')
  }
  const wanted = await reached(trainConfig(world, 'through', endless), {})
  assert.is(await reached(trainConfig(world, 'killed', endless), { resume: true }), wanted)
  assert.is(await reached(trainConfig(world, 'stopped', endless), { resume: true }), wanted)
})

/** A file system of a few MiB at `name` while `act` runs, which is given what fills it; false where none can be mounted. */
async function onSmallDisk(name: string, act: (fill: () => void) => Promise<void>): Promise<boolean> {
  mkdirSync(at(name))
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'none', at(name)]).status !== 0) return false
  try {
    await act(() => {
      try {
        for (const block = Buffer.alloc(4096); ; ) writeFileSync(at(name, 'ballast'), block, { flag: 'a' })
      } catch {
        // It is full.
      }
    })
  } finally {
    execFileSync('umount', [at(name)])
  }
  return true
}

under('mpirun: a rank whose disk is full', async () => {
  const all = { train: { epochs: 2 }, data: { val: undefined } }
  const mounted = await onSmallDisk('disk', async (fill) => {
    // That of the other rank, with its cache: what it computed can be used, and it says so once.
    fill()
    const [a, b] = [file('free', all), file('full', { ...all, data: { ...all.data, cache: at('disk') } })]
    const other = ranksOf(1, ...command(b.path, '--output', a.output, ...mpi))
    const { code, err } = await startJob([...ranksOf(1, ...command(a.path, ...mpi)), ':', ...other]).ended
    assert.is(code, 0, err)
    const said =
      /mtransllama: rank 1: \S+disk\/\S+: cannot be written: the disk is full \(ENOSPC\); .* are computed again\./g
    assert.is(err.match(said)?.length, 1, err)
    await done(together(2, trainConfig(world, 'roomy', all)))
    assert.is(bits(a.output), bits(at('roomy')))
    rmSync(at('disk', 'ballast'))

    // That of the first, with the run: all end where the last save fails, and the one before can be resumed.
    const config = (epochs: number) => ({ train: { epochs, saveEvery: 1 }, data: { val: undefined } })
    const run = file(join('disk', 'run'), config(400))
    const job = startJob(ranksOf(2, ...command(run.path, ...mpi)))
    await logged(run.output, 4)
    const pids = [job.pid(0), job.pid(1)]
    fill()
    job.process.kill('SIGUSR2')
    const ended = await job.ended
    assert.is(ended.code, 140)
    const lost = /what was learned could not be saved: \S+: cannot be written: the disk is full \(ENOSPC\); .*stays\./g
    assert.is(ended.err.match(lost)?.length, 1, ended.err)
    for (let i = 0; i < 200 && pids.some(lives); i++) await sleep(25)
    assert.not.ok(pids.some(lives), 'a rank is left')
    rmSync(at('disk', 'ballast'))
    const saved = (): number =>
      JSON.parse(readFileSync(join(run.output, 'last', 'training.json'), 'utf8')).progress.step
    const step = saved()
    const stop = new AbortController()
    await together(2, trainConfig(world, join('disk', 'run'), config(400)), (rank) => ({
      ...{ resume: true, signal: stop.signal },
      onStep: (event) => void (rank === 0 && event.step === step + 1 && stop.abort(new Error('enough'))),
    }))
    assert.is(saved(), step + 1)
  })
  if (!mounted) console.log('SKIP: no tmpfs can be mounted here, so the disk of no rank is full')
})

under('mpirun: one sentence for what one rank finds, and for a missing flag', async () => {
  const [a, b] = [file('mixed', {}), file('odd', { train: { lr: 1e-3 } })]
  const job = startJob([
    ...ranksOf(1, ...command(a.path, ...mpi)),
    ':',
    ...ranksOf(1, ...command(b.path, '--output', a.output, ...mpi)),
  ])
  const { code, err } = await job.ended
  assert.is(code, 1)
  assert.is(err.match(/mtransllama: configuration: rank 1 has/g)?.length, 1, err)
  const bare = await startJob(ranksOf(2, ...command(a.path))).ended
  assert.is(bare.code, 1)
  assert.match(
    bare.err,
    /--parallel: expected mpi, since mpirun started 2 processes, but got nothing; with none each would/,
  )
  assert.not.ok(existsSync(join(a.output, 'last')))
})

under('mpirun: eval by two ranks writes the files that one writes, a probe included', async () => {
  const lines = async (name: string, more: string[], by: (...args: string[]) => Promise<Ended>): Promise<unknown> => {
    const output = at(`${name}.jsonl`)
    const args = ['--model', world.model, '--data', world.val, '--output', output, '--batch', '1', '--device', 'cpu']
    const { code, out, err } = await by('eval', ...args, '--probe', '3', ...more)
    assert.is(code, 0, err)
    assert.is(out.match(/overall/g)?.length, 1)
    assert.is(out.match(/probe of 3 samples/g)?.length, 1)
    const found = JSON.parse(readFileSync(at(`${name}.probe.json`), 'utf8'))
    return [found, ...jsonLines(output).map(({ id, prediction, sample }) => ({ id, prediction, sample }))]
  }
  const two = await lines('two-ranks', mpi, (...args) => startJob(ranksOf(2, ...args)).ended)
  assert.equal(two, await lines('one-rank', [], cli))
})

test('the flag without mpirun: one rank, and a word about it', async () => {
  const { path, output } = file('single', { train: { epochs: 1 } })
  const { code, err } = await start(...command(path, ...mpi)).ended
  assert.is(code, 0, err)
  assert.match(err, /--parallel mpi: mpirun did not start this process, so it computes alone/)
  assert.ok(existsSync(join(output, 'best')))
})

/** Runs train as if mpirun had started it, with libraries from `folder`. */
const posed = (path: string, env: Record<string, string>): { code: number | null; err: string } => {
  const { status, stderr } = spawnSync(process.execPath, [launcher, ...command(path, ...mpi)], {
    encoding: 'utf8',
    env: { ...process.env, OMPI_COMM_WORLD_SIZE: '2', ...env },
  })
  return { code: status, err: stderr }
}

const compiler = ['cc', 'gcc', 'clang'].find((name) => spawnSync(name, ['--version']).status === 0)
const compiled = process.platform === 'linux' && compiler ? test : test.skip
if (compiled !== test) console.log('SKIP: there is no C compiler here, so no stand-in of libmpi is made')

compiled('a library that is no MPI that is known, or lacks functions, or is not there', () => {
  const { path } = file('library', {})
  const folder = at('lib')
  mkdirSync(folder, { recursive: true })
  const library = (source: string): void => {
    writeFileSync(at('stand-in.c'), source)
    execFileSync(compiler!, ['-shared', '-fPIC', '-o', join(folder, 'libmpi.so.40'), at('stand-in.c')])
  }
  const version = (text: string): string =>
    `#include <string.h>\nint MPI_Get_library_version(char *v, int *n) { strcpy(v, "${text}"); *n = (int)strlen(v); return 0; }\n`
  library(version('Toy MPI 1.0, made for a test'))
  const toy = posed(path, { LD_LIBRARY_PATH: folder })
  assert.is(toy.code, 1)
  assert.match(
    toy.err,
    /^mtransllama: --parallel mpi: expected the library of Open MPI or MPICH, but \S+lib\/libmpi\.so\.40 says that it is "Toy MPI 1\.0"; install that of this mpirun .*MT_MPI\.\n$/,
  )
  library(`${version('Open MPI v9.9.9')}int ompi_mpi_comm_world, ompi_mpi_byte;\n`)
  assert.match(
    posed(path, { LD_LIBRARY_PATH: folder }).err,
    /but the library has no MPI_Ibarrier, which MPI 3 has; install/,
  )
  assert.match(posed(path, { MT_MPI: join(folder, 'absent.so') }).err, /but \S*absent\.so: cannot open shared object/)
})

test.run()
