/**
 * Times contenders in turn: ours, peer A, peer B, ours, …, so that other load on the machine affects all of them. A
 * ratio is the median over the rounds of the ratio within a round.
 */
import { performance } from 'node:perf_hooks'
import { syncBlocking, threads } from '../lib/tensor/runtime.js'
import type { Spread } from './record.js'

/** A contender: runs for about so many milliseconds and returns the microseconds of each call. */
export interface Contender {
  name: string
  sample(ms: number): number[] | Promise<number[]>
}

export interface Plan {
  rounds: number
  /** Milliseconds of each contender in each round. */
  ms: number
  /** Seconds after which no further round begins. */
  seconds?: number
}

export interface Timed {
  us: Spread
  /** The median of each round. */
  rounds: number[]
}

export const median = (values: readonly number[]): number =>
  quantile(
    [...values].sort((a, b) => a - b),
    0.5,
  )

/** Of sorted values, between the nearest two. */
export function quantile(sorted: readonly number[], q: number): number {
  const at = q * (sorted.length - 1)
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!]
  return low + (high - low) * (at - Math.floor(at))
}

export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b)
  return {
    median: quantile(sorted, 0.5),
    p10: quantile(sorted, 0.1),
    p90: quantile(sorted, 0.9),
    samples: sorted.length,
  }
}

/**
 * Milliseconds by the wall clock, or of CPU time of all threads of this process: the latter is less affected by other
 * load, but does not show the benefit of threads.
 */
export type Clock = 'wall' | 'cpu'
const clocks: Record<Clock, () => number> = {
  wall: () => performance.now(),
  cpu() {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1000
  },
}

/** Below this, the wait at the end dominates the time. */
const enough = 2

/**
 * Our own side: `calls` are the same work on different inputs, taken in turn. Each sample ends by waiting for the
 * queue; short calls are timed several at a time.
 *
 * @param count threads, where they differ from the run's
 */
export function own(
  name: string,
  calls: readonly (() => void)[],
  { count, clock = 'wall' }: { count?: number | undefined; clock?: Clock } = {},
): Contender {
  let [turn, group, long] = [0, 0, false]
  const elapsed = (count: number): number => {
    const start = clocks[clock]()
    for (let i = 0; i < count; i++) calls[turn++ % calls.length]!()
    syncBlocking()
    return Math.max(clocks[clock]() - start, 1e-3)
  }
  const sample = (ms: number): number[] => {
    // Warm-up: every input once; in later rounds, to refill the caches after other contenders.
    if (!group) {
      const first = elapsed(calls.length) / calls.length
      group = ms <= 0 ? 1 : Math.min(1000, Math.max(1, Math.ceil(enough / Math.max(first, 1e-3))))
      long = first > 100
    } else if (!long) elapsed(group)
    const us: number[] = []
    const end = performance.now() + ms
    do us.push((1000 * elapsed(group)) / group)
    while (performance.now() < end)
    return us
  }
  return {
    name,
    sample(ms) {
      if (count === undefined) return sample(ms)
      const before = threads()
      threads(count)
      try {
        return sample(ms)
      } finally {
        threads(before)
      }
    },
  }
}

/**
 * A contender whose sample takes more than this many milliseconds, and this many times the first contender's, is
 * sampled once.
 */
const tooLong = { ms: 2000, times: 8 }

/**
 * Runs every contender in every round; slow ones once. `between` runs at the end of each round and measures a ceiling.
 * Ends early, after two rounds, once `seconds` are spent.
 */
export async function inTurn(
  contenders: readonly Contender[],
  { rounds, ms, seconds = Infinity }: Plan,
  between?: (round: number) => void,
): Promise<Timed[]> {
  const all = contenders.map(() => [] as number[][])
  const [began, slow] = [performance.now(), new Set<number>()]
  for (let round = 0; round < rounds; round++) {
    let first = 0
    for (const [i, contender] of contenders.entries()) {
      if (slow.has(i)) continue
      const start = performance.now()
      all[i]!.push(await contender.sample(ms))
      const spent = performance.now() - start
      if (i === 0) first = spent
      else if (spent > tooLong.ms && spent > tooLong.times * first) slow.add(i)
    }
    between?.(round)
    if (round >= 1 && performance.now() - began > 1000 * seconds) break
  }
  return all.map((samples) => ({ us: spread(samples.flat()), rounds: samples.map(median) }))
}

/** The median over the rounds of a over b; a may have been in fewer. */
export const ratio = (a: readonly number[], b: readonly number[]): number => median(a.map((x, i) => x / b[i]!))

/** ‖a − b‖ / ‖b‖ over all arrays; infinite where their lengths differ. */
export function difference(a: readonly ArrayLike<number>[], b: readonly ArrayLike<number>[]): number {
  let [apart, norm] = [0, 0]
  for (const [n, y] of b.entries()) {
    const x = a[n]!
    if (x.length !== y.length) return Infinity
    for (let i = 0; i < y.length; i++) {
      apart += (x[i]! - y[i]!) ** 2
      norm += y[i]! ** 2
    }
  }
  return apart === 0 ? 0 : Math.sqrt(apart / norm)
}
