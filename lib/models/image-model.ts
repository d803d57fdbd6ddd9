/**
 * The whole model: frames and texts in, visual tokens, hidden states, loss and answers out. Without an adapter it is
 * the image model, frame by frame.
 */
import { InputError, invalid } from '../errors.js'
import { project, type Linear } from '../nn/layers.js'
import { crossEntropy, IGNORE } from '../ops/cross-entropy.js'
import { embedding } from '../ops/embedding.js'
import { add } from '../ops/elementwise.js'
import { cast } from '../ops/copy.js'
import { mean } from '../ops/reduce.js'
import { concat, expand, narrow, reshape } from '../ops/views.js'
import type { Device } from '../tensor/device.js'
import type { Precision } from '../tensor/dtype.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { embedTokens, isEncoderDecoder, logits, tokenTensor, type LanguageModel } from './decoder.js'
import { finder, recorded, type Finder, type Observe, type Wanted, type Weights } from './finder.js'
import { languageModel, type LanguageConfig } from './language.js'
import { qformer, qformerForward, type LayerAdapter, type QFormer, type QFormerConfig } from './qformer.js'
import { vit, vitForward, type Vit, type VisionConfig } from './vit.js'

/** The configuration of a checkpoint: what its config.json says, defaults filled in. */
export interface ModelConfig {
  family: 'instructblip' | 'blip-2'
  /** L: learned queries, and visual tokens of a frame. */
  numQueryTokens: number
  /** The token that stands for a picture in the texts of newer checkpoints. */
  imageTokenId?: number
  /** The token that stands for a video. */
  videoTokenId?: number
  /** What config.json says the weights are stored in; the files know better. */
  dtype?: string
  /** A second checkpoint, whose Q-Former's text path is taken: a folder, or a file of torch. */
  textFrom?: string
  vision: VisionConfig
  qformer: QFormerConfig
  language: LanguageConfig
}

/** The interface of an adapter, which makes a video model of the image model; see `adapter`. */
export interface VideoAdapter {
  /** Whether the text goes into the Q-Former (early fusion). */
  fusion: boolean
  aggregate: 'mean' | 'concat'
  /** Whether all frames of a video share one spatial attention: the s²f² baseline. */
  joint: boolean
  /** Added to the queries: e_t [maxFrames,D] per frame, e_s [L,D] per query (6). */
  positions: { frame: Tensor; query: Tensor }
  /** Per layer, for T frames and K text tokens. */
  layers(frames: number, textTokens: number): readonly LayerAdapter[]
}

/** The texts that the Q-Former reads, padded on the right. */
export interface QFormerText {
  /** [B,K] int32 */
  ids: Tensor
  /** [B,K] uint8, 1 = token */
  mask: Tensor
}

/**
 * The text rows that the language model reads, row-major [B,S]. Labels: the id on answer tokens, {@link IGNORE}
 * elsewhere.
 */
export interface TextRows {
  rows: number
  ids: Int32Array
  mask: Uint8Array
  labels?: Int32Array | undefined
  /**
   * Of an encoder and a decoder, whose encoder reads `ids`: what the decoder reads, [B,A], each id before the label
   * that it predicts. Labels are [B,A] then.
   */
  decoder?: Int32Array | undefined
}

/** Text rows as tensors where the model computes. */
export interface DeviceText {
  /** [B,S] int32 */
  ids: Tensor
  /** [B,V+S] uint8, 1 = token */
  mask: Tensor
  /** [B,V+S] int32; absent where the model has none */
  positions?: Tensor
  /** What the decoder reads where an encoder reads `ids`, [B,A] int32. */
  decoder?: Tensor
  /**
   * The rows, of B·(V+S) or of the decoder's B·A, that predict an answer token, and these tokens: [N] int32 each. Where
   * the text has labels.
   */
  answers?: { indices: Tensor; targets: Tensor }
}
const isOnDevice = (text: TextRows | DeviceText): text is DeviceText => !(text.ids instanceof Int32Array)

interface Parts {
  vision: Vit
  qformer: QFormer
  projection: Linear
  language: LanguageModel
}

/** The parts in the order of the data flow. */
const parts = (root: Finder, config: ModelConfig): Parts => ({
  vision: vit(root, config.vision),
  qformer: qformer(root, config.qformer, config.numQueryTokens),
  projection: root.linear('language_projection', config.language.hiddenSize, config.qformer.hiddenSize),
  language: languageModel(root, config.language),
})

/** Every tensor that the weights of a model must hold, in the order of the data flow. */
export const wantedTensors = (config: ModelConfig): Wanted[] => recorded((root) => parts(root, config))

/** A BLIP-2 or InstructBLIP model over given weights. With an adapter it is a video model. */
export class ImageModel implements Parts {
  /** Where the weights lie and everything is computed; inputs are moved there. */
  readonly device: Device
  readonly vision: Vit
  readonly qformer: QFormer
  readonly projection: Linear
  readonly language: LanguageModel

