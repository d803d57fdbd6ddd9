/**
 * Profiles: time and bytes of each operator that the queue runs during a recording, as a table and as a Chrome trace.
 */
import { native, type NativeEvents } from '../native.js'
import { deviceOf, type Device } from './device.js'
import { sync } from './runtime.js'

/** Default capacity of a profile in events: some 50 MB during the recording. */
const MOST = 1_000_000

/**
 * One run of an operator. A CUDA graph is one event named `graph`, a tensor on its way between devices one named
 * `transfer`.
 */
export interface ProfileEvent {
  operator: string
  device: Device
  /** Seconds since the profile began. */
  start: number
  /**
   * Seconds: of the CPU, what the operator took in the queue; of a CUDA device, what its kernels took on the device,
   * measured by events of the stream.
   */
  seconds: number
  /**
   * Bytes of its arguments: each whole and once, a repeated element once. Scratch memory, and embedding rows that no id
   * names, are not taken into account; a graph has no bytes.
   */
  read: number
  written: number
}

/** All runs of one operator on one device. */
export interface ProfileRow {
  operator: string
  device: Device
  calls: number
  /** Of all calls. */
  seconds: number
  /** Of the time of all operators, 0 to 1. */
  share: number
  /** Read and written by all calls. */
  bytes: number
}

/** An event of Chrome's trace format: `X` is a stretch of time, in microseconds; `M` names a process or a thread. */
export type ChromeEvent =
  | {
      ph: 'X'
      name: string
      cat: 'operator'
      pid: number
      tid: number
      ts: number
      dur: number
      args: { read: number; written: number }
    }
  | { ph: 'M'; name: 'process_name' | 'thread_name'; pid: number; tid: number; args: { name: string } }

/** The format that chrome://tracing and https://ui.perfetto.dev open. */
export interface ChromeTrace {
  displayTimeUnit: 'ms'
  traceEvents: ChromeEvent[]
}

/** The recording between a start and a stop. */
export class Profile {
  /** Seconds from start to stop. */
  readonly elapsed: number
  /** Operators that ran but are not in it: those after the first million, and those whose time a lost device kept. */
  readonly dropped: number
  readonly #events: NativeEvents

  constructor(events: NativeEvents) {
    this.#events = events
    this.elapsed = events.elapsed / 1e9
    this.dropped = events.dropped
  }

  /** Number of events. */
  get length(): number {
    return this.#events.start.length
  }

  /** In the order of the queue. */
  *events(): Generator<ProfileEvent, void> {
    const e = this.#events
    for (let i = 0; i < this.length; i++) {
      yield {
        operator: e.operators[e.operator[i]!]!,
        device: deviceOf(e.device[i]!)!,
        start: e.start[i]! / 1e9,
        seconds: e.duration[i]! / 1e9,
        read: e.read[i]!,
        written: e.written[i]!,
      }
    }
  }

  /** A row per operator and device; what took most comes first. */
  rows(): ProfileRow[] {
    const rows = new Map<string, ProfileRow>()
    let all = 0
    for (const { operator, device, seconds, read, written } of this.events()) {
      const key = `${operator} ${device}`
      const row = rows.get(key) ?? { operator, device, calls: 0, seconds: 0, share: 0, bytes: 0 }
      rows.set(key, row)
      row.calls++
      row.seconds += seconds
      row.bytes += read + written
      all += seconds
    }
    for (const row of rows.values()) row.share = all && row.seconds / all
    return [...rows.values()].sort((a, b) => b.seconds - a.seconds)
  }

  /** The rows as text cells, with a head and a sum. The device is named where there is more than one. */
  table(): string[][] {
    const rows = this.rows()
    const many = new Set(rows.map((r) => r.device)).size > 1
    const sum = (of: (r: ProfileRow) => number): number => rows.reduce((n, r) => n + of(r), 0)
    const cells = (
      name: string,
      { calls, seconds, share, bytes }: Omit<ProfileRow, 'operator' | 'device'>,
    ): string[] => [
      name,
      String(calls),
      (seconds * 1e3).toFixed(1),
      `${(share * 100).toFixed(1)} %`,
      calls ? ((seconds / calls) * 1e6).toFixed(1) : '-',
      bytes ? (bytes / 1e9).toFixed(3) : '-',
      bytes && seconds ? (bytes / 1e9 / seconds).toFixed(1) : '-',
    ]
    return [
      ['operator', 'calls', 'total ms', 'share', 'mean µs', 'GB', 'GB/s'],
      ...rows.map((r) => cells(many ? `${r.operator} on ${r.device}` : r.operator, r)),
      cells('all', {
        calls: this.length,
        seconds: sum((r) => r.seconds),
        share: this.length && 1,
        bytes: sum((r) => r.bytes),
      }),
    ]
  }

  /** A line of time for each device. */
  chromeTrace(): ChromeTrace {
    const pid = 1
    const microseconds = (seconds: number): number => Math.round(seconds * 1e9) / 1e3
    const threads = new Map<Device, number>()
    const traceEvents: ChromeEvent[] = [{ ph: 'M', name: 'process_name', pid, tid: 0, args: { name: 'mtransllama' } }]
    for (const { operator, device, start, seconds, read, written } of this.events()) {
      let tid = threads.get(device)
      if (tid === undefined) {
        threads.set(device, (tid = threads.size + 1))
        traceEvents.push({ ph: 'M', name: 'thread_name', pid, tid, args: { name: device } })
      }
      traceEvents.push({
        ph: 'X',
        name: operator,
        cat: 'operator',
        pid,
        tid,
        ts: microseconds(start),
        dur: microseconds(seconds),
        args: { read, written },
      })
    }
    return { displayTimeUnit: 'ms', traceEvents }
  }
}

/**
 * Starts recording the operators that this thread calls; their results stay the same. One profile at a time; without
 * one, operators cost nothing extra.
 *
 * @param most events to hold; more are only counted
 */
export function startProfile(most = MOST): void {
  native().profileStart(most)
}

/**
 * Ends the profile: it holds the earlier calls and none of the later ones. Rejects like {@link sync}; the profile has
 * ended then too.
 */
export async function stopProfile(): Promise<Profile> {
  const record = native().profileStop()
  await sync()
  return new Profile(native().profileEvents(record))
}

/** Runs `f` and records the operators that it calls. Where `f` fails, so does this, and the profile has ended. */
export async function profile<R>(f: () => R): Promise<{ result: Awaited<R>; profile: Profile }> {
  startProfile()
  let result: Awaited<R>
  try {
    result = await f()
  } catch (error) {
    native().profileStop()
    throw error
  }
  return { result, profile: await stopProfile() }
}
