/** Reads the clips to come, and computes their features, while a step or a batch of predictions runs. */
import { performance } from 'node:perf_hooks'
import { clipKey, DECODERS } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import type { Features } from './features.js'
import { NotFiniteError } from './finite.js'

/** Most bytes of features that are held ahead of the step, unless options say otherwise. */
export const AHEAD = 2 ** 28

/** A clip on its way. */
interface Entry {
  sample: Sample
  /** Never rejects. */
  done: Promise<void>
  /** Why it failed; else what lets its features go. */
  error?: unknown
  release?: () => void
}

/** The samples of a step; those whose clips were begun are the first. */
interface Group {
  samples: readonly Sample[]
  entries: Entry[]
}

/** Options of a {@link Loader}. */
export interface LoaderOptions {
  /** Most bytes of features ahead of the group that is waited for. Default {@link AHEAD}; 0: none are read ahead. */
  bytes?: number | undefined
  signal?: AbortSignal | undefined
  /** Called when a clip's features have arrived. */
  onClip?: (() => void) | undefined
}

/** A group of samples whose features are there. */
export interface Loaded {
  /** Samples whose clips cannot be used, and why, in the group's order. */
  lost: Map<Sample, InputError>
  /** Seconds that the group was waited for. */
  waited: number
}

/**
 * Groups of samples, such as those of a step, in the order of their use. Clips are read and computed in that order, a
 * few at a time and at most so many bytes ahead; what a group gets does not depend on that. An error of a clip is kept
 * until its group's turn. {@link stop} has to be called in the end.
 */
export class Loader {
  /** Clips whose features have arrived. */
  arrived = 0
  readonly #plan: Iterator<readonly Sample[]>
  readonly #groups: Group[] = []
  #current: Group | undefined
  readonly #most: number
  readonly #running = new Set<Promise<void>>()
  /** Entries of groups after the one that is waited for. */
  #ahead = 0
  /** The last entry of each clip, and the clips that cannot be used. */
  readonly #latest = new Map<string, Promise<void>>()
  readonly #bad = new Map<string, unknown>()
  readonly #stop = new AbortController()
  readonly #signal: AbortSignal
  readonly #onClip: (() => void) | undefined

  /** @param groups read lazily: as far as clips are begun */
  constructor(
    private readonly features: Features,
    groups: Iterable<readonly Sample[]>,
    { bytes = AHEAD, signal, onClip }: LoaderOptions = {},
  ) {
    this.#plan = groups[Symbol.iterator]()
    this.#most = bytes > 0 ? Math.max(1, Math.floor(bytes / features.clipBytes)) : 0
    this.#signal = signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal
    this.#onClip = onClip
  }

  /**
   * Waits for the features of the next group, which are held until the group after it is asked for.
   *
   * @throws the signal's reason once that aborts; any error that is not a clip's own, such as numbers that are not
   *   finite
   */
  async next(): Promise<Loaded> {
    const begin = performance.now()
    for (const { release } of this.#current?.entries ?? []) release?.()
    const group = (this.#current = this.#groups.shift() ?? this.#pull())
    if (!group) throw new Error('the loader was asked for more groups than there are')
    this.#ahead -= group.entries.length
    this.#fill()
    for (let i = 0; i < group.samples.length; i++) {
      while (!group.entries[i]) {
        this.#signal.throwIfAborted()
        await Promise.race(this.#running)
      }
      await group.entries[i]!.done
    }
    this.#signal.throwIfAborted()
    const lost = new Map<Sample, InputError>()
    for (const { sample, error } of group.entries) {
      if (error === undefined) continue
      if (!(error instanceof InputError) || error instanceof NotFiniteError) throw error
      lost.set(sample, error)
    }
    return { lost, waited: (performance.now() - begin) / 1000 }
  }

  /** Ends what is being read, waits for it, and lets all features go. Never rejects. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('the loader was stopped'))
    const all = [this.#current, ...this.#groups].flatMap((group) => group?.entries ?? [])
    for (const { done } of all) await done
    for (const { release } of all) release?.()
    this.#groups.length = 0
    this.#current = undefined
  }

  #pull(): Group | undefined {
    const { value, done } = this.#plan.next()
    return done ? undefined : { samples: value, entries: [] }
  }

  /** Begins clips, as long as there is room. */
  #fill(): void {
    const incomplete = ({ samples, entries }: Group): boolean => entries.length < samples.length
    // One more than can be decoded: one is in the vision tower.
    while (this.#running.size <= DECODERS && !this.#signal.aborted) {
      if (this.#current && incomplete(this.#current)) {
        this.#begin(this.#current)
        continue
      }
      if (this.#ahead >= this.#most) return
      let group = this.#groups.find(incomplete)
      if (!group) {
        group = this.#pull()
        if (!group) return
        this.#groups.push(group)
        if (!incomplete(group)) continue
      }
      this.#ahead++
      this.#begin(group)
    }
  }

  #begin(group: Group): void {
    const sample = group.samples[group.entries.length]!
    const key = clipKey(sample)
    const before = this.#latest.get(key)
    const entry: Entry = { sample, done: Promise.resolve() }
    const read = async (): Promise<void> => {
      await before
      try {
        // A clip that cannot be used is not read again.
        if (this.#bad.has(key)) throw this.#bad.get(key)
        entry.release = await this.features.hold(sample, this.#signal)
        this.arrived++
        this.#onClip?.()
      } catch (error) {
        entry.error = error
        if (error instanceof InputError) this.#bad.set(key, error)
      }
      this.#running.delete(entry.done)
      if (this.#latest.get(key) === entry.done) this.#latest.delete(key)
      try {
        this.#fill()
      } catch (error) {
        entry.error ??= error // the plan's own
      }
    }
    entry.done = read()
    this.#running.add(entry.done)
    this.#latest.set(key, entry.done)
    group.entries.push(entry)
  }
}
