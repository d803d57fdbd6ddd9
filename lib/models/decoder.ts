/** What the language families share: decoders over given input embeddings, with a cache for generation. */
import { attention } from '../ops/attention.js'
import { cacheAppend } from '../ops/cache-append.js'
import { type Columns, columnsOf, viewOf } from '../ops/columns.js'
import { copy, full, write } from '../ops/copy.js'
import { embedding } from '../ops/embedding.js'
import { linear } from '../ops/linear.js'
import { expand, narrow, reshape } from '../ops/views.js'
import { keep } from '../tensor/scope.js'
import type { Device } from '../tensor/device.js'
import { itemSize, type Precision } from '../tensor/dtype.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { Finder, Observe } from './finder.js'

/** What is asked of every language model's configuration; a family adds its own. */
export interface DecoderConfig {
  /** The family: `model_type` in config.json. */
  kind: string
  hiddenSize: number
  mlpSize: number
  layers: number
  heads: number
  maxPositions: number
  vocabSize: number
  eps: number
  /** Whether the output matrix is the embedding. */
  tied: boolean
  padId: number | null
  bosId: number | null
  eosId: number | null
  /**
   * Of an encoder and a decoder: the id that the decoder reads first. Absent: one decoder reads prompt and answer.
   */
  startId?: number
}

/** A family of language models: all that the rest of the project asks of it. */
export interface Family<C extends DecoderConfig> {
  title: string
  /** Reads the text_config of a config.json. Complaints begin with `where`. */
  config(text: unknown, where: string): C
  /** The canonical name of its token embedding. */
  embedding: string
  build(root: Finder, config: C): LanguageModel
  /** Whose end-of-sequence token ends an answer, where both name one: the tokenizer's or config.json's. */
  endsAnswers: 'tokenizer' | 'config'
  /** Heads and positions in a few words. */
  describe(config: C): string
}

/** The canonical name of every family's output matrix. */
export const HEAD = 'language_model.lm_head.weight'

/** The output matrix [V,D]: `tokens` where the two are tied, unless the weights hold one all the same. */
export function outputMatrix(root: Finder, { vocabSize, hiddenSize, tied }: DecoderConfig, tokens: Tensor): Tensor {
  const shape = [vocabSize, hiddenSize]
  return tied ? (root.find(HEAD, shape, { rows: true }) ?? tokens) : root.get(HEAD, shape, { rows: true })
}

/** Where the tokens of a call stand: mask [B, all tokens so far] uint8, positions [B, tokens of this call] int32. */
export interface Context {
  mask: Tensor
  positions: Tensor
  cache?: KVView | undefined
  observe?: Observe | undefined
  /** Whether the backward pass computes each layer again, in place of keeping what lies between. */
  recompute?: boolean | undefined
}

interface Tables {
  config: DecoderConfig
  /** Token embeddings [V,D]. */
  tokens: Tensor
  /** Output matrix [V,D]. */
  head: Tensor
  /** Frees what the model made beside its weights. */
  dispose?(): void
}

/** A decoder that reads prompt and answer. */
export interface CausalModel extends Tables {
  /** x [B,n,D] to the hidden states after the last norm, [B,n,D]. */
  forward(x: Tensor, context: Context): Tensor
  /** Positions of tokens from the mask over all of them. */
  positions(mask: ArrayLike<number>, rows: number): Int32Array
}

/** What a decoder attends to beside its own tokens: the keys and values of the encoder's rows, [B,n,h·d] per layer. */
export interface Source {
  /** [B,n] uint8, 1 = token. */
  mask: Tensor
  layers: { k: Columns; v: Columns }[]
}

/** An encoder that reads the prompt, and a decoder that reads the answer. */
export interface EncoderDecoder extends Tables {
  config: DecoderConfig & { startId: number }
  /** x [B,n,D], padded on the right, and its mask [B,n]. */
  encode(x: Tensor, mask: Tensor, options?: Pick<Context, 'observe' | 'recompute'>): Source
  /**
   * x [B,n,D] to the hidden states that {@link logits} takes, [B,n,D]. Rows see those before them, padding included,
   * which stands on the right.
   */
  decode(x: Tensor, source: Source, options?: { cache?: KVCache; observe?: Observe | undefined }): Tensor
}

export type LanguageModel = CausalModel | EncoderDecoder

export const isEncoderDecoder = (model: LanguageModel): model is EncoderDecoder => 'encode' in model

/** Rows of the token table: ids [B,n] int32 to [B,n,D]. */
export const embedTokens = (model: LanguageModel, ids: Tensor, precision: Precision): Tensor =>
  embedding(ids, model.tokens, precision)

/** Hidden states [...,D] to logits [...,V]. */
export const logits = (model: LanguageModel, hidden: Tensor): Tensor => linear(hidden, model.head, undefined)

/** What a decoder does with a cache: of {@link KVCache} itself, or of a step that is captured ({@link KVCache.at}). */
export type KVView = Pick<KVCache, 'append' | 'endsWithQueries'>

