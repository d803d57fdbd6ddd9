/** The interface of the suites: times a case beside its peers, checks results first, keeps the rows. */
import { performance } from 'node:perf_hooks'
import { native } from '../lib/native.js'
import type { Device } from '../lib/tensor/device.js'
import { deviceMemory, memory, resetPeak, syncBlocking, threads as setThreads } from '../lib/tensor/runtime.js'
import { scope } from '../lib/tensor/scope.js'
import { Files, type Numbers } from './files.js'
import { difference, inTurn, own, ratio, spread, type Clock, type Contender, type Plan } from './harness.js'
import { contender, isGradient, limitOf, type Opponents, type Peer, type PeerCase } from './opponents.js'
import type { CeilingName, Other, Result, Row } from './record.js'

export type Selection = Result['selection']
export type Outputs = Record<string, Float32Array>
export type Precision = Row['dtype']

/** One line of the result, and how to get it. */
export interface Case extends Pick<Row, 'id' | 'sizes' | 'dtype' | 'pass'> {
  /** The same work on different inputs; each call queues it and returns. */
  calls: readonly (() => void)[]
  flops?: number
  /** Bytes that must come from memory, whatever the caches hold. */
  bytes?: number
  /** Results of the first call's inputs, by name. */
  outputs?: () => Outputs
  /** Other ways through this project to the same results. */
  ways?: readonly { name: string; calls: readonly (() => void)[]; outputs?: () => Outputs; threads?: number }[]
  /** The peers' task, with these numbers or with a file of them in float32. */
  peer?: Omit<PeerCase, 'id' | 'dtype' | 'tensors'>
  numbers?: () => Iterable<[string, Numbers]>
  tensors?: string | undefined
  /** The peers' dtypes, timed one after another. Default: the case's; float32 where that is mixed. */
  peerDtypes?: readonly PeerCase['dtype'][]
  plan?: Partial<Plan>
}

export interface Options {
  device: Device
  dtypes: readonly Precision[]
  threads: number
  selection: Selection
  opponents: Opponents
  clock?: Clock
  say?: (row: Row) => void
}

/** Milliseconds that a call of a peer may take in a selection, unless it is the first. */
const patience = 4000

export const cpuName = (): string => process.env.MT_CPU ?? 'best'

export class Bench {
  readonly files = new Files()
  readonly rows: Row[] = []
  readonly #ceilings = new Map<string, { name: CeilingName; threads: number; rates: number[] }>()
  suite = ''

  constructor(readonly options: Options) {
    setThreads(options.threads)
  }
  get device(): Device {
    return this.options.device
  }
  get quick(): boolean {
    return this.options.selection === 'quick'
  }
  /** One of four lists, by the selected sizes; a selection without a list takes the next larger one. */
  pick<T>(lists: { quick: readonly T[]; goals?: readonly T[]; some: readonly T[]; all?: readonly T[] }): readonly T[] {
    const { quick, goals, some, all } = lists
    return { quick, goals: goals ?? [], some, all: all ?? some }[this.options.selection]
  }
  /** Threads from here on: those of the options, unless threads are what is studied. */
  threads(n: number): void {
    setThreads(n)
  }
  wants(dtype: Precision): boolean {
    return this.options.dtypes.includes(dtype)
  }

