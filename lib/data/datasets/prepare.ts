/** From a dataset's published files to a manifest: prompts, videos that are there, and counts beside the paper's. */
import { mkdir } from 'node:fs/promises'
import { dirname, relative, resolve, sep } from 'node:path'
import { invalid, InputError, nearest, show } from '../../errors.js'
import { writeFileAtomic } from '../../files/atomic.js'
import type { Sample } from '../manifest.js'
import { letterOf } from './choices.js'
import {
  unique,
  type Counts,
  type Dataset,
  type Entry,
  type PromptSet,
  type ReadOptions,
  type Split,
} from './dataset.js'
import { promptsOf } from './datasets.js'
import { Source } from './source.js'

type Chosen = { [K in keyof ReadOptions]?: ReadOptions[K] | undefined }

export interface PrepareOptions extends Chosen {
  /** The folder with the published files. */
  source: string
  /** The folder with the videos. Default: the same. */
  videos?: string | undefined
  /** The name of a set of prompts. Default: the dataset's. */
  prompts?: string | undefined
  /** A file of sets of prompts instead of the dataset's own. */
  promptFile?: string | undefined
  /** Leaves out `choices`: answers are then generated, not ranked. */
  open?: boolean | undefined
}

/** A count of a split beside the paper's. */
export interface CountLine {
  split: Split
  /** `samples`, `videos`, `positive`, `negative`, or a task. */
  what: string
  found: number
  /** What Table I or II says, where it says something. */
  paper: number | undefined
  /** What is left where samples without their video are left out. */
  usable: number
}

/** A dataset, read. */
export interface Prepared {
  dataset: string
  splitting: string | undefined
  prompts: string
  /** Samples whose video is there; `video` is absolute. */
  samples: Sample[]
  counts: CountLine[]
  /** Names of videos that samples need, in order of first use, and of those the ones that are not there. */
  needed: string[]
  missing: string[]
  notices: string[]
}

/** Reads a dataset. @throws InputError for files that are not there or in another form, and for a wrong choice */
export async function prepare(dataset: Dataset, options: PrepareOptions): Promise<Prepared> {
  const read = readOptions(dataset, options)
  const source = await Source.open(options.source)
  const { entries, notices } = await dataset.read(source, read)
  if (!entries.length) throw invalid(options.source, `samples of ${dataset.title}`, new Error('none'))
  unique(entries, options.source)
  const sets = await promptsOf(dataset, options.promptFile)
  const chosen = options.prompts ?? dataset.prompts?.(read) ?? 'paper'
  const name =
    options.promptFile !== undefined && options.prompts === undefined && !sets[chosen] ? Object.keys(sets)[0]! : chosen
  const set = sets[name]
  if (!set) {
    const near = nearest(name, Object.keys(sets))
    throw invalid('--prompts', near ? `${near}, perhaps` : Object.keys(sets).join(', '), name)
  }
  const videos = options.videos === undefined ? source : await Source.open(options.videos)
  const needed = [...new Set(entries.map((e) => e.video))]
  const found = new Map(needed.map((video) => [video, videos.video(video, dataset.clips)]))
  const there = (entry: Entry): boolean => found.get(entry.video) !== undefined
  return {
    dataset: dataset.name,
    splitting: dataset.splittings && read.splitting + (dataset.folds?.[read.splitting] ? `, fold ${read.fold}` : ''),
    prompts: name,
    samples: entries.filter(there).map((e) => sampleOf(e, found.get(e.video)!, set, name, options.open ?? false)),
    counts: countLines(dataset, entries, there, read),
    needed,
    missing: needed.filter((video) => found.get(video) === undefined),
    notices,
  }
}

function readOptions(dataset: Dataset, options: PrepareOptions): ReadOptions {
  const splittings = Object.keys(dataset.splittings ?? {})
  const { splitting = splittings[0] ?? 'published', seed = 0, trainLimit, ids } = options
  if (splittings.length ? !splittings.includes(splitting) : options.splitting !== undefined)
    throw invalid('--splitting', splittings.length ? splittings.join(', ') : `nothing for ${dataset.title}`, splitting)
  const folds = dataset.folds?.[splitting]
  const { fold = 1 } = options
  if (options.fold !== undefined && !(folds && fold <= folds))
    throw invalid('--fold', folds ? `1 to ${folds}` : `nothing for ${dataset.title}, ${splitting}`, fold)
  return { splitting, fold, seed, trainLimit, ids }
}

