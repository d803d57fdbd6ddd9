/** Predictions for samples: closed answers ranked by their loss, open ones generated; and how many are right. */
import type { Adapter } from '../adapter/adapter.js'
import { forSample, type Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { logits } from '../models/decoder.js'
import { answerRows, type ImageModel, type TextRows } from '../models/image-model.js'
import { crossEntropy } from '../ops/cross-entropy.js'
import { embedding } from '../ops/embedding.js'
import { concat, narrow, reshape } from '../ops/views.js'
import { alone, type Ranks } from '../ranks/ranks.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { ARRAYS } from '../tensor/dtype.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { Checkpoint } from '../session/checkpoint.js'
import type { ChooseOptions } from '../session/choose.js'
import { encode, imageTextConfig, textRows, type Encoded, type TextConfig } from '../session/encode.js'
import { Features, type FeatureOptions } from '../session/features.js'
import { notFinite, NotFiniteError } from '../session/finite.js'
import { generate } from '../session/generate.js'
import type { Model } from '../session/model.js'
import { checkedVisual } from '../session/visual.js'
import { sameAnswer } from './metrics/classes.js'

/** The model's answer to a sample, and whether it is right. */
export interface Prediction {
  /** The sample's id, task, question and expected answer. */
  id: string
  task?: string | undefined
  prompt: string
  answer: string
  /** The model's answer. */
  prediction: string
  /** Whether the two are equal, but for letter case, space around and a final full stop. */
  correct: boolean
  /** Of closed questions: mean loss per token of each choice. */
  losses?: Record<string, number>
}

/** A sample that could not be predicted, and why. */
export interface Unpredicted {
  id: string
  task?: string | undefined
  prompt: string
  answer: string
  error: string
}

/** How samples are predicted. */
export interface PredictOptions {
  /** Samples at a time. Default 16. */
  batch?: number
  /** Most tokens of an open answer. Default 64. */
  maxTokens?: number
  /** How the tokens of an open answer are chosen. Default: the likeliest. Each sample draws from the seed anew. */
  choose?: ChooseOptions | undefined
  /** On a CUDA device, whether the steps of an open answer are launched as graphs. Default: true. */
  graphs?: boolean | undefined
  signal?: AbortSignal | undefined
  /**
   * Without visual tokens: the language model reads texts alone, the Q-Former's text in front of the prompt, and no
   * clip is read. Default: false.
   */
  textOnly?: boolean | undefined
  /**
   * Called for each sample whose clip or texts cannot be used; evaluation continues without it. Absent: the first such
   * sample ends the evaluation.
   */
  onUnpredicted?: ((sample: Unpredicted) => void | Promise<void>) | undefined
}

/** How samples are evaluated: predictions, and the frames of their clips. */
export interface EvaluateOptions extends PredictOptions, Partial<FeatureOptions> {}

/** Mean loss per answer token of every row, [rows]. Frozen: no gradient. */
export async function rowLosses(model: ImageModel, hidden: Tensor, text: TextRows): Promise<number[]> {
  const { rows } = text
  const [, N, D] = hidden.shape as [number, number, number]
  const { indices, targets, counts } = answerRows(text, N - text.ids.length / rows)
  const scores = logits(
    model.language,
    embedding(
      tensor(Int32Array.from(indices), [indices.length], 'int32', model.device),
      reshape(hidden, [rows * N, D]),
      model.precision,
    ),
  )
  const wanted = tensor(Int32Array.from(targets), [targets.length], 'int32', model.device)
  let start = 0
  const losses = counts.map((n) => {
    const loss = crossEntropy(narrow(scores, 0, start, n), narrow(wanted, 0, start, n), 1 / Math.max(1, n))
    start += n
    return reshape(loss, [1])
  })
  return [...((await concat(losses, 0).data()) as Float32Array)]
}

/**
 * Predicts every sample, in order, with the model's adapter where it has one, else as the image model, its visual
 * tokens averaged over frames. Finished predictions are yielded before an error or the signal ends it.
 *
 * @param options `frames` of a clip: by default those the adapter was trained with, else 4; `sampling`: by default
 *   uniform
 * @throws InputError naming the sample: for one that cannot be used, unless {@link EvaluateOptions.onUnpredicted} hears
 *   of it, and for visual tokens, losses or scores that are not finite
 */
export function evaluate(
  { checkpoint, adapter }: Model,
  samples: readonly Sample[],
  { frames = adapter?.config.frames ?? 4, sampling = { kind: 'uniform' }, ...options }: EvaluateOptions = {},
): AsyncGenerator<Prediction, void> {
  return predictSamples(checkpoint, new Features(checkpoint, { ...options, frames, sampling }), samples, {
    ...options,
    adapter,
  })
}

/** Samples that are predicted at a time, unless options say otherwise. */
export const PREDICTED = 16

/** {@link evaluate} for an adapter that need not be the model's, such as one in training. */
export async function* predictSamples(
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  options: PredictOptions & { adapter?: Adapter | undefined } = {},
): AsyncGenerator<Prediction, void> {
  const { adapter, batch = PREDICTED, signal, textOnly } = options
  const seen: TextConfig = adapter?.config ?? imageTextConfig(checkpoint, features.options.frames)
  const config: TextConfig = textOnly ? { ...seen, fusion: false, lateText: 'prompt' } : seen
  for (let at = 0; at < samples.length; at += batch) {
    signal?.throwIfAborted()
    const ready = await usable(checkpoint, features, samples.slice(at, at + batch), config, options)
    if (!ready.length) continue
    const predicted: Prediction[] = []
    const failure = await scope(() =>
      noGrad(() => predictBatch(checkpoint, features, ready, config, options, adapter, predicted)),
    ).then(
      () => undefined,
      (error: unknown) => ({ error }),
    )
    yield* predicted
    if (failure) throw failure.error
  }
}

/**
 * {@link predictSamples} by several ranks, each of which predicts a share. Every rank yields all predictions, and hears
 * of all samples without one; their order depends on the number of ranks.
 */
export async function* predictTogether(
  ranks: Ranks,
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  options: PredictOptions & { adapter?: Adapter | undefined },
): AsyncGenerator<Prediction, void> {
  const { batch = PREDICTED, onUnpredicted } = options
  if (ranks.size === 1) return yield* predictSamples(checkpoint, features, samples, options)
  const step = batch * ranks.size
  for (let at = 0; at < samples.length; at += step) {
    const [ready, lost]: [Prediction[], Unpredicted[]] = [[], []]
    const mine = ranks.share(samples.slice(at, at + step))
    const own = { ...options, ...(onUnpredicted && { onUnpredicted: (line: Unpredicted) => void lost.push(line) }) }
    for await (const p of predictSamples(checkpoint, features, mine, own)) ready.push(p)
    for (const told of await ranks.gather({ ready, lost })) {
      for (const line of told.lost) await onUnpredicted?.(line)
      yield* told.ready
    }
  }
}

/** The samples whose texts fit and whose clips can be read. */
async function usable(
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  config: TextConfig,
  { onUnpredicted, signal, textOnly }: PredictOptions,
): Promise<Sample[]> {
  const ready: Sample[] = []
  for (const sample of samples) {
    signal?.throwIfAborted()
    try {
      for (const answer of sample.choices ?? [undefined]) encode(checkpoint, config, sample, answer)
      if (!textOnly) await features.of(sample, signal)
      ready.push(sample)
    } catch (error) {
      if (!onUnpredicted || !(error instanceof InputError) || error instanceof NotFiniteError) throw error
      const { id, task, prompt, answer } = sample
      await onUnpredicted({ id, task, prompt, answer, error: error.message })
    }
  }
  return ready
}

/** Adds the prediction of each sample to `predicted` as soon as it is known. */
async function predictBatch(
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  config: TextConfig,
  options: PredictOptions,
  adapter: Adapter | undefined,
  predicted: Prediction[],
): Promise<void> {
  const { model } = checkpoint
  const encoded = samples.map((s) => encode(checkpoint, config, s, undefined))
  const visual = options.textOnly
    ? noVisual(model, samples.length)
    : await checkedVisual(checkpoint, features, samples, encoded, adapter)
  const answers = await closedAnswers(checkpoint, samples, encoded, visual, config)
  for (const [i, sample] of samples.entries()) {
    const losses = answers.get(i)
    const prediction = await forSample(sample, async () => {
      const odd = losses && Object.entries(losses).find(([, loss]) => !Number.isFinite(loss))
      if (odd) {
        const text = textRows([encode(checkpoint, config, sample, odd[0])], checkpoint.special)
        throw await notFinite(`the loss of ${JSON.stringify(odd[0])} is`, {
          model,
          adapter,
          again: (observe) => model.hidden(narrow(visual, 0, i, 1), text, { observe }),
        })
      }
      return losses ? best(losses) : openAnswer(checkpoint, narrow(visual, 0, i, 1), encoded[i]!, options)
    })
    predicted.push({
      id: sample.id,
      task: sample.task,
      prompt: sample.prompt,
      answer: sample.answer,
      prediction,
      correct: sameAnswer(prediction, sample.answer),
      ...(losses && { losses }),
    })
  }
}

/** No visual tokens for so many texts, [rows,0,D_llm]. */
const noVisual = ({ config, precision, device }: ImageModel, rows: number): Tensor =>
  tensor(new ARRAYS[precision](0), [rows, 0, config.language.hiddenSize], precision, device)

/** The losses of every choice of the closed questions among the samples, all in one pass of the language model. */
async function closedAnswers(
  checkpoint: Checkpoint,
  samples: readonly Sample[],
  encoded: readonly Encoded[],
  visual: Tensor,
  config: TextConfig,
): Promise<Map<number, Record<string, number>>> {
  const { model, special } = checkpoint
  const rows = samples.flatMap((s, i) =>
    (s.choices ?? []).map((choice) => ({
      i,
      choice,
      encoded: { ...encode(checkpoint, config, s, choice), qformer: encoded[i]!.qformer },
    })),
  )
  const result = new Map<number, Record<string, number>>()
  if (!rows.length) return result
  const [, V, D] = visual.shape as [number, number, number]
  const places = Int32Array.from(rows, (r) => r.i)
  const repeated = V
    ? reshape(
        embedding(
          tensor(places, [rows.length], 'int32', model.device),
          reshape(visual, [samples.length, V * D]),
          model.precision,
        ),
        [rows.length, V, D],
      )
    : noVisual(model, rows.length)
  const text = textRows(
    rows.map((r) => r.encoded),
    special,
  )
  const hidden = scope(() => model.hidden(repeated, text))
  const losses = await rowLosses(model, hidden, text)
  rows.forEach(({ i, choice }, k) => result.set(i, { ...result.get(i), [choice]: losses[k]! }))
  return result
}

function best(losses: Record<string, number>): string {
  return Object.entries(losses).reduce((a, b) => (b[1] < a[1] ? b : a))[0]
}

async function openAnswer(
  checkpoint: Checkpoint,
  visual: Tensor,
  { prompt }: Encoded,
  { maxTokens, choose, graphs, signal }: PredictOptions,
): Promise<string> {
  const ids: number[] = []
  const { model, eosIds } = checkpoint
  for await (const id of generate(model, visual, prompt, { ...choose, maxTokens, eosIds, graphs, signal })) ids.push(id)
  return checkpoint.tokenizer.decode(ids).trim()
}

/**
 * Mean loss per answer token of the samples' answers under an adapter. Several ranks compute a share each.
 *
 * @throws InputError naming a sample whose clip or texts cannot be used
 */
export async function answerLoss(
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  { ranks = alone, ...options }: Pick<PredictOptions, 'batch' | 'signal'> & { adapter: Adapter; ranks?: Ranks },
): Promise<number> {
  const mine: { loss: number; tokens: number }[] = []
  for await (const one of answerLosses(checkpoint, features, ranks.share(samples), options)) mine.push(one)
  let [sum, tokens] = [0, 0]
  for (const { loss, tokens: n } of (await ranks.gather(mine)).flat()) {
    sum += loss * n
    tokens += n
  }
  return sum / tokens
}

/** The same of each sample, with the number of its answer's tokens; without an adapter, of the untrained model. */
export async function* answerLosses(
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  { adapter, batch = PREDICTED, signal }: Pick<PredictOptions, 'batch' | 'signal'> & { adapter: Adapter | undefined },
): AsyncGenerator<{ loss: number; tokens: number }, void> {
  const { model, special } = checkpoint
  const config: TextConfig = adapter?.config ?? imageTextConfig(checkpoint, features.options.frames)
  for (let at = 0; at < samples.length; at += batch) {
    signal?.throwIfAborted()
    const some = samples.slice(at, at + batch)
    const encoded = some.map((s) => encode(checkpoint, config, s))
    const losses = await scope(() =>
      noGrad(async () => {
        const visual = await checkedVisual(checkpoint, features, some, encoded, adapter)
        const text = textRows(encoded, special)
        return rowLosses(model, model.hidden(visual, text), text)
      }),
    )
    for (const [i, { answer }] of encoded.entries()) yield { loss: losses[i]!, tokens: answer.length }
  }
}

/** How many answers were right, of how many. */
export interface Accuracy {
  correct: number
  total: number
  /** From 0 to 1. */
  accuracy: number
}

/** Right answers in all, and by task where samples name one. */
export function accuracy(predictions: Iterable<Prediction>): { overall: Accuracy; tasks: Record<string, Accuracy> } {
  const count = (of: Prediction[]): Accuracy => {
    const correct = of.filter((p) => p.correct).length
    return { correct, total: of.length, accuracy: of.length ? correct / of.length : 0 }
  }
  const all = [...predictions]
  const tasks = [...new Set(all.flatMap((p) => p.task ?? []))].sort()
  return {
    overall: count(all),
    tasks: Object.fromEntries(tasks.map((t) => [t, count(all.filter((p) => p.task === t))])),
  }
}
