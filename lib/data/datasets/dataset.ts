/** What a published dataset is to `prepare`: how its files are read, its prompts, and the paper's counts. */
import { type InputError, invalid } from '../../errors.js'
import { randomStream } from '../../random.js'
import type { Source } from './source.js'

/** Parts of a dataset; what a dataset calls dev or validation is `val`. */
export type Split = 'train' | 'val' | 'test'

/** One sample as the dataset has it, before a prompt is made of it. */
export interface Entry {
  id: string
  split: Split
  /** The video's name without its extension, as the dataset names the file. */
  video: string
  /** Seconds. */
  start?: number
  end?: number
  group: string
  task?: string
  /** Texts that prompts may use, by name. */
  fields: Record<string, string>
  /** Of a question with a fixed set of answers: which of the prompts' `answers` is right. */
  label?: string
  /** Of a multiple choice: its texts, and the place of the right one. */
  options?: { texts: readonly string[]; right: number }
  /** Of an open question: the right answer. */
  answer?: string
}

/** A way to ask a dataset's questions; texts hold fields in braces, such as `{utterance}`. */
export interface PromptSet {
  /** Whose wording it is. */
  about: string
  /** For the Q-Former beside the frames; absent: it reads the prompt. */
  qformerText?: string
  prompt: string
  /** Answers by label. */
  answers?: Record<string, string>
  /** How one line of a list of options is written, of `{letter}` and `{text}`: `{options}` holds the lines. */
  option?: string
  /** How an answer of a multiple choice is written, of the same. Default: as its line. */
  optionAnswer?: string
}

/** What entries are read with. */
export interface ReadOptions {
  /** How the data are split: one of the dataset's `splittings`. */
  splitting: string
  /** Of a splitting into folds: which is tested, from 1. */
  fold: number
  /** Of splittings that are drawn, and of shuffled options. */
  seed: number
  /** At most so many samples to train on, the first ones. */
  trainLimit?: number | undefined
  /** A file of ids by split, of the splitting `ids`. */
  ids?: string | undefined
}

/** Counts of one split by name, such as `samples`, `videos`, `positive`. */
export type Counts = Record<string, number>

/** What reading a dataset gave. */
export interface Entries {
  entries: Entry[]
  /** Facts about the files that their user has to know, such as samples that cannot be used. */
  notices: string[]
}

/** A published dataset. */
export interface Dataset {
  /** As in `prepare NAME`. */
  name: string
  title: string
  /** How it can be split, the default first, each with what it is; absent: as published. */
  splittings?: Record<string, string>
  /** Folds of a splitting by name. */
  folds?: Record<string, number>
  /** Words for labels in counts: which one is positive. */
  positive?: string
  /** The paper's counts (Tables I and II) by split, of a splitting. */
  paper(options: ReadOptions): Partial<Record<Split, Counts>>
  /** The folder that holds the clips, where others hold files of the same name. */
  clips?: string
  /** The set of prompts where none is chosen. Default: `paper`. */
  prompts?(options: ReadOptions): string
  /** Metrics of the paper and of the dataset's own scripts, by name. */
  metrics: readonly string[]
  read(source: Source, options: ReadOptions): Promise<Entries>
}

/** `"Speaker: words"` by line. */
export const dialogue = (speakers: readonly string[], lines: readonly string[]): string =>
  lines.map((line, i) => `${speakers[i]}: ${line}`).join('\n')

/**
 * Splits entries by class: each class is shuffled by the seed and dealt out, so that every part has the same share of
 * each class up to one entry.
 *
 * @param parts weights of the parts
 * @returns the part of each entry
 */
export function stratified(labels: readonly string[], parts: readonly number[], seed: number): number[] {
  const whole = parts.reduce((a, b) => a + b, 0)
  const part = new Array<number>(labels.length)
  ;[...new Set(labels)].sort().forEach((label, stream) => {
    const places = [...labels.keys()].filter((i) => labels[i] === label)
    const random = randomStream(seed, stream)
    for (let i = places.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1))
      ;[places[i], places[j]] = [places[j]!, places[i]!]
    }
    let [from, sum] = [0, 0]
    parts.forEach((weight, p) => {
      sum += weight
      const to = Math.round((places.length * sum) / whole)
      for (const place of places.slice(from, to)) part[place] = p
      from = to
    })
  })
  return part
}

/** The first samples to train on, at most `limit`. */
export function limitTrain(entries: Entry[], limit: number | undefined): Entry[] {
  if (limit === undefined) return entries
  let left = limit
  return entries.filter((e) => e.split !== 'train' || left-- > 0)
}

/** The sentence about entries that were left out, the first of them named; nothing where there are none. */
export const leftOut = (what: string, ids: readonly string[]): string[] =>
  ids.length ? [`${ids.length} samples left out, ${what}; the first: ${JSON.stringify(ids[0])}`] : []

/** Every id once. @throws InputError naming the first that is there twice */
export function unique(entries: readonly Entry[], where: string): void {
  const seen = new Set<string>()
  for (const { id } of entries) {
    if (seen.has(id)) throw invalid(where, 'every id once', id, 'the annotations are damaged or mixed')
    seen.add(id)
  }
}

/** The error of annotations in another form than the published one. */
export const otherForm = (path: string, expected: string, got: unknown): InputError =>
  invalid(path, expected, got, 'is this the published file?')
