/** The data of an experiment: prepared, each clip's features cached once, manifests by fold; made once, then read. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { clipKey } from '../data/frames.js'
import type { Dataset } from '../data/datasets/dataset.js'
import { promptsOf } from '../data/datasets/datasets.js'
import { prepare, writeManifests, type CountLine, type Prepared } from '../data/datasets/prepare.js'
import type { Sample } from '../data/manifest.js'
import { InputError, invalid } from '../errors.js'
import { writeFileAtomic } from '../files/atomic.js'
import { readJsonObject } from '../files/json.js'
import { shuffled } from '../random.js'
import type { Features } from '../session/features.js'
import type { Experiment } from './experiments.js'

/** Where an experiment's files lie, and how they are read. */
export interface DataOptions {
  source: string
  /** Folder with the videos. Default: the source. */
  videos?: string | undefined
  /** Folder with the files of the data that is trained on, where it is another set. Default: the source. */
  trainSource?: string | undefined
  splitting?: string | undefined
  /** All folds, where the splitting has any; else the first. */
  folds?: boolean | undefined
  trainLimit?: number | undefined
  prompts?: string | undefined
  promptFile?: string | undefined
}

/** Manifests of one way to split the data. */
export interface Fold {
  /** From 1; absent where there are no folds. */
  fold?: number
  train: string
  /** Absent where the data has no samples to validate. */
  val?: string
  test: string
}

/** A count of one split beside the paper's, of the data of that name. */
export type DataCount = CountLine & { dataset: string }

/** Everything that is known of an experiment's data. */
export interface Data {
  folds: Fold[]
  /** Of the first fold. */
  counts: DataCount[]
  /** The set of prompts, and the way of splitting. */
  prompts: string
  splitting?: string
  /** The answer of the positive class, where there are two classes. */
  positive?: string
  notices: string[]
  /** Samples whose clip cannot be used, and why. */
  leftOut: { id: string; error: string }[]
}

const [FORMAT, VERSION] = ['mtransllama-data', 1] as const

/** What hears of the progress. */
export interface DataEvents {
  /** Clips whose features are there. */
  onClips?: ((done: number, total: number) => void) | undefined
  signal?: AbortSignal | undefined
}

/**
 * Prepares an experiment's data in `folder`, or reads what was prepared there before.
 *
 * @param name what the features depend on: model, frames and sampling
 * @throws InputError as {@link prepare}; where the folder holds data that was prepared otherwise; and where no sample
 *   is left to train on or to test
 */
export async function prepareData(
  experiment: Experiment,
  options: DataOptions,
  { folder, features, name }: { folder: string; features: Features; name: string },
  events: DataEvents = {},
): Promise<Data> {
  const record = join(folder, 'data.json')
  const key = createHash('sha256')
    .update(JSON.stringify([experiment.name, Object.entries(options).sort(), name]))
    .digest('hex')
    .slice(0, 16)
  if (existsSync(record)) {
    const { format, version, key: before, ...data } = await readJsonObject(record)
    if (format !== FORMAT || version !== VERSION) throw invalid(`${record}: format`, `"${FORMAT}"`, format)
    if (before !== key)
      throw new InputError(
        `${folder}: holds data that was prepared from other files, with other options or for another model; choose another --out.`,
      )
    return data as unknown as Data
  }
  await mkdir(folder, { recursive: true })
  const { folds, testing, training } = await readFolds(experiment, options)
  const leftOut = await cacheClips(
    folds.flatMap((f) => f.samples),
    features,
    events,
  )
  const lost = new Set(leftOut.map(({ id }) => id))
  const written: Fold[] = []
  for (const { fold, samples } of folds) {
    const kept = samples.filter(({ id }) => !lost.has(id))
    for (const split of ['train', 'test'])
      if (!kept.some((s) => s.split === split))
        throw new InputError(
          `reproduce: ${experiment.title} has no sample ${split === 'test' ? 'to test' : 'to train on'} here.`,
        )
    const at = (split?: string): string =>
      join(folder, `${fold === undefined ? 'all' : `fold-${fold}`}${split ? `.${split}` : ''}.jsonl`)
    await writeManifests(at(), kept)
    written.push({
      ...(fold !== undefined && { fold }),
      train: at('train'),
      ...(kept.some((s) => s.split === 'val') && { val: at('val') }),
      test: at('test'),
    })
  }
  const counted = (dataset: Dataset, { counts }: Prepared): DataCount[] =>
    counts.map((c) => ({ dataset: dataset.name, ...c }))
  const data: Data = {
    folds: written,
    counts: [...counted(experiment.testOn, testing), ...(training ? counted(experiment.trainOn!, training) : [])],
    prompts: testing.prompts,
    ...(testing.splitting !== undefined && { splitting: testing.splitting.replace(/, fold \d+$/, '') }),
    ...(experiment.classes && { positive: await positiveAnswer(experiment.testOn, testing.prompts, options) }),
    notices: [...testing.notices, ...(training?.notices ?? [])],
    leftOut,
  }
  await writeFileAtomic(record, `${JSON.stringify({ format: FORMAT, version: VERSION, key, ...data }, null, 2)}\n`)
  return data
}

