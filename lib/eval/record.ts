/** What a report shows of a trained adapter's answers, beside those of the untrained model. */
import type { Adapter } from '../adapter/adapter.js'
import { readFrames } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { pictureUrl } from '../data/picture-url.js'
import { InputError } from '../errors.js'
import type { Evaluation, Recorded } from '../report/records.js'
import type { Checkpoint } from '../session/checkpoint.js'
import type { Features } from '../session/features.js'
import { routed, routerWeights, temporalWeights } from './routing.js'
import { answerLosses, predictSamples, type Prediction } from './evaluate.js'
import { probe } from './probe.js'

/** Most samples that are answered for a report. */
export const RECORDED = 200
/** Best and worst clips that are shown. */
const SHOWN = 10
/** Pixels of a side of a shown frame. */
const SIDE = 112

/** What {@link recordEvaluation} answers. */
export interface Answering {
  checkpoint: Checkpoint
  adapter: Adapter
  features: Features
  samples: readonly Sample[]
  /** Which samples these are: `validation` or `training`. */
  split: string
  /** Name of the adapter's folder, and the step that it was saved at. */
  name: string
  step?: number | undefined
  graphs?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Called after each answer. */
  onAnswer?: ((done: number, of: number) => void) | undefined
}

/** At most `most` samples, spread over all of them. */
export function spread<T>(samples: readonly T[], most = RECORDED): T[] {
  const n = Math.min(most, samples.length)
  return Array.from({ length: n }, (_, i) => samples[Math.floor((i * samples.length) / n)]!)
}

/**
 * Answers up to {@link RECORDED} samples with the adapter and without, and probes whether the video is looked at. A
 * sample that cannot be used is left out, with the reason.
 */
export async function recordEvaluation(what: Answering): Promise<Evaluation> {
  const { samples: all, split, name, step } = what
  const samples = spread(all)
  const lost: Evaluation['lost'] = []
  let done = 0
  const total = samples.length * (2 + PROBES)
  const answered = (): void => what.onAnswer?.(++done, total)
  const trained = await answers(what, samples, what.adapter, answered, lost)
  const usable = samples.filter((s) => trained.has(s.id))
  const untrained = await answers(what, usable, undefined, answered, [])
  const probed = usable.length ? await probeOf(what, usable, trained, answered) : undefined
  const alpha = routed(what.adapter) ? await routerWeights(what, usable) : undefined
  const recorded = usable.map((sample, i): Recorded => {
    const { id, task, prompt, qformerText, answer } = sample
    const before = untrained.get(id)
    return {
      id,
      ...(task !== undefined && { task }),
      prompt,
      ...(qformerText !== undefined && { text: qformerText }),
      answer,
      trained: trained.get(id)!,
      ...(before && { untrained: before }),
      ...(alpha && { alpha: alpha[i]! }),
    }
  })
  const { best, worst } = extremes(recorded)
  const clips: Evaluation['clips'] = {}
  for (const i of [...best, ...worst]) {
    what.signal?.throwIfAborted()
    const frames = await pictures(what, usable[i]!)
    const weights = await temporalWeights(what, usable[i]!)
    if (frames) clips[i] = { frames, ...(weights && { weights }) }
  }
  return {
    format: 'mtransllama-evaluation',
    version: 1,
    made: new Date().toISOString(),
    adapter: name,
    ...(step !== undefined && { step }),
    split,
    total: all.length,
    samples: recorded,
    lost,
    ...(probed && { probe: probed }),
    best,
    worst,
    clips,
  }
}

type Answered = Recorded['trained']

/** Most views beside the frames as they are. */
const PROBES = 5

/** What the adapter answers with other pictures. */
async function probeOf(
  { checkpoint, adapter, features, graphs, signal }: Answering,
  samples: readonly Sample[],
  trained: ReadonlyMap<string, Answered>,
  onProgress: () => void,
): Promise<Evaluation['probe']> {
  const known = samples.map(({ id }) => ({ id, prediction: trained.get(id)!.prediction }))
  const asked = { adapter, graphs, signal, known, most: samples.length, onProgress }
  return probe(checkpoint, features, samples, asked)
}

/** Answers by id, with the loss of the expected one. */
async function answers(
  { checkpoint, features, graphs, signal }: Answering,
  samples: readonly Sample[],
  adapter: Adapter | undefined,
  done: () => void,
  lost: Evaluation['lost'],
): Promise<Map<string, Answered>> {
  const predictions = new Map<string, Prediction>()
  const onUnpredicted = ({ id, error }: { id: string; error: string }): void => void lost.push({ id, error })
  for await (const p of predictSamples(checkpoint, features, samples, { adapter, graphs, signal, onUnpredicted })) {
    predictions.set(p.id, p)
    done()
  }
  const open = samples.filter((s) => predictions.get(s.id)?.losses === undefined && predictions.has(s.id))
  const losses = new Map<string, number>()
  let i = 0
  for await (const { loss } of answerLosses(checkpoint, features, open, { adapter, signal }))
    losses.set(open[i++]!.id, loss)
  return new Map(
    [...predictions].map(([id, p]): [string, Answered] => [
      id,
      {
        prediction: p.prediction,
        correct: p.correct,
        loss: p.losses?.[p.answer] ?? losses.get(id) ?? null,
        ...(p.losses && { losses: p.losses }),
      },
    ]),
  )
}

/**
 * The clips that are answered best and worst: right answers come first, and among these and the wrong ones the order is
 * that of the loss of the expected answer. No clip is in both lists.
 */
export function extremes(samples: readonly { trained: Answered }[]): { best: number[]; worst: number[] } {
  const key = ({ trained }: { trained: Answered }): [number, number] => [
    Number(!trained.correct),
    trained.loss ?? Infinity,
  ]
  const order = samples
    .map((sample, i) => ({ i, key: key(sample) }))
    .sort((a, b) => a.key[0] - b.key[0] || a.key[1] - b.key[1] || a.i - b.i)
    .map(({ i }) => i)
  const best = Math.min(SHOWN, Math.ceil(order.length / 2))
  const worst = Math.min(SHOWN, order.length - best)
  return { best: order.slice(0, best), worst: order.slice(order.length - worst).reverse() }
}

/** The frames of a clip as the model reads them, in small; undefined where it cannot be read any more. */
async function pictures(
  { checkpoint, features, signal }: Answering,
  clip: Sample,
): Promise<Evaluation['clips'][string]['frames'] | undefined> {
  const { frames, sampling, timeout } = features.options
  try {
    const read = await readFrames(clip, { frames, sampling, timeout, resize: checkpoint.preprocessor, signal })
    return await Promise.all(read.map(async (f) => ({ time: f.time, image: await pictureUrl(f, SIDE) })))
  } catch (error) {
    if (error instanceof InputError) return undefined
    throw error
  }
}
