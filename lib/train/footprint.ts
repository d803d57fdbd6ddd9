/** The memory that a training run takes, part by part, before a weight is read. */
import { Adapter } from '../adapter/adapter.js'
import { checkAdapterConfig } from '../adapter/config.js'
import { countTrained } from '../adapter/parameters.js'
import { readMasks } from '../adapter/read-masks.js'
import { clipKey } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { tokenTensor } from '../models/decoder.js'
import { IGNORE } from '../ops/cross-entropy.js'
import { full, zeros } from '../ops/copy.js'
import { openTexts } from '../session/checkpoint.js'
import { encode } from '../session/encode.js'
import {
  footprint,
  rehearseFeatures,
  type Footprint,
  type FootprintOptions,
  type Outline,
} from '../session/footprint.js'
import { FEATURE_MEMORY } from '../session/features.js'
import { PREDICTED, rowLosses } from '../eval/evaluate.js'
import type { TextRows } from '../models/image-model.js'
import { chunks } from './schedule.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
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
  /** The largest batch of the validation: samples, their answers to choose from, and the longest text of these. */
  validation?: { samples: number; rows: number; textTokens: number; answerTokens: number } | undefined
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
  /** The longest of each over samples and their answers. */
  const longest = (of: readonly Sample[], choices: boolean) => {
    const sizes = { qformerTokens: 0, textTokens: 0, answerTokens: 0 }
    for (const sample of of)
      for (const given of (choices && sample.choices) || [undefined]) {
        const { qformer, prompt, answer } = encode(texts, checked, sample, given)
        sizes.qformerTokens = Math.max(sizes.qformerTokens, qformer?.length ?? 0)
        sizes.textTokens = Math.max(sizes.textTokens, prompt.length + answer.length)
        sizes.answerTokens = Math.max(sizes.answerTokens, answer.length)
      }
    return sizes
  }
  const batches = chunks(validation, PREDICTED)
  return {
    ...longest(samples, false),
    clips: new Set([...samples, ...validation].map(clipKey)).size,
    ...(batches.length && {
      validation: {
        samples: batches[0]!.length,
        rows: Math.max(...batches.map((b) => b.reduce((n, s) => n + (s.choices?.length ?? 0), 0))),
        ...longest(validation, true),
      },
    }),
  }
}

/** Rows of text that end in an answer. */
const answersOf = (rows: number, tokens: number, answer: number): TextRows => ({
  rows,
  ids: new Int32Array(rows * tokens),
  mask: new Uint8Array(rows * tokens).fill(1),
  labels: Int32Array.from({ length: rows * tokens }, (_, i) => (i % tokens < tokens - answer ? IGNORE : 0)),
})

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
    const text = (rows: number, n: number): { ids: Tensor; mask: Tensor } => ({
      ids: tokenTensor(new Int32Array(rows * n), rows, model.device),
      mask: tokenTensor(new Uint8Array(rows * n).fill(1), rows, model.device),
    })
    const inputs = (): StepInputs => ({
      features: zeros([B, T, vision.tokens, vision.hiddenSize], model.precision),
      qformer: K ? text(B, K) : undefined,
      text: model.upload(answersOf(B, S, sizes.answerTokens), V),
      factor: full([], 1),
    })
    // Twice: what the first step frees is kept, and the second may not use all of it.
    for (let i = 0; i < 2; i++)
      await scope(async () => {
        optimizer.prepare()
        await optimizer.finish(optimizer.update(forwardBackward(model, adapter, inputs()).detach().view([1])))
        optimizer.zeroGrad()
      })
    if (sizes.validation) {
      const { samples, rows, textTokens, answerTokens } = sizes.validation
      await scope(() =>
        noGrad(async () => {
          const seen = zeros([samples, T, vision.tokens, vision.hiddenSize], model.precision)
          const visual = scope(() => model.visualTokens(seen, K ? text(samples, K) : undefined, adapter))
          if (!rows) return
          const answers = answersOf(rows, textTokens, answerTokens)
          const hidden = scope(() => model.hidden(zeros([rows, V, visual.dim(2)], model.precision), answers))
          await rowLosses(model, hidden, answers)
        }),
      )
    }
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
