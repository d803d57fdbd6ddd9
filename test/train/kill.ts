// npm run kill [-- COUNT [SEED]]: runs that are killed at random moments and resumed, with files cut as a power loss leaves
// them, and on a disk that fills up and is freed; each has to end with the bits of a run that nothing happened to. Prints
// the table of docs/runs.md. --add FILE adds to the outcomes that the file holds, and prints the sum; --write puts the
// table into the page.
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { argv } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { markdownTable } from '../../lib/report/table.js'
import { parseTrainConfig } from '../../lib/train/config.js'
import { train } from '../../lib/train/loop.js'
import { configOf, makeWorld, type World } from '../support/world.js'

const self = fileURLToPath(import.meta.url)

/** What happened to the runs of one kind, and how many ended with other bits. */
export interface Outcome {
  what: string
  runs: number
  /** Kills, cuts or fillings. */
  events: number
  /** Of them, those that fell into a save: something unfinished was left, or a save failed. */
  within: number
  different: number
}

/** Numbers from 0 to 1 by a seed (mulberry32), so that a failure can be repeated. */
export function numbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Steps of a run. */
const STEPS = 12
/** A run of so many steps that saves after each, validates within epochs, and averages. */
const settings = {
  data: { val: undefined },
  train: {
    batch: 2,
    epochs: 2,
    saveEvery: 1,
    evalEvery: 4,
    keepLast: 3,
    ema: 0.9,
    schedule: 'cosine',
    log: ['jsonl', 'csv', 'tensorboard'],
  },
}

/** A run in a process of its own. */
interface Child {
  process: ChildProcess
  /** Resolves once so many steps are done, 0: once the run has begun; or once it has ended. */
  steps(n: number): Promise<void>
  ended: Promise<{ code: number | null; err: string }>
}

function start(config: string, resume: boolean): Child {
  const child = spawn(process.execPath, ['--import', 'tsx', self, 'child', config, String(resume)], {
    cwd: join(self, '..', '..', '..'),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, MT_THREADS: '1' },
  })
  let err = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => void (err += text))
  const ended = new Promise<{ code: number | null; err: string }>((resolve) =>
    child.on('close', (code) => resolve({ code, err })),
  )
  let lines = 0
  let over = false
  const waiting: { n: number; done: () => void }[] = []
  const look = (): void => {
    for (const { n, done } of waiting) if (over || lines > n) done()
  }
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    lines += text.split('\n').length - 1
    look()
  })
  void ended.then(() => {
    over = true
    look()
  })
  const steps = (n: number): Promise<void> =>
    new Promise((done) => {
      waiting.push({ n, done })
      look()
    })
  return { process: child, steps, ended }
}

/** The child: a run from a configuration; it writes a line once it has begun, and one after each step. */
async function child(path: string, resume: boolean): Promise<void> {
  const config = parseTrainConfig(JSON.parse(readFileSync(path, 'utf8')))
  const line = (): void => void process.stdout.write('\n')
  await train(config, { resume, onStart: line, onStep: line })
}

/** A hash of the tensors of `last/` and `best/`. */
function bits(output: string): string {
  const hash = createHash('sha256')
  for (const name of ['last', 'best'])
    for (const file of (readdirSync(join(output, name), { recursive: true }) as string[]).sort())
      if (file.endsWith('.safetensors')) hash.update(file).update(readFileSync(join(output, name, file)))
  return hash.digest('hex')
}

/** A world, and what a run ends with that nothing happened to. */
export class Killer {
  private runs = 0
  private constructor(
    readonly world: World,
    private readonly random: () => number,
  ) {}
  private wanted = ''
  /** Milliseconds of a step and what is saved after it. */
  private pace = 0

  static async make(seed: number): Promise<Killer> {
    const killer = new Killer(await makeWorld(), numbers(seed))
    const first = killer.fresh()
    await killer.finish(start(first.config, false)) // computes the features
    const { config, output } = killer.fresh()
    const run = start(config, false)
    await run.steps(1)
    const begin = Date.now()
    await killer.finish(run)
    killer.pace = (Date.now() - begin) / STEPS
    killer.wanted = bits(output)
    if (bits(first.output) !== killer.wanted) throw new Error('two runs that nothing happened to differ')
    return killer
  }

