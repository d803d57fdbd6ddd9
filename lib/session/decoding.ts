/**
 * Decoding, one token of every row at a time: the likeliest, or what a caller chooses by the scores. On a CUDA device
 * every step has the same launches on the same memory: positions, the key mask and the cache's length are read from
 * device memory. A step is captured once per range of key counts, and replayed. Steps of an encoder and a decoder are
 * launched one by one: the biases of distances depend on the position.
 */
import { invalid } from '../errors.js'
import {
  embedTokens,
  isEncoderDecoder,
  KVCache,
  logits,
  tokenTensor,
  type CausalModel,
  type EncoderDecoder,
  type Source,
} from '../models/decoder.js'
import type { ImageModel } from '../models/image-model.js'
import { argmax } from '../ops/argmax.js'
import { cast, full, write } from '../ops/copy.js'
import { expand, narrow, reshape } from '../ops/views.js'
import { roundUp } from '../shape.js'
import { Graph } from '../tensor/cuda-graph.js'
import { keep, scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { itemSize } from '../tensor/dtype.js'
import { tensor, type Tensor } from '../tensor/tensor.js'

/** A captured step reads a multiple of this many keys; those not yet written are masked. */
const KEYS = 64
/** Capacity, in tokens, of a cache that is kept for later answers. */
const CAPACITY = 256

export interface DecoderOptions {
  rows: number
  /** Most tokens of a row, its prompt included unless an encoder reads that. */
  limit: number
  /** Whether every step gives the scores of all tokens, and the caller chooses; else the likeliest is taken. */
  scores?: boolean | undefined
  /** On a CUDA device, whether recurring steps are captured and replayed. The results are the same. Default: true. */
  graphs?: boolean | undefined
}

export class Decoder {
  /** Whether it is in use: its cache holds one answer at a time. */
  busy = true
  readonly capacity: number
  readonly #cache: KVCache
  /** 1 = token, [rows, capacity]; and the ids of the last step, [rows]. */
  readonly #mask: Uint8Array
  readonly #ids: Tensor
  /** The scores of the next ids, [rows, V], where a caller chooses. */
  readonly #scores: Tensor | undefined
  #positions: number[] = []
  /** What an encoder made of the prompts. */
  #source: Source | undefined
  /**
   * On a CUDA device, what a step reads there: where the cache goes on and the positions, [1 + rows]; the mask; a
   * column of ones.
   */
  readonly #device: { state: Tensor; mask: Tensor; ones: Tensor } | undefined
  /** By keys; null: seen once. */
  readonly #graphs = new Map<number, Graph | null>()

  constructor(
    readonly model: ImageModel,
    readonly options: DecoderOptions,
  ) {
    const { device } = model
    const { rows, limit } = options
    const captures = device !== 'cpu' && !isEncoderDecoder(model.language)
    this.capacity = captures ? roundUp(limit, CAPACITY) : limit
    this.#cache = new KVCache(this.capacity)
    this.#mask = new Uint8Array(rows * this.capacity)
    this.#ids = keep(full([rows], 0, 'int32', device))
    if (options.scores) this.#scores = keep(full([rows, model.language.head.dim(0)], 0, 'float32', device))
    if (captures) {
      const bytes = (shape: number[], value: number): Tensor => keep(full(shape, value, 'uint8', device))
      this.#device = {
        state: keep(full([1 + rows], 0, 'int32', device)),
        mask: bytes([rows, this.capacity], 0),
        ones: bytes([rows, 1], 1),
      }
    }
  }

  /**
   * A decoder for the model: a kept one where it has room and is not in use, else a new one. Return it with {@link
   * release}.
   */
  static of(model: ImageModel, options: DecoderOptions): Decoder {
    for (const decoder of model.attached) {
      if (
        !(decoder instanceof Decoder) ||
        decoder.busy ||
        decoder.options.rows !== options.rows ||
        decoder.capacity < options.limit ||
        decoder.options.graphs !== options.graphs ||
        (decoder.options.scores ?? false) !== (options.scores ?? false)
      )
        continue
      decoder.busy = true
      return decoder
    }
    return new Decoder(model, options)
  }

  /**
   * Keeps it for the life of the model if it holds graphs, else frees its memory. `spoilt`: the cache's content must
   * not be used again.
   */
  release(spoilt = false): void {
    const { attached } = this.model
    attached.delete(this)
    if (spoilt || ![...this.#graphs.values()].some(Boolean)) return this.dispose()
    for (const other of attached) if (other instanceof Decoder && !other.busy) other.dispose(), attached.delete(other)
    this.busy = false
    attached.add(this)
  }

  /** Tokens of each row so far. */
  get length(): number {
    return this.#cache.length
  }

  /**
   * Begins with rows of embeddings x [rows,n,D] and their mask, row-major [rows,n]: padding stands on the left, before
   * an encoder on the right, and one row may stand for all. Returns the likeliest next id of each row; −1 where a score
   * is not finite.
   */
  async begin(x: Tensor, mask: Uint8Array): Promise<Int32Array> {
    this.#begin(x, mask)
    return (await this.#ids.data()) as Int32Array
  }

  /** The same for a caller who chooses: the scores [rows·V] of the next ids, NaN included. */
  async beginScores(x: Tensor, mask: Uint8Array): Promise<Float32Array> {
    this.#begin(x, mask)
    return (await this.#scores!.data()) as Float32Array
  }

  #begin(x: Tensor, mask: Uint8Array): void {
    const { rows } = this.options
    const { language } = this.model
    const n = x.dim(1)
    if (isEncoderDecoder(language)) return this.#read(language, x, mask)
    if (x.dim(0) !== rows || mask.length !== rows * n || n > this.capacity)
      throw invalid('x', `[${rows},n,D] with n up to ${this.capacity}, and its mask`, `[${x.shape}] and ${mask.length}`)
    this.#cache.length = 0
    this.#mask.fill(0)
    for (let r = 0; r < rows; r++) this.#mask.set(mask.subarray(r * n, (r + 1) * n), r * this.capacity)
    scope(() =>
      noGrad(() => {
        if (this.#device)
          write(this.#device.mask, tensor(this.#mask, [rows, this.capacity], 'uint8', this.model.device))
        this.#forward(language, x)
      }),
    )
  }

  /** Encodes the prompts, and feeds the start id. */
  #read(language: EncoderDecoder, x: Tensor, mask: Uint8Array): void {
    const { rows } = this.options
    const [given, n] = x.shape as [number, number]
    if ((given !== rows && given !== 1) || mask.length !== given * n)
      throw invalid('x', `[${rows},n,D] or [1,n,D], and its mask`, `[${x.shape}] and ${mask.length}`)
    this.#freeSource()
    this.#cache.length = 0
    scope(() =>
      noGrad(() => {
        const { mask: seen, layers } = language.encode(x, tokenTensor(mask, given, this.model.device))
        const all = (t: Tensor): Tensor => keep(given === rows ? t : expand(t, [rows, ...t.shape.slice(1)]))
        const made = new Map<Tensor, Tensor>()
        for (const { k, v } of layers) for (const { of } of [k, v]) if (!made.has(of)) made.set(of, all(of))
        this.#source = {
          mask: all(seen),
          layers: layers.map(({ k, v }) => ({ k: { ...k, of: made.get(k.of)! }, v: { ...v, of: made.get(v.of)! } })),
        }
        const start = new Int32Array(rows).fill(language.config.startId)
        write(this.#ids, tensor(start, [rows], 'int32', this.model.device))
        this.#decode(language)
      }),
    )
  }

  #freeSource(): void {
    for (const t of new Set(this.#source?.layers.flatMap(({ k, v }) => [k.of, v.of]))) t.dispose()
    this.#source?.mask.dispose()
    this.#source = undefined
  }

  /** Feeds the last ids to a decoder beside its encoder. */
  #decode(language: EncoderDecoder): void {
    this.#choose(language.decode(this.#words(), this.#source!, { cache: this.#cache }))
    this.#cache.length++
  }

  /** Feeds the previous ids and returns the next ones, as {@link begin} does. */
  async next(): Promise<Int32Array> {
    this.#next()
    return (await this.#ids.data()) as Int32Array
  }

  /**
   * Feeds one id to every row and returns the scores of the next, as {@link beginScores} does. `parents`: each row goes
   * on where that row was; all rows have the same mask then.
   */
  async nextScores(ids: readonly number[], parents?: readonly number[]): Promise<Float32Array> {
    scope(() =>
      noGrad(() => {
        if (parents) this.#cache.reorder(parents)
        write(this.#ids, tensor(Int32Array.from(ids), [ids.length], 'int32', this.model.device))
      }),
    )
    this.#next()
    return (await this.#scores!.data()) as Float32Array
  }

  #next(): void {
    const { length } = this
    if (length >= this.capacity) throw invalid('context', `at most ${this.capacity} tokens`, length + 1)
    for (let r = 0; r < this.options.rows; r++) this.#mask[r * this.capacity + length] = 1
    const { language } = this.model
    scope(() =>
      noGrad(() => {
        if (isEncoderDecoder(language)) this.#decode(language)
        else if (this.#device) this.#replay(language, this.#device)
        else this.#forward(language, this.#words())
      }),
    )
  }

  /** Bytes of its keys and values, those of an encoder's rows included. */
  get cacheBytes(): number {
    const { mask, layers = [] } = this.#source ?? {}
    const kept = new Set(layers.flatMap(({ k, v }) => [k.of, v.of]))
    const rows = mask?.strides[0] === 0 ? this.options.rows : 1 // one row that stands for all
    return [...kept].reduce((n, t) => n + (t.size / rows) * itemSize(t.dtype), this.#cache.bytes)
  }

  #words(): Tensor {
    return embedTokens(this.model.language, this.#ids.view([this.options.rows, 1]), this.model.precision)
  }
  /** The likeliest next ids, or the scores of all, from hidden states [rows,n,D]. */
  #choose(hidden: Tensor): void {
    const [rows, n, width] = hidden.shape as [number, number, number]
    const scores = logits(this.model.language, reshape(narrow(hidden, 1, n - 1, 1), [rows, width]))
    if (this.#scores) write(this.#scores, cast(scores, 'float32'))
    else write(this.#ids, argmax(scores))
  }

  /** Feeds x [rows,n,D] with host-side positions and mask. */
  #forward(language: CausalModel, x: Tensor): void {
    const {
      model: { device },
      options: { rows },
    } = this
    const [n, before] = [x.dim(1), this.length]
    const mask = new Uint8Array(rows * (before + n))
    for (let r = 0; r < rows; r++)
      mask.set(this.#mask.subarray(r * this.capacity, r * this.capacity + before + n), r * (before + n))
    const all = language.positions(mask, rows)
    const positions = Int32Array.from(
      { length: rows * n },
      (_, i) => all[Math.floor(i / n) * (before + n) + before + (i % n)]!,
    )
    this.#choose(
      language.forward(x, {
        mask: tokenTensor(mask, rows, device),
        positions: tokenTensor(positions, rows, device),
        cache: this.#cache,
      }),
    )
    this.#cache.length += n
    // Of the token after these: where the last one of a row is a token, its position is the next.
    this.#positions = Array.from({ length: rows }, (_, r) => positions[r * n + n - 1]! + 1)
  }

  /** Feeds the last ids by launches that are the same each time, captured at the second sight of so many keys. */
  #replay(language: CausalModel, { state, mask, ones }: { state: Tensor; mask: Tensor; ones: Tensor }): void {
    const {
      model: { device },
      options: { rows, graphs = true },
      length,
    } = this
    write(state, tensor(Int32Array.of(length, ...this.#positions), [1 + rows], 'int32', device))
    write(mask.view([rows, 1], mask.strides, length), ones)
    const keys = Math.min(this.capacity, roundUp(length + 1, KEYS))
    const step = (): void => {
      const cache = this.#cache.at(state.view([1]), keys)
      const hidden = language.forward(this.#words(), {
        mask: mask.view([rows, keys], mask.strides),
        positions: state.view([rows, 1], [1, 1], 1),
        cache,
      })
      this.#choose(hidden)
    }
    let graph = graphs ? this.#graphs.get(keys) : undefined
    if (graph === null) this.#graphs.set(keys, (graph = Graph.capture(device, step).graph))
    if (graph) graph.replay()
    else step()
    if (graph === undefined && graphs) this.#graphs.set(keys, null)
    this.#cache.length++
    this.#positions = this.#positions.map((p) => p + 1)
  }

  dispose(): void {
    for (const graph of this.#graphs.values()) graph?.dispose()
    this.#graphs.clear()
    this.#cache.dispose()
    this.#freeSource()
    for (const t of [this.#ids, this.#scores, ...Object.values(this.#device ?? {})]) t?.dispose()
  }
}
