/** The memory that a training run takes, part by part, before a weight is read. */
import { Adapter } from '../adapter/adapter.js'
import { checkAdapterConfig } from '../adapter/config.js'
import { countTrained } from '../adapter/parameters.js'
import { readMasks } from '../adapter/read-masks.js'
import { clipKey } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { full, zeros } from '../ops/copy.js'
import { openTexts } from '../session/checkpoint.js'
import { encode } from '../session/encode.js'
import {
  footprint,
  rehearsedText,
  rehearseFeatures,
  type Footprint,
  type FootprintOptions,
  type Outline,
} from '../session/footprint.js'
import { FEATURE_MEMORY } from '../session/features.js'
import { answersOf, predictSizes, rehearsePredictions, type PredictSizes } from '../eval/footprint.js'
import { scope } from '../tensor/scope.js'
import { itemSize } from '../tensor/dtype.js'
import type { TrainConfig } from './config.js'
import { forwardBackward, type StepInputs } from './graphs.js'
import { AdamW } from './optimizer.js'

/** What of a run's data decides its footprint. */
export interface TrainSizes {
  /** The longest text of a sample: tokens for the Q-Former, of the prompt and answer, and of the answer. */
  qformerTokens: number
  textTokens: number
  answerTokens: number
  /** Different clips, whose features are kept. */
  clips: number
  /** Of the validation. */
  validation?: PredictSizes | undefined
}

/** Sizes of a manifest's samples by the tokenizers of a model's folder. */
export async function sizesOf(
  folder: string,
  { config }: Outline,
  { adapter }: Pick<TrainConfig, 'adapter'>,
  samples: readonly Sample[],
  validation: readonly Sample[] = [],
): Promise<TrainSizes> {
  const texts = { ...(await openTexts(folder, config)), model: { config } }
  const checked = checkAdapterConfig(adapter, config)
  const sizes = {
    qformerTokens: 0,
    textTokens: 0,
    answerTokens: 0,
    clips: new Set([...samples, ...validation].map(clipKey)).size,
    ...(validation.length && { validation: predictSizes(texts, checked, validation) }),
  }
  for (const sample of samples) {
    const { qformer, prompt, answer } = encode(texts, checked, sample)
    sizes.qformerTokens = Math.max(sizes.qformerTokens, qformer?.length ?? 0)
    sizes.textTokens = Math.max(sizes.textTokens, prompt.length + answer.length)
    sizes.answerTokens = Math.max(sizes.answerTokens, answer.length)
  }
  return sizes
}

/** The step of a run: forward, backward and update of a micro-batch whose texts are all as long as the longest. */
export async function trainFootprint(
  outline: Outline,
  { adapter: given, train: t }: Pick<TrainConfig, 'adapter' | 'train'>,
  sizes: TrainSizes,
  options: FootprintOptions,
): Promise<Footprint> {
  const { config } = outline
  const { vision, numQueryTokens: L } = config
  const { batch: B } = t
  const { frames: T } = given
  const onCuda = options.device !== 'cpu'
  // As the trainer pads on a device (trainer.ts).
  const width = (n: number, most: number): number => (onCuda ? Math.min(most, Math.ceil(n / 32) * 32) : n)
  let features = 0
  const masks = await readMasks(given, '.', { queries: L })
  const found = await footprint(outline, options, async (model) => {
    rehearseFeatures(model, T)
    features = T * vision.tokens * vision.hiddenSize * itemSize(model.precision)
    const adapter = new Adapter(config, given, { seed: t.seed, device: model.device, masks })
    const optimizer = new AdamW(
      adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
      { lr: 1e-4, betas: t.betas, eps: t.eps, weightDecay: t.weightDecay, clip: t.clip },
    )
    const V = adapter.aggregate === 'concat' ? L * T : L
    const S = width(sizes.textTokens, config.language.maxPositions - V)
    const K = sizes.qformerTokens && width(sizes.qformerTokens, config.qformer.maxPositions)
    const inputs = (): StepInputs => ({
      features: zeros([B, T, vision.tokens, vision.hiddenSize], model.precision),
      qformer: rehearsedText(model, B, K),
      text: model.upload(answersOf(config.language, B, S, sizes.answerTokens), V),
      factor: full([], 1),
    })
    // Twice: what the first step frees is kept, and the second may not use all of it. A clip that is read ahead passes
    // the vision tower before the step lets its tensors go.
    for (let i = 0; i < 2; i++)
      await scope(async () => {
        optimizer.prepare()
        const loss = forwardBackward(model, adapter, inputs(), t.recompute)
        const report = optimizer.update(loss.detach().view([1]))
        rehearseFeatures(model, T)
        await optimizer.finish(report)
        optimizer.zeroGrad()
      })
    if (sizes.validation) await rehearsePredictions(model, adapter, T, sizes.validation)
    optimizer.dispose()
    adapter.dispose()
    const trained = 4 * countTrained(adapter.trained())
    return [
      { part: 'trained parameters', bytes: trained },
      { part: 'gradients', bytes: trained },
      { part: 'moments', bytes: 2 * trained },
    ]
  })
  if (onCuda) return found
  const cache = Math.min(FEATURE_MEMORY, sizes.clips * features)
  return { ...found, rows: [...found.rows, { part: 'feature cache', bytes: cache }], total: found.total + cache }
}