  private fresh(under = this.world.root): { config: string; output: string } {
    const name = `run-${this.runs++}`
    const output = join(under, name)
    const config = join(this.world.root, `${name}.json`)
    writeFileSync(config, JSON.stringify({ ...configOf(this.world, name, settings), output }))
    return { config, output }
  }

  private async finish(run: Child): Promise<void> {
    const { code, err } = await run.ended
    if (code !== 0) throw new Error(`a run ended with ${code}: ${err}`)
  }

  private resumable(output: string): boolean {
    return ['last', '.last.previous'].some((name) => existsSync(join(output, name, 'training.json')))
  }

  /** Kills `count` processes at random moments, at most `each` of a run; `between` is done after each kill. */
  async kills(what: string, count: number, each = 5, between?: (output: string) => void): Promise<Outcome> {
    const outcome: Outcome = { what, runs: 0, events: 0, within: 0, different: 0 }
    while (outcome.events < count) {
      const { config, output } = this.fresh()
      outcome.runs++
      for (let k = 0; k < each && outcome.events < count; k++) {
        const run = start(config, this.resumable(output))
        // Those of a resumed run are fewer; it is over where it has not so many left.
        await run.steps(Math.floor((this.random() * STEPS) / each))
        await sleep(this.random() * 2 * this.pace)
        run.process.kill('SIGKILL')
        const { code, err } = await run.ended
        if (code === 0) break // it was faster
        if (code !== null) throw new Error(`a run ended with ${code}: ${err}`)
        outcome.events++
        if (readdirSync(output).some((name) => /^\.(last|best|step)/.test(name))) outcome.within++
        between?.(output)
      }
      await this.finish(start(config, this.resumable(output)))
      outcome.different += Number(bits(output) !== this.wanted)
      rmSync(output, { recursive: true })
    }
    return outcome
  }

  /**
   * Cuts what a power loss may cut: everything that was not flushed when the machine stopped, which are the unfinished
   * folders of saves, the logs behind the last save, and the lock. Cached features are checked when they are read.
   */
  cut(output: string): void {
    const shorten = (path: string, least = 0): void => {
      const { size } = statSync(path)
      truncateSync(path, least + Math.floor(this.random() * (size - least)))
    }
    for (const name of readdirSync(output)) {
      const path = join(output, name)
      if (name.endsWith('.tmp'))
        // A file with a second name was flushed under its first one.
        for (const file of readdirSync(path, { recursive: true }) as string[])
          if (statSync(join(path, file)).isFile() && statSync(join(path, file)).nlink === 1 && this.random() < 0.7)
            shorten(join(path, file))
      if (name === 'run.lock') shorten(path)
      if (/^metrics|^events/.test(name)) shorten(path)
    }
    const cache = join(this.world.root, 'features')
    const features = (readdirSync(cache, { recursive: true }) as string[]).filter((f) => f.endsWith('.safetensors'))
    shorten(join(cache, features[Math.floor(this.random() * features.length)]!))
  }

  /** Runs whose files may not grow for a while, at most `each` times: no write succeeds until the limit is lifted. */
  async limited(count: number, each = 1): Promise<Outcome | undefined> {
    try {
      execFileSync('prlimit', ['--version'], { stdio: 'ignore' })
    } catch {
      return undefined
    }
    return this.filled('writes refused for a while (RLIMIT_FSIZE)', count, each, this.world.root, (pid) => {
      /** Whether the process was still there. */
      const limit = (n: string): boolean =>
        spawnSync('prlimit', ['--pid', String(pid), `--fsize=${n}:unlimited`]).status === 0
      return limit('0') ? () => void limit('unlimited') : undefined
    })
  }

