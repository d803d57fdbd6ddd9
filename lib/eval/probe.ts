/**
 * Whether a model looks at the video: the same questions with the frames as they are, out of order, one of them
 * throughout, blank, of another clip, and without any picture.
 */
import type { Adapter } from '../adapter/adapter.js'
import type { FeatureData } from '../data/cache.js'
import type { Clip } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { shuffled } from '../random.js'
import { alone, type Ranks } from '../ranks/ranks.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { Features } from '../session/features.js'
import { predictSamples, type PredictOptions, type Prediction } from './evaluate.js'
import { accuracyScore } from './metrics/classes.js'
import { bootstrap, paired, type Interval, type Paired } from './metrics/intervals.js'
import type { Score } from './metrics/metric.js'
import { rougeGoogle } from './metrics/rouge.js'
import { answered } from './score.js'

/** What is shown with a question. */
export type View = 'as they are' | 'shuffled' | 'one repeated' | 'blank' | "another clip's" | 'text alone'

/** What one view gave. */
export interface ProbeRow {
  view: View
  /** Accuracy of closed questions, rougeL of open ones, from 0 to 1. */
  value: number
  interval: Interval | undefined
  /** The share of answers that differ from those with the frames as they are. */
  changed: number
  /** The frames as they are, less this view. */
  loss: Paired | undefined
}

/** What a probe found. */
export interface Probe {
  /** The metric's name. */
  metric: string
  /** Samples that every view has an answer to. */
  samples: number
  rows: ProbeRow[]
  /** Sentences for who reads the figures; the first is the warning where the video makes no difference. */
  findings: string[]
  /** Whether the video was seen to make a difference. */
  video: boolean
}

/** How a model is probed. */
export interface ProbeOptions extends Omit<PredictOptions, 'textOnly' | 'onUnpredicted'> {
  adapter?: Adapter | undefined
  /** At most so many samples, drawn by `seed`. Default 200. */
  most?: number
  /** Default 0. */
  seed?: number
  /** Predictions that there are already for the frames as they are. */
  known?: readonly Pick<Prediction, 'id' | 'prediction'>[] | undefined
  onProgress?: ((done: number, total: number) => void) | undefined
  /** Those that predict a share each; every one of them gives the same samples and options, and gets what all found. */
  ranks?: Ranks | undefined
}

/** Samples that are probed, unless options say otherwise. */
export const PROBED = 200

/** Features of clips, changed before they are used; they are computed and kept by the features that they are of. */
class Changed extends Features {
  constructor(
    private readonly original: Features,
    private readonly change: (clip: Clip & { id?: string }, signal?: AbortSignal) => Promise<FeatureData>,
  ) {
    super(original.checkpoint, { ...original.options, cache: undefined })
  }
  override of(clip: Clip & { id?: string }, signal?: AbortSignal): Promise<FeatureData> {
    return this.change(clip, signal)
  }
  override hold(clip: Clip & { id?: string }, signal?: AbortSignal): Promise<() => void> {
    return this.original.hold(clip, signal)
  }
}

/** The frames of E_v in another order, which may repeat some. */
function reordered(data: FeatureData, order: readonly number[]): FeatureData {
  const size = data.length / order.length
  const out = data.slice()
  order.forEach((from, to) => out.set(data.subarray(from * size, (from + 1) * size), to * size))
  return out
}

/** An order that differs from the true one. */
function disordered(frames: number, seed: number, stream: number): number[] {
  for (let tries = 0; ; tries++) {
    const order = shuffled(frames, seed, stream + tries * 1_000_003)
    if (order.some((from, to) => from !== to)) return order
  }
}

/**
 * For each sample one whose video is another: the next video's in an order by the seed, a sample of the same place
 * there. Undefined where all samples are of one video.
 */
function otherClips(samples: readonly Sample[], seed: number): Map<string, Sample> | undefined {
  const byVideo = new Map<string, Sample[]>()
  for (const sample of samples) byVideo.set(sample.video, [...(byVideo.get(sample.video) ?? []), sample])
  const videos = [...byVideo.values()]
  if (videos.length < 2) return undefined
  const order = shuffled(videos.length, seed, 0)
  return new Map(
    order.flatMap((video, i) => {
      const next = videos[order[(i + 1) % order.length]!]!
      return videos[video]!.map((sample, k): [string, Sample] => [sample.id, next[k % next.length]!])
    }),
  )
}

/**
 * The features that each view shows, all made of those of the clips as they are; `text` for the view without any. A
 * view is left out where it cannot differ: the order of one frame, another clip's frames where there is but one clip.
 */
