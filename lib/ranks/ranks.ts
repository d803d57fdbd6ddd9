/** The processes, or ranks, that compute one run together, and what they tell each other. */
import { deserialize, serialize } from 'node:v8'
import { InputError } from '../errors.js'

/**
 * How bytes get from rank to rank. All ranks make the same calls in the same order, one at a time, and those of the
 * others are waited for.
 */
export interface Transport {
  readonly rank: number
  readonly size: number
  /** Whether the ranks share a queue of operators: where one of them fails, those of others may have been skipped. */
  readonly shared?: boolean
  /** The bytes of all ranks, in rank order; each gives as many. */
  allgather(bytes: Uint8Array): Promise<Uint8Array>
  /** This rank's part of the bytes of all ranks, in rank order; each gives `size` parts, all of one length. */
  alltoall(bytes: Uint8Array): Promise<Uint8Array>
  /** The bytes of the rank `root`; each gives as many. */
  broadcast(bytes: Uint8Array, root: number): Promise<Uint8Array>
  /** Ends all ranks at once. */
  abort(code: number): void
  /** Settles when all ranks have called it. */
  close(): Promise<void>
}

/** What another rank ended the run with. */
export class RankError extends InputError {
  /** @param unexpected whether it was none that a user can correct */
  constructor(
    message: string,
    readonly unexpected: boolean,
  ) {
    super(message)
  }
}

/** Another rank was told to stop. */
export class RankStopped extends Error {
  override name = 'AbortError'
}

/** What a rank is about to do. */
const WHAT = ['gather', 'sum', 'broadcast', 'close', 'fail', 'break', 'stop'] as const
type What = (typeof WHAT)[number]

/** The ranks of a run, as one of them sees them. Without a transport it is alone, and exchanges nothing. */
export class Ranks {
  /** Whether the ranks have ended, or one of them. */
  #over = false
  #broken = false

  constructor(private readonly transport?: Transport) {}

  /** Whether the others can no longer be reached; then {@link abort} ends them. */
  get broken(): boolean {
    return this.#broken
  }
  /** This rank's number, from 0. */
  get rank(): number {
    return this.transport?.rank ?? 0
  }
  /** How many ranks there are. */
  get size(): number {
    return this.transport?.size ?? 1
  }
  /** Whether this is the rank that writes files and reports. */
  get first(): boolean {
    return this.rank === 0
  }

  /** This rank's share of a list: element i is that of rank i mod {@link size}. */
  share<T>(all: readonly T[]): readonly T[] {
    return this.size === 1 ? all : all.filter((_, i) => i % this.size === this.rank)
  }

  /** This rank's {@link share} of each group of consecutive elements, of which every rank gets `each` at most. */
  shares<T>(all: readonly T[], each: number): (readonly T[])[] {
    const group = each * this.size
    return Array.from({ length: Math.ceil(all.length / group) }, (_, i) =>
      this.share(all.slice(i * group, (i + 1) * group)),
    )
  }

  /** Every rank's value, in rank order: numbers, texts, arrays and plain objects. */
  async gather<T>(value: T): Promise<T[]> {
    if (!this.transport) return [value]
    return (await this.gatherBytes(serialize(value))).map((bytes) => deserialize(bytes) as T)
  }

  /** Runs what the ranks of one process cannot do at the same time: there, one rank after another. */
  async inTurn(act: () => Promise<void>): Promise<void> {
    if (!this.transport?.shared) return act()
    for (let rank = 0; rank < this.size; rank++) {
      if (rank === this.rank) await act()
      await this.gather(rank)
    }
  }

  /** Every rank's bytes, in rank order. */
  async gatherBytes(bytes: Uint8Array): Promise<Uint8Array[]> {
    if (!this.transport) return [bytes]
    return this.#collect(bytes, await this.#meet('gather', bytes.length))
  }