  /** @param precision what activations are stored in; sums, softmax and norms are float32 either way */
  constructor(
    readonly config: ModelConfig,
    readonly weights: Weights,
    readonly precision: Precision = 'float32',
  ) {
    this.device = weights.values().next().value?.device ?? 'cpu'
    ;({
      vision: this.vision,
      qformer: this.qformer,
      projection: this.projection,
      language: this.language,
    } = parts(finder(weights), config))
  }

  /** Pixels [B,T,3,S,S] to E_v [B,T,K_V,D_v] (5). */
  features(pixels: Tensor, observe?: Observe): Tensor {
    const { imageSize: s, channels, tokens, hiddenSize } = this.config.vision
    const [b, t] = pixels.shape as [number, number]
    if (pixels.rank !== 5 || pixels.dim(2) !== channels || pixels.dim(3) !== s || pixels.dim(4) !== s)
      throw invalid('pixels', `shape [B,T,${channels},${s},${s}]`, `[${pixels.shape}]`)
    return reshape(
      vitForward(this.vision, cast(reshape(pixels.to(this.device), [b * t, channels, s, s]), this.precision), observe),
      [b, t, tokens, hiddenSize],
    )
  }

  /**
   * E_v [B,T,K_V,D_v] and a text to visual tokens for the language model: [B,L,D_llm], or [B,T·L,D_llm] with `concat`.
   */
  visualTokens(
    features: Tensor,
    text: QFormerText | undefined,
    adapter?: VideoAdapter,
    { observe, recompute }: { observe?: Observe | undefined; recompute?: boolean } = {},
  ): Tensor {
    const {
      numQueryTokens: L,
      vision,
      qformer: { hiddenSize: D, hasText },
    } = this.config
    const [B, T] = features.shape as [number, number]
    if (features.rank !== 4 || features.dim(2) !== vision.tokens || features.dim(3) !== vision.hiddenSize)
      throw invalid('features', `shape [B,T,${vision.tokens},${vision.hiddenSize}]`, `[${features.shape}]`)
    if (T < 1) throw invalid('frames', 'at least one frame', T)
    let queries = expand(reshape(this.qformer.queries, [1, 1, L, D]), [1, T, L, D])
    if (adapter) {
      const { frame, query } = adapter.positions
      if (T > frame.dim(0))
        throw invalid('frames', `at most ${frame.dim(0)} frames`, T, 'raise temporal.maxFrames and train again')
      queries = add(add(queries, expand(reshape(narrow(frame, 0, 0, T), [1, T, 1, D]), [1, T, L, D])), query)
    }
    const grouped = adapter?.joint ? [B, 1, T * L, D] : [B, T, L, D]
    const fused =
      (adapter?.fusion ?? hasText) && text
        ? { ids: text.ids.to(this.device), mask: text.mask.to(this.device) }
        : undefined
    const out = qformerForward(this.qformer, {
      queries: reshape(expand(cast(queries, this.precision), [B, T, L, D]), grouped),
      image: cast(features.to(this.device), this.precision),
      text: fused,
      adapters: adapter?.layers(T, fused?.ids.dim(1) ?? 0),
      observe,
      recompute,
    })
    const perFrame = reshape(out, [B, T, L, D])
    const pooled = adapter?.aggregate === 'concat' ? reshape(perFrame, [B, T * L, D]) : mean(perFrame, 1)
    observe?.('aggregate', pooled)
    return project(this.projection, pooled)
  }

