/**
 * The cost of attention over a video, by formula (docs/model.md#cost): score products, and operations of the attention
 * block, the Q-Former and the language model. A multiply-add is two operations; what an implementation saves or repeats
 * is not counted.
 */
import { trainedParameters, countTrained } from '../lib/adapter/parameters.js'
import type { AdapterConfig } from '../lib/adapter/config.js'
import type { LlamaConfig } from '../lib/models/llama.js'
import type { ModelConfig } from '../lib/models/image-model.js'
import type { QFormerConfig } from '../lib/models/qformer.js'

/** The form of self-attention: space and then time, or all tokens of a video at once. */
export type Form = 'factorized' | 'joint'
/** Which passes are counted. */
export type Pass = 'forward' | 'forward+backward'

/** Sizes of the Q-Former's input: videos B, frames T, queries per frame L, text tokens K. */
export interface VideoSizes {
  videos?: number
  frames: number
  queries: number
  text?: number
}

/** Pairs of a query and a key, of one layer, head and video: T·(L+K)² + L·T² or (T·L+K)². */
export function scoreProducts(form: Form, { frames: T, queries: L, text: K = 0 }: VideoSizes): number {
  return form === 'factorized' ? T * (L + K) ** 2 + L * T ** 2 : (T * L + K) ** 2
}

/**
 * Rows that go through the projections of one self-attention: all tokens in space and the queries in time, or all
 * tokens once.
 */
function projectedRows(form: Form, { frames: T, queries: L, text: K = 0 }: VideoSizes): number {
  return form === 'factorized' ? T * (L + K) + T * L : T * L + K
}

/** Products with a score: q·kᵀ and P·v forward; backward forms the scores again and the gradients of P, q, k and v. */
const perScore = { forward: 4, 'forward+backward': 14 } as const

/** Operations of the attention alone, over a width D of all heads. */
export function coreFlops(form: Form, sizes: VideoSizes, width: number, pass: Pass = 'forward'): number {
  return (sizes.videos ?? 1) * perScore[pass] * width * scoreProducts(form, sizes)
}

/**
 * Operations of the self-attention block: query, key, value and output projections with the attention between them.
 * LoRA of rank r on query and value; the frozen weights have no gradient.
 */
export function blockFlops(form: Form, sizes: VideoSizes, width: number, pass: Pass = 'forward', rank = 0): number {
  const rows = (sizes.videos ?? 1) * projectedRows(form, sizes)
  const both = pass === 'forward' ? 1 : 2
  // LoRA, of each of two layers: two products forward, four backward.
  const low = 2 * 2 * rows * rank * width * (pass === 'forward' ? 2 : 6)
  return coreFlops(form, sizes, width, pass) + both * 4 * 2 * rows * width ** 2 + low
}

/**
 * The number of frames from which the factorized block takes fewer operations than the joint one; undefined where it
 * never does below 2¹⁶.
 */
export function crossover(sizes: Omit<VideoSizes, 'frames'>, width: number): number | undefined {
  for (let frames = 1; frames < 65536; frames++)
    if (blockFlops('factorized', { ...sizes, frames }, width) < blockFlops('joint', { ...sizes, frames }, width))
      return frames
  return undefined
}

/**
 * Operations of the Q-Former over a batch of videos. Image tokens are frozen: backward, nothing flows to them. The text
 * path of the last layer is left out: its output is unused.
 */
export function qformerFlops(
  config: QFormerConfig,
  sizes: VideoSizes & { imageTokens: number },
  { form = 'factorized', pass = 'forward', rank = 0 }: { form?: Form; pass?: Pass; rank?: number } = {},
): number {
  const { hiddenSize: D, mlpSize: M, encoderHiddenSize: Dv, layers } = config
  const { videos: B = 1, frames: T, queries: L, text: K = 0, imageTokens } = sizes
  const both = pass === 'forward' ? 1 : 2
  const [queryRows, textRows, imageRows] = [B * T * L, B * K * (form === 'factorized' ? T : 1), B * T * imageTokens]
  const self = blockFlops(form, sizes, D, pass, rank)
  const lowRank = 2 * rank * (pass === 'forward' ? 1 : 3) * (queryRows * 2 * D + imageRows * (Dv + D))
  const cross =
    both * 4 * queryRows * D ** 2 + 4 * imageRows * Dv * D + perScore[pass] * D * queryRows * imageTokens + lowRank
  const feed = (rows: number): number => both * 4 * rows * D * M
  return (
    layers * (self + feed(queryRows)) +
    Math.ceil(layers / config.crossFrequency) * cross +
    (layers - 1) * feed(textRows)
  )
}

/**
 * Operations of a LLaMA over sequences of `tokens` tokens, causal; the output matrix on `rows` of each alone. Backward,
 * the frozen weights have no gradient.
 */
export function languageFlops(
  config: LlamaConfig,
  tokens: number,
  { batch = 1, rows = 1, pass = 'forward' as Pass } = {},
): number {
  const { hiddenSize: D, mlpSize: M, layers, heads, kvHeads, vocabSize } = config
  const both = pass === 'forward' ? 1 : 2
  const dense = 2 * tokens * (D * D * (2 + (2 * kvHeads) / heads) + 3 * D * M)
  const scores = perScore[pass] * D * ((tokens * (tokens + 1)) / 2)
  return batch * (layers * (both * dense + scores) + both * 2 * rows * D * vocabSize)
}

/** A row of the paper's Table VI. `this` is the model of this project. */
export interface PublishedModel {
  name: string
  videoPretraining: boolean
  form: Form
  trained: string
  languageFrozen: boolean
  projectionFrozen: boolean
  visualTokens: 'per frame' | 'per video'
}

const published = (
  name: string,
  videoPretraining: boolean,
  trained: string,
  languageFrozen: boolean,
): PublishedModel => ({
  name,
  videoPretraining,
  form: 'joint',
  trained,
  languageFrozen,
  projectionFrozen: false,
  visualTokens: 'per frame',
})

/** Table VI of the paper (Cao et al., IEEE TMM 2025) as printed. */
export const publishedModels: readonly PublishedModel[] = [
  published('VideoLLaMA', true, '1B', true),
  published('VideoLLaMA2', true, '7B', false),
  published('VideoChat', true, '196M', true),
  published('VideoChat2', true, '7B', false),
  published('InternVL2', true, '8B', false),
  published('LLaVA-Video', false, '7B', false),
  {
    name: 'MTransLLAMA',
    videoPretraining: false,
    form: 'factorized',
    trained: '2.5M',
    languageFrozen: true,
    projectionFrozen: true,
    visualTokens: 'per video',
  },
]

/** The cost of a model's form of attention at T frames of L tokens. */
export interface VideoCost {
  /** Pairs of a query and a key, of one layer and head. */
  scores: number
  /** Tokens of the video that the language model reads. */
  visualTokens: number
  /** Operations of the language model, forward, over these and `prompt` tokens. */
  languageFlops: number
}

/** The formulas of Table VI with numbers in them. */
export function videoCost(model: PublishedModel, sizes: VideoSizes, language: LlamaConfig, prompt: number): VideoCost {
  const visualTokens = sizes.queries * (model.visualTokens === 'per frame' ? sizes.frames : 1)
  return {
    scores: scoreProducts(model.form, sizes),
    visualTokens,
    languageFlops: languageFlops(language, visualTokens + prompt),
  }
}

/** Parameters that an adapter trains in a model, counted. */
export const trainedCount = (model: ModelConfig, adapter: AdapterConfig): number =>
  countTrained(trainedParameters(model, adapter))