  /** The current rate, and one more sample of that ceiling. On a CUDA device there is none: bench/gpu has those. */
  ceiling(name: CeilingName): number | undefined {
    if (this.device !== 'cpu') return undefined
    const n = setThreads()
    const rate = native().instruments.ceiling(name)
    const known = this.#ceilings.get(`${name} ${n}`) ?? { name, threads: n, rates: [] }
    known.rates.push(rate)
    this.#ceilings.set(`${name} ${n}`, known)
    return rate > 0 ? rate : undefined
  }
  ceilings(): Result['ceilings'] {
    return [...this.#ceilings.values()]
      .filter(({ rates }) => rates.some((r) => r > 0))
      .map(({ name, threads, rates }) => ({ name, threads, cpu: cpuName(), rate: spread(rates) }))
  }

  async time(c: Case): Promise<Row> {
    const { flops = 0, bytes = 0 } = c
    const mine = c.outputs && scope(c.outputs)
    const others: { other: Other; contender?: Contender; end?: () => Promise<void> }[] = []
    const { clock = 'wall' } = this.options
    for (const way of c.ways ?? []) {
      if (way.threads && (clock === 'cpu' || this.device !== 'cpu')) continue
      const other: Other = {
        name: way.name,
        kind: 'own',
        ...(way.outputs && mine && compared(scope(way.outputs), mine, [c.dtype])),
      }
      others.push(
        fair(other) ? { other, contender: own(way.name, way.calls, { count: way.threads, clock }) } : { other },
      )
    }
    const before = this.peak(true)
    const start = performance.now()
    c.calls[0]!()
    syncBlocking()
    const once = performance.now() - start
    const peakBytes = this.peak() - before
    if (c.peer && mine) others.push(...(await this.#peers(c, mine, once)))

    const contenders = [own('mtransllama', c.calls, { clock }), ...others.flatMap((o) => o.contender ?? [])]
    const plan: Plan = this.quick
      ? { rounds: 1, ms: 0 }
      : { rounds: 5, ms: 60, ...(this.options.selection === 'all' ? {} : { seconds: 8 }), ...c.plan }
    const floors: number[] = []
    let bound: Row['bound'] = 'none'
    const [first, ...rest] = await inTurn(contenders, plan, () => {
      const compute = flops && this.product(c.dtype)
      const read = bytes && this.ceiling('read')
      const [a, b] = [compute ? (1e6 * flops) / compute : 0, read ? (1e6 * bytes) / read : 0]
      if (Math.max(a, b) > 0) floors.push(Math.max(a, b))
      bound = a >= b ? (a > 0 ? 'compute' : 'none') : 'memory'
    })
    const timed = others.filter((o) => o.contender)
    for (const [i, { other }] of timed.entries()) {
      other.us = rest[i]!.us
      other.ratio = ratio(rest[i]!.rounds, first!.rounds)
      if (other.kind === 'peer') this.#slowest.set(`${c.peer!.kind} ${other.name}`, other.ratio)
    }
    for (const { end } of others) await end?.()
    const row: Row = {
      id: c.id,
      suite: this.suite,
      sizes: c.sizes,
      dtype: c.dtype,
      pass: c.pass,
      threads: setThreads(),
      cpu: cpuName(),
      us: first!.us,
      flops,
      bytes,
      bound,
      ...(floors.length && { floorUs: spread(floors).median, share: ratio(floors, first!.rounds) }),
      peakBytes,
      peers: others.map((o) => o.other),
    }
    this.add(row)
    return row
  }

  /** Adds a row that was timed elsewhere. */
  add(row: Row): void {
    this.rows.push(row)
    this.options.say?.(row)
  }

  /**
   * Rate of products with matrices of a dtype: where there are no instructions for bfloat16, they are done in float32.
   */
  product(dtype: Precision): number | undefined {
    return (dtype !== 'float32' ? this.ceiling('bfloat16') : undefined) ?? this.ceiling('float32')
  }

  /** Most bytes that were allocated at one time since `peak(true)`, which starts anew. */
  peak(anew = false): number {
    if (anew) {
      syncBlocking()
      resetPeak(this.device)
    }
    return (this.device === 'cpu' ? memory() : deviceMemory(this.device)).peak
  }

  /** The last ratio of each peer's time to ours, by kind of case. */
  readonly #slowest = new Map<string, number>()

  /**
   * @param once milliseconds of one of our calls: a peer that would take many seconds, by its earlier ratio, is left
   *   out
   */
  async #peers(c: Case, mine: Outputs, once: number) {
    const { peers } = this.options.opponents
    if (!peers.length || this.device !== 'cpu') return []
    const tensors = c.tensors ?? (await this.files.write(c.numbers?.() ?? []))
    const dtypes = c.peerDtypes ?? [c.dtype === 'mixed' ? 'float32' : c.dtype]
    const all = dtypes.flatMap((dtype) => peers.map((peer) => ({ peer, dtype })))
    const asked = []
    for (const { peer, dtype } of all) {
      const say = dtypes.length > 1 || dtype !== c.dtype
      const name = say ? `${peer.name}, ${dtype}` : peer.name
      const slow = this.#slowest.get(`${c.peer!.kind} ${name}`) ?? 0
      if (this.options.selection !== 'all' && slow * once > patience) {
        asked.push({
          other: {
            name,
            kind: 'peer' as const,
            unavailable: 'left out: as slow as it was before, a call would take many seconds',
          },
        })
      } else
        asked.push(
          await ask(peer, { ...c.peer!, id: `${c.id} ${c.pass} ${dtype}`, dtype, tensors }, mine, [c.dtype, dtype], {
            clock: this.options.clock ?? 'wall',
            name,
          }),
        )
    }
    if (!c.tensors) this.files.forget(tensors)
    return asked
  }
}

/** Prepares a peer for a case; returns its contender only where its results equal ours. */
async function ask(
  peer: Peer,
  c: PeerCase,
  mine: Outputs,
  dtypes: readonly Precision[],
  { name, clock }: { name: string; clock: Clock },
): Promise<{ other: Other; contender?: Contender; end?: () => Promise<void> }> {
  const other: Other = { name, kind: 'peer' }
  try {
    const given = await peer.prepare(c)
    if ('unavailable' in given) return { other: { ...other, unavailable: given.unavailable } }
    const seen: Other = { ...other, ...compared(given.outputs, mine, dtypes) }
    const end = async (): Promise<void> => {
      const peakBytes = await peer.peak?.(c)
      if (peakBytes !== undefined) seen.peakBytes = peakBytes
      await peer.forget(c)
    }
    if (fair(seen)) return { other: seen, contender: contender(peer, c, clock), end }
    await peer.forget(c)
    return { other: seen }
  } catch (error) {
    return { other: { ...other, unavailable: (error as Error).message.split('\n')[0]! } }
  }
}

/**
 * The output that is furthest from ours for its limit; one that is missing is infinitely far. Where bfloat16 is
 * involved all gradients are one output: the gradient of a single tensor may be so small that rounding dominates it.
 */
export function compared(
  theirs: Outputs,
  mine: Outputs,
  dtypes: readonly Precision[],
): Pick<Other, 'difference' | 'limit' | 'unavailable'> {
  const exact = dtypes.every((d) => d === 'float32')
  const names = Object.keys(mine)
  const gradients = exact ? [] : names.filter(isGradient)
  const groups = [
    ...names.filter((name) => !gradients.includes(name)).map((name) => [name]),
    ...(gradients.length ? [gradients] : []),
  ]
  let worst = { what: '', apart: 0, limit: limitOf('', exact) }
  for (const group of groups) {
    const [apart, limit] = [
      difference(
        group.map((name) => theirs[name] ?? []),
        group.map((name) => mine[name]!),
      ),
      limitOf(group[0]!, exact),
    ]
    if (!(apart / limit <= worst.apart / worst.limit))
      worst = { what: group.length > 1 ? 'gradient' : group[0]!, apart, limit }
  }
  const { what, apart, limit } = worst
  return {
    difference: Number.isFinite(apart) ? apart : null,
    limit,
    ...(!(apart <= limit) && {
      unavailable: `its ${what} differs from ours by ${apart.toExponential(1)}, more than ${limit}: no ratio is given`,
    }),
  }
}
const fair = ({ unavailable }: Other): boolean => unavailable === undefined
