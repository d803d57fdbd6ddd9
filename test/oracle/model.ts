// The whole model: frames and texts in, visual tokens, logits, loss and greedy ids out.
import { type NdArray, array, reshape, slice } from './array.js'
import { type Tap, type Weights, dense, untapped } from './blocks.js'
import { type Json, type ModelConfig, modelConfig } from './config.js'
import { answerLoss, greedy, languageModel, withText } from './language.js'
import { crossEntropy } from './loss.js'
import { type Adapter, aggregate, qformer } from './qformer.js'
import { shifted, t5 } from './t5.js'
import { vision } from './vision.js'

export { type Adapter, trainedShapes } from './qformer.js'
export { type AdapterConfig, type Json, type ModelConfig, adapterConfig, modelConfig } from './config.js'
export { type Tap, type Weights, untapped } from './blocks.js'

export interface Model {
  weights: Weights
  config: ModelConfig
}

export const model = (weights: Weights, config: Json): Model => ({ weights, config: modelConfig(config) })

export interface Batch {
  /** [B, T, 3, H, W] with an adapter, [B, 3, H, W] without. */
  pixelValues?: NdArray | undefined
  /** E_v [B, T, K_V, D_v] where it is known already: read instead of the pixels. */
  features?: NdArray | undefined
  qformerIds?: NdArray | undefined
  qformerMask?: NdArray | undefined
  inputIds: NdArray
  attentionMask: NdArray
  /** Ids on the answer, -100 elsewhere; of T5 what the decoder is to say, [B, A], then -100. */
  labels: NdArray
}

/** E_v of every frame: [B, T, K_V, D_v]. */
export function features({ weights, config }: Model, batch: Batch, tap: Tap = untapped): NdArray {
  if (batch.features !== undefined) return batch.features
  const pixels = batch.pixelValues
  if (pixels === undefined) throw new Error('neither pixels nor features')
  const [c, h, w] = pixels.shape.slice(-3) as [number, number, number]
  const out = vision(weights, config.vision, reshape(pixels, [-1, c, h, w]), tap)
  const frames = pixels.shape.length === 5 ? pixels.shape.slice(0, 2) : [pixels.shape[0]!, 1]
  return tap('vision', reshape(out, [...frames, ...out.shape.slice(1)]))
}

/** [B, L, D_llm], or [B, T*L, D_llm] with `concat`. */
export function visualTokens(m: Model, batch: Batch, adapter: Adapter | undefined, tap: Tap = untapped): NdArray {
  const { qformerIds: ids, qformerMask: mask } = batch
  const text = ids === undefined || mask === undefined ? undefined : { ids, mask }
  const tokens = qformer(m.weights, m.config, features(m, batch, tap), text, adapter, tap)
  const pooled = tap('aggregate', aggregate(tokens, adapter?.config.aggregate ?? 'mean'))
  return tap('visual_tokens', dense(m.weights, 'language_projection', pooled))
}

/** [B, V + S, vocabulary] over [visual; text], of T5 [B, A, vocabulary] over the labels shifted right. */
export function logits(m: Model, visual: NdArray, batch: Batch, tap: Tap = untapped): NdArray {
  const { x, mask } = withText(m.weights, m.config.language, visual, batch.inputIds, batch.attentionMask)
  const { language } = m.config
  const out = language.t5
    ? t5(m.weights, language, x, mask, shifted(batch.labels, language.t5), tap)
    : languageModel(m.weights, language, x, mask, tap)
  return tap('logits', out)
}

export interface Outputs {
  visualTokens: NdArray
  logits: NdArray
  loss: number
}

export function forward(m: Model, batch: Batch, adapter?: Adapter, tap: Tap = untapped): Outputs {
  const visual = visualTokens(m, batch, adapter, tap)
  const out = logits(m, visual, batch, tap)
  // T5's row i predicts label i itself.
  const loss = m.config.language.t5
    ? crossEntropy(reshape(out, [-1, out.shape[2]!]), batch.labels.data)
    : answerLoss(out, batch.labels)
  tap('loss', array([], [loss]))
  return { visualTokens: visual, logits: out, loss }
}

/** Greedy ids [B, steps]: each sample alone, from its own prompt without padding. */
export function greedyIds(m: Model, visual: NdArray, batch: Batch, steps: number): NdArray {
  const [b, s] = batch.inputIds.shape as [number, number]
  const out = array([b, steps])
  for (let r = 0; r < b; r++) {
    const prompt: number[] = []
    for (let i = r * s; i < (r + 1) * s; i++)
      if (batch.attentionMask.data[i] === 1 && (m.config.language.t5 || batch.labels.data[i] === -100))
        prompt.push(batch.inputIds.data[i]!)
    out.data.set(greedy(m.weights, m.config.language, slice(visual, 0, r, r + 1), prompt, steps), r * steps)
  }
  return out
}
