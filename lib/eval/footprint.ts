/** The memory that predictions of samples take, part by part, before a weight is read. */
import type { Adapter } from '../adapter/adapter.js'
import { checkAdapterConfig } from '../adapter/config.js'
import { clipKey } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import type { ImageModel, TextRows } from '../models/image-model.js'
import { zeros } from '../ops/copy.js'
import { narrow } from '../ops/views.js'
import { encode, imageTextConfig, textRows, type TextConfig, type TextSide } from '../session/encode.js'
import { FEATURE_MEMORY } from '../session/features.js'
import {
  footprint,
  openAdapters,
  rehearseAnswer,
  rehearsedText,
  rehearseFeatures,
  type AdapterOutline,
  type Footprint,
  type FootprintOptions,
  type FootprintRow,
  type Outline,
} from '../session/footprint.js'
import { itemSize } from '../tensor/dtype.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { PREDICTED, rowLosses } from './evaluate.js'

/** The largest batch of samples that are predicted, and their longest texts. */
export interface PredictSizes {
  samples: number
  /** Answers to choose from, of all samples of a batch. */
  rows: number
  /** The longest: tokens for the Q-Former, of the prompt and an answer to choose, and of that answer. */
  qformerTokens: number
  textTokens: number
  answerTokens: number
  /** Of the samples whose answer is generated, the longest prompt; undefined where there is none. */
  openTokens?: number | undefined
}

/** Sizes of samples that are predicted `batch` at a time; those whose texts do not fit are left out. */
export function predictSizes(
  texts: TextSide,
  config: TextConfig,
  samples: readonly Sample[],
  batch: number = PREDICTED,
): PredictSizes {
  const sizes: PredictSizes = { samples: 0, rows: 0, qformerTokens: 0, textTokens: 0, answerTokens: 0 }
  for (let at = 0; at < samples.length; at += batch) {
    const some = samples.slice(at, at + batch)
    sizes.samples = Math.max(sizes.samples, some.length)
    sizes.rows = Math.max(
      sizes.rows,
      some.reduce((n, s) => n + (s.choices?.length ?? 0), 0),
    )
  }
  for (const sample of samples)
    for (const choice of sample.choices ?? [undefined]) {
      const ids = encoded(texts, config, sample, choice)
      if (!ids) continue
      const { qformer, prompt, answer } = ids
      sizes.qformerTokens = Math.max(sizes.qformerTokens, qformer?.length ?? 0)
      if (choice === undefined) sizes.openTokens = Math.max(sizes.openTokens ?? 0, prompt.length)
      else {
        sizes.textTokens = Math.max(sizes.textTokens, prompt.length + answer.length)
        sizes.answerTokens = Math.max(sizes.answerTokens, answer.length)
      }
    }
  return sizes
}

function encoded(...of: Parameters<typeof encode>): ReturnType<typeof encode> | undefined {
  try {
    return encode(...of)
  } catch (error) {
    if (error instanceof InputError) return undefined
    throw error
  }
}

/** Rows of text that end in an answer, as a language model reads them. */
export function answersOf(language: { startId?: number }, rows: number, tokens: number, answer: number): TextRows {
  const prompt = tokens - answer
  const row = { prompt: new Array<number>(prompt).fill(0), answer: new Array<number>(answer).fill(0) }
  return textRows(new Array<typeof row>(rows).fill(row), { padId: 0, startId: language.startId })
}

/** Most tokens of an open answer, as predictions generate it. */
const ANSWER = 64

/** One batch as predictSamples computes it, in a rehearsal. Returns the bytes of the KV cache of an open answer. */
export async function rehearsePredictions(
  model: ImageModel,
  adapter: Adapter | undefined,
  frames: number,
  { samples, rows, qformerTokens, textTokens, answerTokens, openTokens }: PredictSizes,
  beams?: number,
): Promise<number> {
  const { tokens, hiddenSize } = model.config.vision
  return scope(() =>
    noGrad(async () => {
      const seen = zeros([samples, frames, tokens, hiddenSize], model.precision)
      const visual = scope(() => model.visualTokens(seen, rehearsedText(model, samples, qformerTokens), adapter))
      if (rows) {
        const answers = answersOf(model.config.language, rows, textTokens, answerTokens)
        const repeated = zeros([rows, visual.dim(1), visual.dim(2)], model.precision)
        const hidden = scope(() => model.hidden(repeated, answers))
        await rowLosses(model, hidden, answers)
      }
      return openTokens ? rehearseAnswer(model, narrow(visual, 0, 0, 1), openTokens, ANSWER, beams) : 0
    }),
  )
}

/** An evaluation: its samples, and how they are predicted. */
export interface EvalSizes {
  texts: TextSide
  samples: readonly Sample[]
  adapter?: AdapterOutline | undefined
  frames: number
  batch: number
  /** Answers of a search that are followed side by side. Default 1. */
  beams?: number | undefined
}

/** Predictions of samples, a batch at a time. */
export async function evalFootprint(
  outline: Outline,
  { texts, samples, adapter: given, frames, batch, beams }: EvalSizes,
  options: FootprintOptions,
): Promise<Footprint> {
  const { tokens, hiddenSize } = outline.config.vision
  const config = given ? checkAdapterConfig(given.config, outline.config) : imageTextConfig(texts, frames)
  const sizes = predictSizes(texts, config, samples, batch)
  let features = 0
  const found = await footprint(outline, options, async (model) => {
    rehearseFeatures(model, frames)
    features = itemSize(model.precision) * frames * tokens * hiddenSize
    const { adapters, row, dispose } = openAdapters(model, given ? [given] : [])
    const kv = await rehearsePredictions(model, adapters[0], frames, sizes, beams)
    dispose()
    return [...row, ...(kv ? [{ part: 'KV cache', bytes: kv }] : [])]
  })
  const clips = new Set(samples.map(clipKey)).size
  const more: FootprintRow[] = [
    { part: 'features of a batch', bytes: sizes.samples * features },
    { part: 'feature cache', bytes: Math.min(FEATURE_MEMORY, clips * features) },
  ]
  return { ...found, rows: [...found.rows, ...more], total: more.reduce((n, r) => n + r.bytes, found.total) }
}