  /**
   * The sums of every rank's numbers, added in rank order: the same bits on every rank and in every rerun with as many
   * ranks, whatever the network does. Each rank adds the part of the numbers that is its own, and the sums of all parts
   * are gathered; so a rank receives less than twice the bytes that it gives, however many ranks there are.
   *
   * @param mine as many on every rank
   */
  async sum(mine: Float32Array): Promise<Float32Array> {
    if (!this.transport) return mine
    const lengths = await this.#meet('sum', mine.length)
    if (lengths.some((n) => n !== mine.length))
      throw new Error(`the ranks add different numbers of elements: ${lengths.join(', ')}`)
    const part = Math.ceil(mine.length / this.size)
    const padded = new Float32Array(part * this.size)
    padded.set(mine)
    const parts = floats(await this.#reach((t) => t.alltoall(new Uint8Array(padded.buffer))))
    const added = parts.slice(0, part)
    // The sum of two float32 numbers in float64, rounded: that of a processor's float32.
    for (let at = part; at < parts.length; at += part) for (let i = 0; i < part; i++) added[i]! += parts[at + i]!
    return floats(await this.#reach((t) => t.allgather(new Uint8Array(added.buffer)))).subarray(0, mine.length)
  }

  /** The bytes of the first rank; what others give is not looked at. */
  async fromFirst(bytes: Uint8Array): Promise<Uint8Array> {
    if (!this.transport) return bytes
    const [length] = await this.#meet('broadcast', bytes.length)
    return this.#reach((t) => t.broadcast(t.rank === 0 ? bytes : new Uint8Array(length!), 0))
  }

  /** Compares what every rank has to have the same of, by name. @throws InputError naming the first difference */
  async requireSame(mine: Readonly<Record<string, string>>): Promise<void> {
    const [first, ...others] = await this.gather(mine)
    for (const [name, value] of Object.entries(first!)) {
      const odd = others.findIndex((other) => other[name] !== value)
      if (odd >= 0)
        throw new InputError(
          `${name}: rank ${odd + 1} has ${others[odd]![name]}, but rank 0 has ${value}; every rank has to read the same files with the same program.`,
        )
    }
  }

  /**
   * Ends the run on all ranks: the others' next exchange, whichever it is, throws a {@link RankError} with this error's
   * sentence, or a {@link RankStopped}. Does nothing where they know already.
   *
   * @param stopped whether the error is that a user stopped the run
   */
  async failed(error: unknown, stopped = false): Promise<void> {
    if (!this.transport || this.#over) return
    const text = Buffer.from(error instanceof Error ? error.message : String(error))
    try {
      const what = stopped ? 'stop' : error instanceof InputError ? 'fail' : 'break'
      await this.#meet(what, text.length, text)
    } catch {
      // It fails where the others are gone. The error is what matters.
    }
  }

  /** Whether what this rank has computed is right in spite of an error that ends the run. */
  sound(error: unknown): boolean {
    const expected = error instanceof RankError ? !error.unexpected : error instanceof InputError
    return expected || !this.transport?.shared
  }

  /** Waits for all ranks, and ends them. Throws what another failed with in the meantime. */
  async close(): Promise<void> {
    const { transport } = this
    if (!transport) return
    try {
      if (!this.#over) await this.#meet('close', 0)
    } finally {
      this.#over = true
      if (!this.#broken) await this.#reach((t) => t.close())
    }
  }

  /** Ends all ranks at once, this one too. */
  abort(code: number): void {
    this.transport?.abort(code)
  }

  /** Tells the others what comes next and how many bytes it has; returns theirs. Throws what another failed with. */
  async #meet(what: What, length: number, text: Uint8Array = new Uint8Array(0)): Promise<number[]> {
    if (this.#over) throw new Error('the ranks have ended')
    const mine = Float64Array.of(WHAT.indexOf(what), length)
    const all = await this.#reach((t) => t.allgather(new Uint8Array(mine.buffer)))
    const heads = new Float64Array(Uint8Array.from(all).buffer)
    const whats = Array.from({ length: this.size }, (_, r) => WHAT[heads[2 * r]!]!)
    const lengths = whats.map((_, r) => heads[2 * r + 1]!)
    const ends = (w: What): boolean => w === 'fail' || w === 'break' || w === 'stop'
    if (whats.some(ends)) {
      this.#over = true
      const texts = await this.#collect(
        text,
        lengths.map((n, r) => (ends(whats[r]!) ? n : 0)),
      )
      if (ends(what)) return lengths
      const rank = whats.findIndex((w) => ends(w) && w !== 'stop')
      if (rank < 0) throw new RankStopped(`rank ${whats.indexOf('stop')} was stopped`)
      throw new RankError(`rank ${rank}: ${Buffer.from(texts[rank]!).toString()}`, whats[rank] === 'break')
    }
    if (whats.some((w) => w !== what)) {
      this.#over = this.#broken = true
      throw new Error(`the ranks are not at the same place: ${whats.map((w, r) => `rank ${r} would ${w}`).join(', ')}`)
    }
    return lengths
  }

  async #collect(bytes: Uint8Array, lengths: readonly number[]): Promise<Uint8Array[]> {
    const most = Math.max(...lengths)
    if (!most) return lengths.map(() => new Uint8Array(0))
    let padded = bytes
    if (bytes.length < most) (padded = new Uint8Array(most)).set(bytes)
    const all = await this.#reach((t) => t.allgather(padded))
    return lengths.map((n, r) => all.subarray(r * most, r * most + n))
  }

  async #reach<R>(act: (transport: Transport) => Promise<R>): Promise<R> {
    try {
      return await act(this.transport!)
    } catch (error) {
      this.#over = this.#broken = true
      throw error
    }
  }
}

/** What a transport gave, as numbers. */
const floats = ({ buffer, byteOffset, byteLength }: Uint8Array): Float32Array =>
  new Float32Array(buffer, byteOffset, byteLength / Float32Array.BYTES_PER_ELEMENT)

/** A run of one rank. */
export const alone = new Ranks()
