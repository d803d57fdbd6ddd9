/** Predictions for samples: closed answers ranked by their loss, open ones generated; and how many are right. */
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import { logits } from '../models/language.js'
import type { ImageModel, TextRows } from '../models/mtransllama.js'
import { crossEntropy } from '../ops/cross_entropy.js'
import { embedding } from '../ops/embedding.js'
import { concat, narrow, reshape } from '../ops/views.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { Bundle } from './bundle.js'
import { encode, imageTextConfig, qformerRows, textRows, type Encoded, type TextConfig } from './encode.js'
import type { Features } from './features.js'
import { generate } from './generate.js'

export interface Prediction {
  id: string
  task?: string | undefined
  prompt: string
  answer: string
  prediction: string
  correct: boolean
  /** Of closed questions: mean loss per token of each choice. */
  losses?: Record<string, number>
}

export interface EvaluateOptions {
  /** Absent: the image model, its visual tokens averaged over frames. */
  adapter?: Adapter | undefined
  /** Samples at a time. Default 16. */
  batch?: number
  /** Most tokens of an open answer. Default 64. */
  maxTokens?: number
  signal?: AbortSignal | undefined
}

/** Which answers count as equal: letter case, surrounding space and a final full stop do not matter. */
export const sameAnswer = (a: string, b: string): boolean => normal(a) === normal(b)
const normal = (s: string): string => s.trim().toLowerCase().replace(/\s+/g, ' ').replace(/\.$/, '')

/** Mean loss per answer token of every row, [rows]. Frozen: no gradient. */
export async function rowLosses(model: ImageModel, hidden: Tensor, text: TextRows): Promise<number[]> {
  const { rows, labels } = text
  const S = text.ids.length / rows
  const [, N, D] = hidden.shape as [number, number, number]
  const places: number[] = []
  const targets: number[] = []
  const counts = new Array<number>(rows).fill(0)
  for (let r = 0; r < rows; r++) {
    for (let i = 1; i < S; i++) {
      if (labels![r * S + i] === -100) continue
      places.push(r * N + (N - S) + i - 1)
      targets.push(labels![r * S + i]!)
      counts[r]!++
    }
  }
  const scores = logits(model.language, embedding(tensor(Int32Array.from(places), [places.length], 'int32', model.device), reshape(hidden, [rows * N, D]), model.precision))
  const wanted = tensor(Int32Array.from(targets), [targets.length], 'int32', model.device)
  let start = 0
  const losses = counts.map((n) => {
    const loss = crossEntropy(narrow(scores, 0, start, n), narrow(wanted, 0, start, n), 1 / Math.max(1, n))
    start += n
    return reshape(loss, [1])
  })
  return [...((await concat(losses, 0).data()) as Float32Array)]
}

/** Predicts every sample, in order. */
export async function* evaluate(bundle: Bundle, features: Features, samples: readonly Sample[], options: EvaluateOptions = {}): AsyncGenerator<Prediction, void> {
  const { adapter, batch = 16, signal } = options
  const config: TextConfig = adapter?.config ?? imageTextConfig(bundle, features.options.frames)
  for (let at = 0; at < samples.length; at += batch) {
    signal?.throwIfAborted()
    yield* await scope(() => noGrad(() => predict(bundle, features, samples.slice(at, at + batch), config, options, adapter)))
  }
}

async function predict(bundle: Bundle, features: Features, samples: readonly Sample[], config: TextConfig, options: EvaluateOptions, adapter: Adapter | undefined): Promise<Prediction[]> {
  const { model } = bundle
  const encoded = samples.map((s) => encode(bundle, config, s, undefined))
  const visual = model.visualTokens(await features.batch(samples), qformerRows(encoded), adapter)
  const answers = await closedAnswers(bundle, samples, encoded, visual, config)
  const predictions: Prediction[] = []
  for (const [i, sample] of samples.entries()) {
    const losses = answers.get(i)
    const prediction = losses ? best(losses) : await openAnswer(bundle, narrow(visual, 0, i, 1), encoded[i]!, options)
    predictions.push({ id: sample.id, task: sample.task, prompt: sample.prompt, answer: sample.answer, prediction, correct: sameAnswer(prediction, sample.answer), ...(losses && { losses }) })
  }
  return predictions
}

/** The losses of every choice of the closed questions among the samples, all in one pass of the language model. */
async function closedAnswers(bundle: Bundle, samples: readonly Sample[], encoded: readonly Encoded[], visual: Tensor, config: TextConfig): Promise<Map<number, Record<string, number>>> {
  const { model, special } = bundle
  const rows = samples.flatMap((s, i) => (s.choices ?? []).map((choice) => ({ i, choice, encoded: { ...encode(bundle, config, s, choice), qformer: encoded[i]!.qformer } })))
  const result = new Map<number, Record<string, number>>()
  if (!rows.length) return result
  const [, V, D] = visual.shape as [number, number, number]
  const repeated = reshape(embedding(tensor(Int32Array.from(rows, (r) => r.i), [rows.length], 'int32', model.device), reshape(visual, [samples.length, V * D]), model.precision), [rows.length, V, D])
  const text = textRows(rows.map((r) => r.encoded), special.padId)
  const losses = await rowLosses(model, model.hidden(repeated, text), text)
  rows.forEach(({ i, choice }, k) => result.set(i, { ...result.get(i), [choice]: losses[k]! }))
  return result
}

function best(losses: Record<string, number>): string {
  return Object.entries(losses).reduce((a, b) => (b[1] < a[1] ? b : a))[0]
}

async function openAnswer(bundle: Bundle, visual: Tensor, { prompt }: Encoded, { maxTokens, signal }: EvaluateOptions): Promise<string> {
  const ids: number[] = []
  for await (const id of generate(bundle.model, visual, prompt, { maxTokens, eosIds: bundle.eosIds, signal })) ids.push(id)
  return bundle.tokenizer.decode(ids).trim()
}

export interface Accuracy {
  correct: number
  total: number
  /** From 0 to 1. */
  accuracy: number
}

/** Right answers over all of them, and by task where samples name one. */
export function accuracy(predictions: Iterable<Prediction>): { overall: Accuracy; tasks: Record<string, Accuracy> } {
  const count = (of: Prediction[]): Accuracy => {
    const correct = of.filter((p) => p.correct).length
    return { correct, total: of.length, accuracy: of.length ? correct / of.length : 0 }
  }
  const all = [...predictions]
  const tasks = [...new Set(all.flatMap((p) => p.task ?? []))].sort()
  return { overall: count(all), tasks: Object.fromEntries(tasks.map((t) => [t, count(all.filter((p) => p.task === t))])) }
}
