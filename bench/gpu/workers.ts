/**
 * Rows that are measured in processes of their own, so that a fault costs its row and not those after it: a kernel that
 * writes where it must not takes the device from the whole process. A program starts itself again, with --worker, for
 * the jobs that are left; which library computes products is decided once in a process, so each has one as well.
 */
import { fileURLToPath } from 'node:url'
import { full } from '../../lib/ops/copy.js'
import type { Device } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { run, start } from './child.mjs'
import { attempt, deadline, late, noTime, type Row, save } from './record.js'

/** MT_GEMM. */
export type Gemm = 'own' | 'cublaslt'

export interface Job {
  id: string
  /** The library of its products; undefined where it has none. */
  gemm?: Gemm | undefined
}

/** A worker's functions: run a job, free its memory, facts of the whole stage. */
export interface Worker<J extends Job> {
  device: Device
  facts?: object
  run: (job: J) => object | Promise<object>
  close?: () => void
}

export interface Program<J extends Job> {
  /** import.meta.url of the program that calls. */
  url: string
  jobs: readonly J[]
  /** Called in the worker alone, which is where the device is opened. */
  open: () => Worker<J> | Promise<Worker<J>>
  /** Facts of the stage that its workers do not know; those that they know are added to it. */
  facts?: Record<string, unknown>
  /** Seconds for one job. */
  limit?: number
}

type Message = { facts: object } | { begin: number } | { row: Row; index: number } | { unavailable: string }

const rowOf = (job: Job, row: Omit<Row, 'id'>): Row =>
  ({ ...row, id: nameOf(job), ...(job.gemm && { gemm: job.gemm }) }) as Row
const nameOf = (job: Job): string => (job.gemm === 'cublaslt' ? `${job.id}, cublaslt` : job.id)
const variant = (job: Job): Gemm => job.gemm ?? 'own'

/** Runs every job and saves the rows after each. In a worker it does not return. */
export async function measure<J extends Job>(program: Program<J>): Promise<Row[]> {
  if (process.argv.includes('--worker')) return work(program)
  const { jobs, facts: about = {} } = program
  const rows: (Row | undefined)[] = jobs.map(() => undefined)
  const done = (): Row[] => rows.filter((r) => r !== undefined)
  const rest = (next: number, reason: string): void =>
    jobs.forEach((job, i) => i >= next && (rows[i] ??= rowOf(job, { status: 'unavailable', reason })))
  for (let next = 0; next < jobs.length; ) {
    const end = jobs.findIndex((job, i) => i > next && variant(job) !== variant(jobs[next]!))
    const until = end < 0 ? jobs.length : end
    if (late()) rest(next, noTime)
    else {
      const reason = await worker(program, next, until, rows, about, () => save({ ...about, rows: done() }))
      if (reason) {
        if (!done().length) {
          console.log(reason)
          process.exit(3)
        }
        rest(next, reason)
      }
    }
    while (next < jobs.length && rows[next]) next++
    save({ ...about, rows: done() })
  }
  return done()
}

/**
 * Runs one worker for jobs [next, until): afterwards at least one of them has a row, or there is a reason why none can
 * run.
 */
async function worker<J extends Job>(
  { url, jobs, limit = 90 }: Program<J>,
  next: number,
  until: number,
  rows: (Row | undefined)[],
  about: Record<string, unknown>,
  write: () => void,
): Promise<string | undefined> {
  const { child, kill } = start(
    process.execPath,
    [
      ...process.execArgv,
      fileURLToPath(url),
      ...process.argv.slice(2),
      '--deadline',
      `${deadline}`,
      '--worker',
      `${next}`,
      `${until}`,
    ],
    { stdio: ['ignore', 2, 2, 'ipc'], env: { ...process.env, MT_GEMM: variant(jobs[next]!) } },
  )
  let current: number | undefined
  let [reason, why]: (string | undefined)[] = []
  let timer: NodeJS.Timeout | undefined
  const stop = (because: string): void => {
    why ??= because
    kill()
  }
  const last = setTimeout(
    () => stop('the time limit of the stage'),
    Math.min(2 ** 31 - 1, Math.max(1000, deadline - Date.now() + 5000)),
  )
  child.on('message', (m: Message) => {
    if ('facts' in m) Object.assign(about, m.facts)
    else if ('unavailable' in m) reason = m.unavailable
    else if ('begin' in m) {
      current = m.begin
      clearTimeout(timer)
      timer = setTimeout(() => stop(`took over ${limit} s`), 1000 * limit)
      if (current === next + ((until - next) >> 1)) void clocks(nameOf(jobs[current]!), about)
    } else {
      rows[m.index] = m.row
      current = undefined
      clearTimeout(timer)
      write()
    }
  })
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
    child.on('error', (error) => ((why ??= error.message), resolve([null, null])))
    child.on('close', (...end) => resolve(end))
  })
  clearTimeout(timer)
  clearTimeout(last)
  if (reason !== undefined) return reason
  // If it ended between two jobs, the next process continues; not if it never started one.
  const fatal = current ?? (rows[next] ? undefined : next)
  if (fatal !== undefined)
    rows[fatal] = rowOf(jobs[fatal]!, {
      status: 'failed',
      reason: why ?? (signal ? `its process was killed by ${signal}` : `its process ended with ${code}`),
    })
  return undefined
}

/** The clocks and their limits, in the middle of a worker's measurements. */
async function clocks(during: string, about: Record<string, unknown>): Promise<void> {
  for (const why of ['clocks_event_reasons', 'clocks_throttle_reasons']) {
    const { code, out } = await run(
      'nvidia-smi',
      [`--query-gpu=clocks.sm,clocks.mem,${why}.active,power.draw,temperature.gpu`, '--format=csv,noheader'],
      { limit: 10_000 },
    )
    if (code !== 0) continue
    about.clocks = [...((about.clocks as object[] | undefined) ?? []), { during, is: out.trim().split('\n')[0] }]
    return
  }
}

/** The worker's side. */
async function work<J extends Job>({ jobs, open }: Program<J>): Promise<never> {
  const at = process.argv.indexOf('--worker')
  const [next, until] = [Number(process.argv[at + 1]), Number(process.argv[at + 2])]
  const say = (m: Message): Promise<void> => new Promise((resolve) => process.send!(m, () => resolve()))
  const { device, facts, run, close } = await open()
  if (facts) await say({ facts })
  for (let index = next; index < until; index++) {
    const job = jobs[index]!
    await say({ begin: index })
    const row = late()
      ? { id: job.id, status: 'unavailable' as const, reason: noTime }
      : await attempt(job.id, () => run(job))
    await say({ index, row: rowOf(job, row) })
    if (row.status !== 'ok' && unusable(device)) process.exit(4) // the next process continues with the next job
  }
  close?.()
  process.exit(0)
}

/** Whether the device is lost. The first wait only reports earlier failures. */
function unusable(device: Device): boolean {
  const works = (): boolean => {
    try {
      scope(() => void full([1], 1, 'float32', device))
      syncBlocking()
      return true
    } catch {
      return false
    }
  }
  return !works() && !works()
}

/** Ends the stage with the status of its rows. */
export function finish(rows: readonly Row[], summary: string): never {
  const failed = rows.filter((r) => r.status === 'failed')
  console.log(
    failed.length ? `${failed[0]!.id}: ${failed[0]!.reason} (${failed.length} of ${rows.length} rows failed)` : summary,
  )
  process.exit(failed.length ? 1 : rows.some((r) => r.status === 'ok') ? 0 : 3)
}