export async function views(
  features: Features,
  samples: readonly Sample[],
  seed: number,
): Promise<Map<View, Features | 'text'>> {
  const { frames } = features.options
  const places = new Map(samples.map((s, i) => [s.id, i]))
  const order = (orderOf: (place: number) => number[]): Features =>
    new Changed(features, async (clip, signal) =>
      reordered(await features.of(clip, signal), orderOf(places.get(clip.id!)!)),
    )
  const found = new Map<View, Features | 'text'>([['as they are', features]])
  if (frames > 1) {
    found.set(
      'shuffled',
      order((place) => disordered(frames, seed, place + 2)),
    )
    found.set(
      'one repeated',
      order(() => Array.from({ length: frames }, () => Math.floor(frames / 2))),
    )
  }
  found.set('blank', new Changed(features, () => features.blank()))
  const other = otherClips(samples, seed)
  if (other)
    found.set("another clip's", new Changed(features, (clip, signal) => features.of(other.get(clip.id!)!, signal)))
  return found.set('text alone', 'text')
}

/**
 * Asks the same questions with other pictures. Clips are decoded and pass the vision tower once; the views are made of
 * their features. Samples whose clip cannot be used are left out.
 *
 * @throws InputError where no sample can be used
 */
export async function probe(
  checkpoint: Checkpoint,
  features: Features,
  all: readonly Sample[],
  { adapter, most = PROBED, seed = 0, known = [], onProgress, ranks = alone, ...options }: ProbeOptions = {},
): Promise<Probe> {
  const drawn = shuffled(all.length, seed, 1).slice(0, most)
  let samples = drawn.sort((a, b) => a - b).map((i) => all[i]!)
  let [done, total] = [0, samples.length]
  const ask = async (of: Features | 'text'): Promise<Map<string, string>> => {
    const answers = new Map<string, string>()
    const onUnpredicted = (): void => onProgress?.(++done, total)
    const textOnly = of === 'text'
    const how = { ...options, adapter, ranks, textOnly, onUnpredicted }
    for await (const p of predictSamples(checkpoint, textOnly ? features : of, samples, how)) {
      answers.set(p.id, p.prediction)
      onProgress?.(++done, total)
    }
    samples = samples.filter((s) => answers.has(s.id))
    return answers
  }
  const before = new Map(known.map((p) => [p.id, p.prediction]))
  const asTheyAre = samples.every((s) => before.has(s.id)) ? before : await ask(features)
  if (!samples.length) throw new InputError('probe: not one of the samples has a clip that can be used.')
  const others = await views(features, samples, seed)
  others.delete('as they are')
  total = done + samples.length * others.size
  const answers = new Map<View, Map<string, string>>([['as they are', asTheyAre]])
  for (const [view, of] of others) answers.set(view, await ask(of))

  const groups = samples.map((s) => s.video)
  const score = (of: Map<string, string>): Score => {
    const list = samples.map((s) => answered(s, of.get(s.id)))
    return samples.every((s) => s.choices) ? accuracyScore(list) : rougeGoogle(list)
  }
  const whole = score(asTheyAre)
  const rows = [...answers].map(([view, of]): ProbeRow => {
    const own = score(of)
    return {
      view,
      value: own.value,
      interval: bootstrap(own, groups, { seed }),
      changed: samples.filter((s) => of.get(s.id) !== asTheyAre.get(s.id)).length / samples.length,
      loss: view === 'as they are' ? undefined : paired(whole, own, groups, { seed }),
    }
  })
  return { metric: whole.metric, samples: samples.length, rows, ...judged(rows, samples.length) }
}

/** What the rows say about the video, and about the order of its frames. */
export function judged(rows: readonly ProbeRow[], samples: number): Pick<Probe, 'findings' | 'video'> {
  const row = (view: View): ProbeRow | undefined => rows.find((r) => r.view === view)
  const better = (r: ProbeRow | undefined): boolean => r?.loss?.interval !== undefined && r.loss.interval.low > 0
  const without = (['blank', "another clip's", 'text alone'] as const).flatMap((view) => row(view) ?? [])
  const worse = without.filter((r) => r.loss?.interval !== undefined && r.loss.interval.high < 0)
  // A clip of something else is the fairest test: the model sees pictures as it is used to, of another answer.
  const video = better(row("another clip's")) || better(row('blank'))
  const findings: string[] = []
  if (!video) {
    const same = without.every(({ view, changed }) => view === 'text alone' || changed === 0)
    findings.push(
      same
        ? `the pictures change no answer of ${samples} samples: what the model answers comes from the texts`
        : `${samples} samples do not show that the video helps: answers are as good with another clip's frames, or blank ones`,
    )
  } else {
    const ordered = [row('shuffled'), row('one repeated')].filter((r) => r !== undefined)
    if (ordered.length && !ordered.some(better))
      findings.push(
        'the order of frames is not seen to matter: answers are as good with frames shuffled, or one repeated',
      )
  }
  for (const { view } of worse) findings.push(`answers are better with "${view}" than with the frames as they are`)
  return { findings, video }
}