  /**
   * Everything of a text that depends on no weight, where the model computes; `V` visual rows will stand before it.
   *
   * @param padded how many answers to make of so many, with ones that do not count
   */
  upload(text: TextRows, V: number, padded = (n: number): number => n): DeviceText {
    const { language, device } = this
    const { rows, labels, decoder } = text
    const S = text.ids.length / rows
    const limit = this.config.language.maxPositions
    if (V + S > limit)
      throw new InputError(
        `context: ${V} visual tokens and ${S} text tokens make ${V + S}, but the language model has ${limit} positions; use fewer frames, aggregate: mean, or shorter texts.`,
      )
    if (isEncoderDecoder(language) !== (decoder !== undefined))
      throw invalid('text', `rows ${decoder ? 'without' : 'with'} ids for a decoder, as the language model is`, text)
    if (decoder && decoder.length / rows > limit)
      throw invalid('context', `at most ${limit} tokens of an answer`, decoder.length / rows, 'use shorter answers')
    const { ids, mask: isToken } = decoder ? withoutGaps(text) : text
    const mask = new Uint8Array(rows * (V + S))
    for (let r = 0; r < rows; r++) {
      mask.fill(1, r * (V + S), r * (V + S) + V)
      mask.set(isToken.subarray(r * S, (r + 1) * S), r * (V + S) + V)
    }
    return {
      ids: tokenTensor(ids, rows, device),
      mask: tokenTensor(mask, rows, device),
      ...(!isEncoderDecoder(language) && { positions: tokenTensor(language.positions(mask, rows), rows, device) }),
      ...(decoder && { decoder: tokenTensor(decoder, rows, device) }),
      ...(labels && { answers: this.#answers(text, V, padded) }),
    }
  }

  #answers(text: TextRows, V: number, padded = (n: number): number => n): { indices: Tensor; targets: Tensor } {
    const { indices, targets } = answerRows(text, V)
    for (let more = indices.length && padded(indices.length) - indices.length; more > 0; more--) {
      indices.push(0)
      targets.push(IGNORE)
    }
    const list = (values: number[]): Tensor => tensor(Int32Array.from(values), [values.length], 'int32', this.device)
    return { indices: list(indices), targets: list(targets) }
  }

  /**
   * Hidden states over [visual rows; text rows], [B,V+S,D_llm], or of a decoder's rows, [B,A,D_llm], where an encoder
   * reads those. The sequence must fit the language model's positions.
   */
  hidden(
    visual: Tensor,
    text: TextRows | DeviceText,
    options: { observe?: Observe | undefined; recompute?: boolean } = {},
  ): Tensor {
    const { language } = this
    const { ids, mask, positions, decoder } = isOnDevice(text) ? text : this.upload(text, visual.dim(1))
    const embed = (ids: Tensor): Tensor => embedTokens(language, ids, this.precision)
    const x = concat([visual, embed(ids)], 1)
    if (!isEncoderDecoder(language)) return language.forward(x, { mask, positions: positions!, ...options })
    return language.decode(embed(decoder!), language.encode(x, mask, options), options)
  }

  /**
   * Cross-entropy of the answers (3), times `factor`: the sum by default; 1/tokens makes it the mean. Text position i
   * predicts label i+1, a decoder's position i label i. The output matrix is applied to those rows alone.
   */
  loss(hidden: Tensor, text: TextRows | DeviceText, factor = 1): Tensor {
    const [B, N, D] = hidden.shape as [number, number, number]
    const answers = isOnDevice(text)
      ? text.answers
      : text.labels && this.#answers(text, N - text.ids.length / text.rows)
    if (!answers) throw invalid('labels', 'one label per text token', undefined)
    if (!answers.indices.size) throw invalid('labels', 'at least one answer token', 'none in the batch')
    const chosen = embedding(answers.indices, reshape(hidden, [B * N, D]), this.precision)
    return crossEntropy(logits(this.language, chosen), answers.targets, factor)
  }

  /** Objects that are disposed with this model. */
  readonly attached = new Set<{ dispose(): void }>()

  /** Frees the weights, and what is attached. */
  dispose(): void {
    for (const a of this.attached) a.dispose()
    this.attached.clear()
    this.language.dispose?.()
    for (const t of this.weights.values()) t.dispose()
  }
}

/** The rows with their padding on the right, so that distances between tokens count tokens. */
function withoutGaps({ rows, ids, mask }: TextRows): Pick<TextRows, 'ids' | 'mask'> {
  const S = ids.length / rows
  const out = { ids: new Int32Array(ids.length), mask: new Uint8Array(mask.length) }
  for (let r = 0; r < rows; r++) {
    let next = r * S
    for (const isToken of [1, 0])
      for (let i = r * S; i < (r + 1) * S; i++) {
        if (Number(mask[i] !== 0) !== isToken) continue
        out.ids[next] = ids[i]!
        out.mask[next++] = isToken
      }
  }
  return out
}

/**
 * The answer tokens of a batch behind V visual tokens: for each the row of hidden states that predicts it, and its id;
 * and how many each text has. Of B·(V+S) rows that is the one before its own, of a decoder's B·A the one of its label.
 */
export function answerRows(text: TextRows, V: number): { indices: number[]; targets: number[]; counts: number[] } {
  const { rows, labels, decoder } = text
  const S = (decoder ?? text.ids).length / rows
  const [indices, targets]: [number[], number[]] = [[], []]
  const counts = new Array<number>(rows).fill(0)
  for (let r = 0; labels && r < rows; r++) {
    for (let i = decoder ? 0 : 1; i < S; i++) {
      const label = labels[r * S + i]!
      if (label === IGNORE) continue
      indices.push(decoder ? r * S + i : r * (V + S) + V + i - 1)
      targets.push(label)
      counts[r]!++
    }
  }
  return { indices, targets, counts }
}

/** How many answer tokens a batch has: labels that count. */
export const answerTokens = (text: TextRows): number => answerRows(text, 0).targets.length