interface Read {
  folds: { fold: number | undefined; samples: Sample[] }[]
  testing: Prepared
  training: Prepared | undefined
}

async function readFolds(
  { testOn, trainOn, holdOut }: Experiment,
  { source, trainSource, videos, folds: all = false, splitting, trainLimit, prompts, promptFile }: DataOptions,
): Promise<Read> {
  const way = splitting ?? Object.keys(testOn.splittings ?? {})[0]
  const count = way === undefined ? undefined : testOn.folds?.[way]
  if (all && !count) throw invalid('--folds', `data in folds, which ${testOn.title} is not`, way ?? 'one split')
  const numbers = count ? Array.from({ length: all ? count : 1 }, (_, i) => i + 1) : [undefined]
  const training = trainOn && (await prepare(trainOn, { source: trainSource ?? source, trainLimit }))
  const folds: Read['folds'] = []
  let testing: Prepared | undefined
  for (const fold of numbers) {
    const read = await prepare(testOn, {
      ...{ source, videos, splitting, fold, prompts, promptFile },
      trainLimit: trainOn ? undefined : trainLimit,
    })
    testing ??= read
    const samples = holdOut ? heldOut(read.samples, holdOut) : read.samples
    folds.push({ fold, samples: [...(training?.samples ?? []), ...samples] })
  }
  return { folds, testing: testing!, training }
}

/** The samples of every so many-th video, in an order that is drawn, become the test. */
function heldOut(samples: readonly Sample[], every: number): Sample[] {
  const videos = [...new Set(samples.map((s) => s.video))]
  const kept = new Set(
    shuffled(videos.length, 0, 0)
      .slice(0, Math.ceil(videos.length / every))
      .map((i) => videos[i]!),
  )
  return samples.map((s) => ({ ...s, split: kept.has(s.video) ? 'test' : 'train' }))
}

/** How the positive class is answered by a set of prompts. */
async function positiveAnswer(dataset: Dataset, prompts: string, { promptFile }: DataOptions): Promise<string> {
  return (await promptsOf(dataset, promptFile))[prompts]!.answers![dataset.positive!]!
}

/** Computes the features of every clip that has none yet. Returns the samples whose clip cannot be used. */
export async function cacheClips(
  samples: readonly Sample[],
  features: Features,
  { onClips, signal }: DataEvents,
): Promise<Data['leftOut']> {
  const clips = new Map<string, Sample[]>()
  for (const sample of samples) clips.set(clipKey(sample), [...(clips.get(clipKey(sample)) ?? []), sample])
  const leftOut = new Map<string, string>()
  let done = 0
  for (const some of clips.values()) {
    signal?.throwIfAborted()
    const { id, ...clip } = some[0]!
    try {
      await features.of(clip, signal)
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      for (const sample of some) leftOut.set(sample.id, error.message)
    }
    onClips?.(++done, clips.size)
  }
  return [...leftOut].map(([id, error]) => ({ id, error }))
}