/** Keys and values of the tokens so far, per layer. For generation, without gradients. */
export class KVCache {
  readonly #slots: { k: Tensor; v: Tensor }[] = []
  /** Whether the last key belongs to the last query, so that attention is causal; else the mask alone decides. */
  readonly endsWithQueries: boolean = true
  /** Tokens held. */
  length = 0

  /** @param limit most tokens that will ever be held */
  constructor(readonly limit: number) {}

  /** Appends keys and values [B,n,D] of layer `i` behind `length` and returns all so far, [B,length+n,D]. */
  append(i: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const slot = this.#slot(i, k)
    const n = k.dim(1)
    write(tokensFrom(slot.k, this.length, n), k)
    write(tokensFrom(slot.v, this.length, n), v)
    return { k: tokensFrom(slot.k, 0, this.length + n), v: tokensFrom(slot.v, 0, this.length + n) }
  }

  /**
   * The same cache for work that is captured: appends at the row that `at` [1] int32 holds by then, and returns the
   * first `keys` rows.
   */
  at(at: Tensor, keys: number): KVView {
    return {
      endsWithQueries: false,
      append: (i, k, v) => {
        const slot = this.#slot(i, k)
        cacheAppend(k, v, at, slot.k, slot.v)
        return { k: tokensFrom(slot.k, 0, keys), v: tokensFrom(slot.v, 0, keys) }
      },
    }
  }

  /** Gives each row the tokens that row `parents[row]` holds. */
  reorder(parents: readonly number[]): void {
    const moved = parents.flatMap((parent, row) => (parent === row ? [] : [{ parent, row }]))
    if (!moved.length) return
    const rowOf = (t: Tensor, row: number): Tensor => t.view([1, this.length, t.dim(2)], t.strides, row * t.strides[0]!)
    for (const slot of this.#slots)
      for (const t of [slot.k, slot.v]) {
        const before = moved.map(({ parent }) => copy(rowOf(t, parent)))
        for (const [i, { row }] of moved.entries()) write(rowOf(t, row), before[i]!)
      }
  }

  #slot(i: number, k: Tensor): { k: Tensor; v: Tensor } {
    // Zeros: masked values are multiplied by 0 and must be finite.
    const room = (): Tensor => keep(full([k.dim(0), this.limit, k.dim(2)], 0, k.dtype, k.device))
    return (this.#slots[i] ??= { k: room(), v: room() })
  }

  /** Bytes of all keys and values. */
  get bytes(): number {
    return this.#slots.reduce((n, { k, v }) => n + (k.size + v.size) * itemSize(k.dtype), 0)
  }

  dispose(): void {
    for (const { k, v } of this.#slots) {
      k.dispose()
      v.dispose()
    }
  }
}

/** Tokens `start` to `start + count` of a cache [B,M,D]. */
function tokensFrom(t: Tensor, start: number, count: number): Tensor {
  return t.view([t.dim(0), count, t.dim(2)], t.strides, start * t.dim(2))
}

/** Causal self-attention of one layer over what it and the cache hold. q [B,n,h·d], k and v [B,n,kv·d]. */
export function causal(
  q: Columns,
  k: Columns,
  v: Columns,
  heads: number,
  kvHeads: number,
  layer: number,
  context: Context,
): Tensor {
  const all = context.cache ? context.cache.append(layer, viewOf(k), viewOf(v)) : { k, v }
  const share = (x: Tensor | Columns): Tensor | Columns => {
    if (kvHeads === heads) return x
    const { of, start, width } = columnsOf(x)
    const t = narrow(of, -1, start, width)
    const [b, n] = t.shape as [number, number, number]
    const d = width / kvHeads
    return reshape(expand(reshape(t, [b, n, kvHeads, 1, d]), [b, n, kvHeads, heads / kvHeads, d]), [b, n, heads * d])
  }
  return attention(q, share(all.k), share(all.v), {
    heads,
    keyMask: context.mask,
    causal: context.cache?.endsWithQueries ?? true,
    mode: 'off',
  })
}

/**
 * Positions that count attended tokens, 0, 1, 2, … (what generation does). Nothing depends on those of padding: behind
 * the last token the count goes on, before it they are 1, as in Hugging Face's model.
 */
export function countedPositions(mask: ArrayLike<number>, rows: number): Int32Array {
  const n = mask.length / rows
  const out = new Int32Array(mask.length)
  for (let r = 0; r < rows; r++) {
    let last = n - 1
    while (last >= 0 && !mask[r * n + last]) last--
    for (let i = 0, count = 0; i < n; i++) out[r * n + i] = mask[r * n + i] || i > last ? count++ : 1
  }
  return out
}

/** Ids, a mask or positions of tokens, [rows,n], as a tensor. */
export const tokenTensor = (data: Uint8Array | Int32Array, rows: number, device: Device): Tensor =>
  tensor(data, [rows, data.length / rows], data instanceof Uint8Array ? 'uint8' : 'int32', device)
