/** MUStARD (soujanyaporia/MUStARD): sarcasm in clips of television, with the dialogue before. */
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { invalid } from '../../errors.js'
import { NumpyArray, readPickle, type PickleValue } from '../../files/pickle.js'
import {
  dialogue,
  otherForm,
  stratified,
  type Dataset,
  type Entries,
  type Entry,
  type ReadOptions,
  type Split,
} from './dataset.js'
import type { Source } from './source.js'

const PUBLISHER = 'soujanyaporia/MUStARD'

const schema = z.record(
  z.string(),
  z.object({
    utterance: z.string(),
    speaker: z.string(),
    context: z.array(z.string()),
    context_speakers: z.array(z.string()),
    show: z.string(),
    sarcasm: z.boolean(),
  }),
)

/** All samples in the order of the file, to which the index file refers; `splitOf` gives each its part. */
async function read(source: Source, splitOf: (entries: Entry[]) => Promise<(Split | undefined)[]>): Promise<Entries> {
  const path = source.need('sarcasm_data.json', PUBLISHER)
  const rows = Object.entries(await source.json(path, schema))
  if (!rows.length) throw otherForm(path, 'samples', new Error('none'))
  const all = rows.map(([id, row]): Entry => {
    if (row.context.length !== row.context_speakers.length)
      throw otherForm(`${path}: ${id}`, 'a speaker for each line of context', row.context_speakers)
    const said = dialogue([...row.context_speakers, row.speaker], [...row.context, row.utterance])
    return {
      id,
      split: 'train',
      video: id,
      group: row.show,
      label: row.sarcasm ? 'sarcastic' : 'sincere',
      fields: {
        dialogue: said,
        context: dialogue(row.context_speakers, row.context),
        speaker: row.speaker,
        utterance: row.utterance,
      },
    }
  })
  const splits = await splitOf(all)
  return {
    entries: all.flatMap((entry, i) => (splits[i] ? [{ ...entry, split: splits[i] }] : [])),
    notices: [],
  }
}

/** The folds of split_indices.p: a list of five pairs (train, test) of arrays of places in the JSON's order. */
async function officialFold(path: string, fold: number, samples: number): Promise<Split[]> {
  const form = 'a list of five pairs of arrays of places'
  const value = await readPickle(path)
  if (!Array.isArray(value) || value.length !== 5) throw otherForm(path, form, new Error('something else'))
  const pair = value[fold - 1] as PickleValue
  if (!Array.isArray(pair) || pair.length !== 2) throw otherForm(path, form, new Error('something else'))
  const [train, test] = pair.map((array: PickleValue) => {
    const places: readonly unknown[] | undefined =
      array instanceof NumpyArray
        ? Array.from(array.data as ArrayLike<number>)
        : Array.isArray(array)
          ? array
          : undefined
    if (!places) throw otherForm(path, form, new Error('something else'))
    return places.map(Number)
  }) as [number[], number[]]
  const splits = new Array<Split | undefined>(samples).fill(undefined)
  for (const [places, split] of [
    [train, 'train'],
    [test, 'test'],
  ] as const)
    for (const place of places) {
      if (!(Number.isInteger(place) && place >= 0 && place < samples))
        throw otherForm(path, `places below ${samples}, the number of samples`, place)
      if (splits[place]) throw otherForm(`${path}: fold ${fold}`, 'every sample once', place)
      splits[place] = split
    }
  const absent = splits.indexOf(undefined)
  if (absent >= 0)
    throw otherForm(`${path}: fold ${fold}`, 'every sample in one part', new Error(`sample ${absent} in none`))
  return splits as Split[]
}

const labels = (entries: readonly Entry[]): string[] => entries.map((e) => e.label!)

/** `mustard`: five folds, the paper's MUStARD. */
export const mustard: Dataset = {
  name: 'mustard',
  title: 'MUStARD, five folds',
  splittings: {
    official: "the authors' split_indices.p, which is not stratified",
    stratified: 'folds with equal shares of both classes, drawn by --seed, as the paper counts them',
    speaker: 'test on FRIENDS, train on the other shows',
  },
  folds: { official: 5, stratified: 5 },
  positive: 'sarcastic',
  clips: 'utterances_final',
  metrics: ['accuracy'],
  paper: ({ splitting }) =>
    splitting === 'speaker'
      ? { train: { samples: 334 }, test: { samples: 356, positive: 152, negative: 204 } }
      : {
          train: { samples: 552, positive: 276, negative: 276 },
          test: { samples: 138, positive: 69, negative: 69 },
        },
  read: (source, { splitting, fold, seed }: ReadOptions) =>
    read(source, async (entries) => {
      if (splitting === 'official') return officialFold(source.need('split_indices.p', PUBLISHER), fold, entries.length)
      if (splitting === 'speaker') return entries.map((e) => (e.group === 'FRIENDS' ? 'test' : 'train'))
      const parts = stratified(labels(entries), [1, 1, 1, 1, 1], seed)
      return parts.map((part) => (part === fold - 1 ? 'test' : 'train'))
    }),
}

const idLists = z.object({
  train: z.array(z.string()),
  val: z.array(z.string()).optional(),
  dev: z.array(z.string()).optional(),
  test: z.array(z.string()).optional(),
})

/** Parts of entries by lists of ids; `test` defaults to the rest. @throws InputError for a strange id, or one twice */
function byIds(entries: readonly Entry[], lists: z.output<typeof idLists>, where: string): (Split | undefined)[] {
  const known = new Set(entries.map((e) => e.id))
  const split = new Map<string, Split>()
  for (const [name, ids] of Object.entries({ train: lists.train, val: lists.val ?? lists.dev, test: lists.test }))
    for (const id of ids ?? []) {
      if (!known.has(id)) throw invalid(where, 'ids of the dataset', id)
      if (split.has(id)) throw invalid(where, 'every id in one part', id)
      split.set(id, name as Split)
    }
  return entries.map((e) => split.get(e.id) ?? (lists.test ? undefined : 'test'))
}

const MMLA = new URL('mustard-mmla.json', import.meta.url)

/** `mustard-star`: train, validation and test of 60, 20 and 20 %, the paper's MUStARD*. */
export const mustardStar: Dataset = {
  ...mustard,
  name: 'mustard-star',
  title: 'MUStARD*, 60/20/20',
  splittings: {
    mmla: "MMLA's public ids, which have the paper's counts; whether the paper used them is not known",
    seeded: 'stratified 60/20/20, drawn by --seed',
    ids: 'ids by split from the JSON file of --ids',
  },
  folds: {},
  paper: () => ({
    train: { samples: 414, positive: 207, negative: 207 },
    val: { samples: 138, positive: 69, negative: 69 },
    test: { samples: 138, positive: 69, negative: 69 },
  }),
  read: (source, { splitting, seed, ids }: ReadOptions) =>
    read(source, async (entries) => {
      if (splitting === 'ids') {
        if (ids === undefined) throw invalid('--ids', 'a JSON file of ids by split', new Error('nothing'))
        return byIds(entries, await source.json(ids, idLists), ids)
      }
      if (splitting === 'mmla') {
        const lists = idLists.parse(JSON.parse(readFileSync(MMLA, 'utf8')))
        // Of fewer samples than were published, those that are there.
        const there = new Set(entries.map((e) => e.id))
        const kept = { train: lists.train.filter((id) => there.has(id)), dev: lists.dev!.filter((id) => there.has(id)) }
        return byIds(entries, kept, 'the ids of MMLA')
      }
      return stratified(labels(entries), [3, 1, 1], seed).map((part) => (['train', 'val', 'test'] as const)[part])
    }),
}
