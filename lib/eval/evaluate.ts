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
import { Loader } from '../session/loader.js'
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

/** Samples that are predicted at a time, unless options say otherwise. */
export const PREDICTED = 16

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
  /** Most bytes of features that are computed ahead of the batch that is predicted. Default 256 MiB; 0: none. */
  ahead?: number | undefined
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

/**
 * {@link evaluate} for an adapter that need not be the model's, such as one in training. Of several ranks each predicts
 * a share; every rank yields all predictions and hears of all samples without one, in an order that depends on the
 * number of ranks.
 */
export async function* predictSamples(
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  options: PredictOptions & { adapter?: Adapter | undefined; ranks?: Ranks | undefined } = {},
): AsyncGenerator<Prediction, void> {
  const { adapter, batch = PREDICTED, ranks = alone, onUnpredicted, textOnly, ahead, signal } = options
  const seen: TextConfig = adapter?.config ?? imageTextConfig(checkpoint, features.options.frames)
  const config: TextConfig = textOnly ? { ...seen, fusion: false, lateText: 'prompt' } : seen
  const groups = ranks.shares(samples, batch)
  /** Why samples cannot be predicted. */
  const lost = new Map<Sample, unknown>()
  const texts = new Map<readonly Sample[], Sample[]>()
  /** Those of a group whose texts can be used. Asked for by the loader, ahead of the group's turn. */
  const fitting = (group: readonly Sample[]): Sample[] => {
    const known = texts.get(group) ?? group.filter((sample) => textsFit(checkpoint, config, sample, lost))
    texts.set(group, known)
    return known
  }
  const loader = textOnly
    ? undefined
    : new Loader(
        features,
        (function* () {
          for (const group of groups) yield fitting(group)
        })(),
        { bytes: ahead, signal },
      )
  try {
    for (const group of groups) {
      signal?.throwIfAborted()
      // Without a listener a text that cannot be used ends this before its group's clips are waited for.
      if (fitting(group).length === group.length || onUnpredicted)
        for (const [sample, error] of (await loader?.next())?.lost ?? []) lost.set(sample, error)
      const [ready, unpredicted]: [Sample[], Unpredicted[]] = [[], []]
      for (const sample of group) {
        const error = lost.get(sample)
        if (error === undefined) ready.push(sample)
        else if (onUnpredicted && error instanceof InputError && !(error instanceof NotFiniteError)) {
          const { id, task, prompt, answer } = sample
          unpredicted.push({ id, task, prompt, answer, error: error.message })
        } else throw error
      }
      const predicted: Prediction[] = []
      let failure: { error: unknown } | undefined
      if (ready.length)
        await scope(() =>
          noGrad(() => predictBatch(checkpoint, features, ready, config, options, adapter, predicted)),
        ).catch((error: unknown) => void (failure = { error }))
      for (const told of await ranks.gather({ predicted, unpredicted })) {
        for (const line of told.unpredicted) await onUnpredicted?.(line)
        yield* told.predicted
      }
      if (failure) throw failure.error
    }
  } finally {
    await loader?.stop()
  }
}

/** Whether every text of a sample can be used; if not, why is put in `lost`. */
function textsFit(checkpoint: Checkpoint, config: TextConfig, sample: Sample, lost: Map<Sample, unknown>): boolean {
  try {
    for (const answer of sample.choices ?? [undefined]) encode(checkpoint, config, sample, answer)
    return true
  } catch (error) {
    lost.set(sample, error)
    return false
  }
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