  /**
   * Runs on a file system of a few MiB that is filled and freed, at most `each` times; undefined where none can be
   * mounted.
   */
  async full(count: number, each = 1): Promise<Outcome | undefined> {
    const disk = join(this.world.root, 'disk')
    mkdirSync(disk)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'none', disk], { stdio: 'ignore' })
    } catch {
      return undefined
    }
    try {
      return await this.filled('disk filled and freed (tmpfs of 8 MiB)', count, each, disk, () => {
        const ballast = join(disk, 'ballast')
        const block = Buffer.alloc(4096)
        try {
          for (;;) writeFileSync(ballast, block, { flag: 'a' })
        } catch {
          // full
        }
        return () => rmSync(ballast)
      })
    } finally {
      execFileSync('umount', [disk])
    }
  }

  private async filled(
    what: string,
    count: number,
    each: number,
    under: string,
    fill: (pid: number) => (() => void) | undefined,
  ): Promise<Outcome> {
    const outcome: Outcome = { what, runs: 0, events: 0, within: 0, different: 0 }
    while (outcome.events < count) {
      const { config, output } = this.fresh(under)
      const run = start(config, false)
      const before = outcome.events
      for (let k = 0; k < each && outcome.events < count; k++) {
        const from = Math.floor(((k + this.random()) * STEPS) / each)
        await run.steps(from)
        if (run.process.exitCode !== null) break
        const free = fill(run.process.pid!)
        if (!free) break
        await run.steps(from + 1 + Math.floor(this.random() * Math.ceil(4 / each)))
        await sleep(this.random() * 2 * this.pace)
        free()
        outcome.events++
      }
      const { code, err } = await run.ended
      if (outcome.events === before) continue
      outcome.runs++
      // The end may have come while the disk was full: then the run says so, and is resumed.
      if (code !== 0) {
        if (!/cannot be (saved|written)|could not be|no space|ENOSPC|EFBIG/i.test(err))
          throw new Error(`a run ended with ${code}: ${err}`)
        await this.finish(start(config, this.resumable(output)))
      }
      outcome.within += Math.min(err.split('training goes on').length - 1, outcome.events - before)
      const said = err.split('the next save point tries again').length - 1
      const again = err.split('saved again').length - 1
      if (said > again + 1) throw new Error(`a failure was said more than once: ${err}`)
      outcome.different += Number(bits(output) !== this.wanted)
      rmSync(output, { recursive: true })
    }
    return outcome
  }
}

/** The table of docs/runs.md. */
export const table = (outcomes: readonly Outcome[]): string =>
  markdownTable(
    ['what happened', 'runs', 'times', 'of them within a save', 'runs with other bits at the end'],
    outcomes.map((o) => [o.what, o.runs, o.events, o.within, o.different]),
  )

const sum = (a: Outcome, b: Outcome | undefined): Outcome =>
  b
    ? {
        what: a.what,
        runs: a.runs + b.runs,
        events: a.events + b.events,
        within: a.within + b.within,
        different: a.different + b.different,
      }
    : a

if (argv[1] === self) {
  if (argv[2] === 'child') await child(argv[3]!, argv[4] === 'true')
  else {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { add: { type: 'string' }, write: { type: 'boolean' } },
    })
    const [count, seed] = [Number(positionals[0] ?? 200), Number(positionals[1] ?? 1)]
    const killer = await Killer.make(seed)
    let outcomes = [
      await killer.kills('kill -9', count),
      await killer.kills('kill -9, and files cut as by a power loss', Math.ceil(count / 4), 5, (o) => killer.cut(o)),
      await killer.limited(Math.ceil(count / 8)),
      await killer.full(Math.ceil(count / 8)),
    ].filter((o) => o !== undefined)
    if (values.add !== undefined) {
      const before = existsSync(values.add) ? (JSON.parse(readFileSync(values.add, 'utf8')) as Outcome[]) : []
      outcomes = outcomes.map((o) =>
        sum(
          o,
          before.find((b) => b.what === o.what),
        ),
      )
      writeFileSync(values.add, JSON.stringify(outcomes))
    }
    console.log(table(outcomes))
    if (values.write) {
      const page = new URL('../../docs/runs.md', import.meta.url)
      const [before, , after] = readFileSync(page, 'utf8').split(/<!-- kill -->\n|<!-- \/kill -->\n/)
      writeFileSync(page, `${before}<!-- kill -->\n\n${table(outcomes)}\n\n<!-- /kill -->\n${after}`)
    }
    process.exitCode = outcomes.some((o) => o.different) ? 1 : 0
  }
}
