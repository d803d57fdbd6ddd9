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
import { embedTokens, logits, tokenTensor, type KVView, type LanguageModel } from './decoder.js'
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
}

/** Text rows as tensors where the model computes. */
export interface DeviceText {
  /** [B,S] int32 */
  ids: Tensor
  /** [B,V+S]: uint8, 1 = token; int32 */
  mask: Tensor
  positions: Tensor
  /**
   * The rows, of B·(V+S), that predict an answer token, and these tokens: [N] int32 each. Where the text has labels.
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
    const { rows, labels } = text
    const S = text.ids.length / rows
    const limit = this.config.language.maxPositions
    if (V + S > limit)
      throw new InputError(
        `context: ${V} visual tokens and ${S} text tokens make ${V + S}, but the language model has ${limit} positions; use fewer frames, aggregate: mean, or shorter texts.`,
      )
    const mask = new Uint8Array(rows * (V + S))
    for (let r = 0; r < rows; r++) {
      mask.fill(1, r * (V + S), r * (V + S) + V)
      mask.set(text.mask.subarray(r * S, (r + 1) * S), r * (V + S) + V)
    }
    const { indices, targets } = answerRows(text, V)
    for (let more = indices.length && padded(indices.length) - indices.length; more > 0; more--) {
      indices.push(0)
      targets.push(IGNORE)
    }
    const list = (values: number[]): Tensor => tensor(Int32Array.from(values), [values.length], 'int32', this.device)
    return {
      ids: tokenTensor(text.ids, rows, this.device),
      mask: tokenTensor(mask, rows, this.device),
      positions: tokenTensor(this.language.positions(mask, rows), rows, this.device),
      ...(labels && { answers: { indices: list(indices), targets: list(targets) } }),
    }
  }

  /**
   * Hidden states over [visual rows; text rows], [B,V+S,D_llm]. The sequence must fit the language model's positions.
   */
  hidden(
    visual: Tensor,
    text: TextRows | DeviceText,
    options: { cache?: KVView; observe?: Observe | undefined; recompute?: boolean } = {},
  ): Tensor {
    const { ids, mask, positions } = isOnDevice(text) ? text : this.upload(text, visual.dim(1))
    const words = embedTokens(this.language, ids, this.precision)
    return this.language.forward(concat([visual, words], 1), { mask, positions, ...options })
  }

  /**
   * Cross-entropy of the answers (3), times `factor`: the sum by default; 1/tokens makes it the mean. Text position i
   * predicts label i+1. The output matrix is applied to those rows alone.
   */
  loss(hidden: Tensor, text: TextRows | DeviceText, factor = 1): Tensor {
    const [B, N, D] = hidden.shape as [number, number, number]
    const { answers } = isOnDevice(text) ? text : this.upload(text, N - text.ids.length / text.rows)
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
    for (const t of this.weights.values()) t.dispose()
  }
}

/**
 * The answer tokens of a batch behind V visual tokens: for each the row of hidden states, of B·(V+S), that predicts it,
 * which is the one before its own, and its id; and how many each text has.
 */
export function answerRows(text: TextRows, V: number): { indices: number[]; targets: number[]; counts: number[] } {
  const { rows, labels } = text
  const S = text.ids.length / rows
  const [indices, targets]: [number[], number[]] = [[], []]
  const counts = new Array<number>(rows).fill(0)
  for (let r = 0; labels && r < rows; r++) {
    for (let i = 1; i < S; i++) {
      const label = labels[r * S + i]!
      if (label === IGNORE) continue
      indices.push(r * (V + S) + V + i - 1)
      targets.push(label)
      counts[r]!++
    }
  }
  return { indices, targets, counts }
}

/** How many answer tokens a batch has: labels that count. */
export const answerTokens = (text: TextRows): number => answerRows(text, 0).targets.length