// ------------------------------------------------------------------------------------------------------------- prompts

/** A text with its fields filled in. @throws InputError for a field that there is not */
function filled(text: string, fields: Record<string, string>, where: string): string {
  return text.replace(/\{(\w+)\}/g, (_, name: string) => {
    const value = fields[name]
    if (value === undefined)
      throw new InputError(
        `${where}: there is no field {${name}} here; there are ${Object.keys(fields)
          .map((field) => `{${field}}`)
          .join(', ')}.`,
      )
    return value
  })
}

function sampleOf(entry: Entry, video: string, set: PromptSet, name: string, open: boolean): Sample {
  const where = `prompts ${show(name)}`
  const { id, split, start, end, group, task } = entry
  const line = (form: string, place: number): string =>
    filled(form, { letter: letterOf(place), text: entry.options!.texts[place]! }, where)
  const form = set.option ?? '({letter}) {text}'
  const fields = {
    ...entry.fields,
    ...(entry.options && { options: entry.options.texts.map((_, i) => line(form, i)).join('\n') }),
  }
  let [answer, choices]: [string | undefined, string[] | undefined] = [entry.answer, undefined]
  if (entry.options) {
    choices = entry.options.texts.map((_, i) => line(set.optionAnswer ?? form, i).trim())
    answer = choices[entry.options.right]!
  } else if (entry.label !== undefined) {
    choices = Object.values(set.answers ?? {})
    answer = set.answers?.[entry.label]
    if (answer === undefined)
      throw new InputError(`${where}: expected an answer for the label ${show(entry.label)} in \`answers\`.`)
  }
  return {
    id,
    video,
    ...(start !== undefined && { start }),
    ...(end !== undefined && { end }),
    ...(set.qformerText !== undefined && { qformerText: filled(set.qformerText, fields, where) }),
    prompt: filled(set.prompt, fields, where),
    answer: answer!,
    ...(choices && !open && { choices }),
    ...(task !== undefined && { task }),
    group,
    split,
  }
}

// -------------------------------------------------------------------------------------------------------------- counts

function countsOf({ positive }: Dataset, entries: readonly Entry[]): Counts {
  const counts: Counts = { samples: entries.length, videos: new Set(entries.map((e) => e.video)).size }
  for (const { task, label } of entries) {
    if (task !== undefined) counts[task] = (counts[task] ?? 0) + 1
    if (positive === undefined || label === undefined) continue
    counts['positive'] = (counts['positive'] ?? 0) + Number(label === positive)
    counts['negative'] = (counts['negative'] ?? 0) + Number(label !== positive)
  }
  return counts
}

function countLines(
  dataset: Dataset,
  entries: readonly Entry[],
  there: (entry: Entry) => boolean,
  read: ReadOptions,
): CountLine[] {
  const paper = dataset.paper(read)
  return (['train', 'val', 'test'] as const).flatMap((split) => {
    const own = entries.filter((e) => e.split === split)
    if (!own.length && !paper[split]) return []
    const [found, usable] = [countsOf(dataset, own), countsOf(dataset, own.filter(there))]
    const names = new Set([...Object.keys(found), ...Object.keys(paper[split] ?? {})])
    return [...names].map((what) => ({
      split,
      what,
      found: found[what] ?? 0,
      paper: paper[split]?.[what],
      usable: usable[what] ?? 0,
    }))
  })
}

// ------------------------------------------------------------------------------------------------------------ manifest

/**
 * Writes all samples to `path`, and those of each split beside it (`manifest.train.jsonl`); `video` is
 * relative to the manifest.
 *
 * @returns the paths that were written
 */
export async function writeManifests(path: string, samples: readonly Sample[]): Promise<string[]> {
  const folder = dirname(resolve(path))
  await mkdir(folder, { recursive: true })
  const lines = samples.map((sample) => {
    const near = relative(folder, resolve(sample.video)).split(sep).join('/')
    return { split: sample.split, text: `${JSON.stringify({ ...sample, video: near })}\n` }
  })
  const written: string[] = []
  for (const split of [undefined, 'train', 'val', 'test']) {
    const some = lines.filter((line) => split === undefined || line.split === split)
    if (!some.length) continue
    const file = split === undefined ? path : path.replace(/(\.jsonl)?$/, `.${split}.jsonl`)
    await writeFileAtomic(file, some.map((line) => line.text).join(''))
    written.push(file)
  }
  return written
}
