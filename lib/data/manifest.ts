/**
 * The manifest: JSONL, one sample per line, the only input of training and evaluation. A dataset's converter writes
 * such a file; nothing downstream knows the dataset.
 */

import { stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { z } from 'zod'
import { InputError, invalid, nearest, show } from '../errors.js'
import { readText } from '../files/text.js'
import { absent } from './reject.js'
import { parseJson } from '../files/json.js'
import { valueAt } from '../files/schema.js'

/** A text with at least one visible character: no space, control or format character, filler or blank. */
const text = () =>
  z
    .string()
    .min(1)
    .regex(/[^\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]/u)

const schema = z.strictObject({
  id: text().describe('Unique within the manifest.'),
  video: text().describe('A video file, or a folder of frame images; relative to the manifest.'),
  fps: z
    .number()
    .positive()
    .optional()
    .describe('Frames per second of a folder of frame images; required there, not allowed for a video file.'),
  start: z.number().min(0).optional().describe('Start of the clip in seconds; 0 when absent.'),
  end: z.number().positive().optional().describe('End of the clip in seconds; the end of the video when absent.'),
  qformerText: z
    .string()
    .optional()
    .describe('Text given to the Q-Former beside the frames: the dialogue, the subtitles or the question.'),
  prompt: text().describe('What the language model is asked, as it stands.'),
  answer: text().describe('The expected answer; among `choices` where these are given.'),
  choices: z.array(text()).min(2).optional().describe('The possible answers of a closed question.'),
  references: z
    .array(text())
    .min(1)
    .optional()
    .describe('Every right answer of an open question, `answer` among them; metrics take the best.'),
  task: text().optional().describe('A name under which accuracy is also reported on its own.'),
  group: text()
    .optional()
    .describe('What samples have in common, such as the show or the video; `score --by group` reports each.'),
  split: text().optional().describe('The part of the data that the sample belongs to, such as `train` or `test`.'),
})

/** One line of a manifest; `video` is an absolute path once read, times are in seconds. */
export type Sample = z.infer<typeof schema>

/** Where samples were read: file and line. */
const origins = new WeakMap<object, string>()
/** Errors that name their sample already. */
const told = new WeakSet<Error>()

/**
 * What a message calls a sample: file, line and id; the id alone where it was not read from a manifest; else nothing.
 */
export function sampleName(sample: { id?: string | undefined }): string | undefined {
  const { id } = sample
  if (id === undefined) return undefined
  const origin = origins.get(sample)
  return `${origin === undefined ? '' : `${origin}, `}sample ${show(id)}`
}

/** Runs `f` on behalf of a sample: an InputError that it throws, or rejects with, begins with the sample's name. */
export function forSample<R>(sample: { id?: string | undefined }, f: () => R): R {
  const fail = (error: unknown): never => {
    const name = sampleName(sample)
    if (!(error instanceof InputError) || told.has(error) || name === undefined) throw error
    error.message = `${name}: ${error.message}`
    told.add(error)
    throw error
  }
  try {
    const result = f()
    return result instanceof Promise ? (result.catch(fail) as R) : result
  } catch (error) {
    return fail(error)
  }
}

/** The JSON Schema (draft 2020-12) of one line; docs/manifest.schema.json holds the same. */
export function manifestJsonSchema(): Record<string, unknown> {
  const { $schema, ...rest } = z.toJSONSchema(schema)
  return { $schema, title: 'One line of an mtransllama manifest (JSONL)', ...rest }
}

/**
 * Reads and checks a manifest. Blank lines are skipped, as is a byte order mark before a line; `video` becomes an
 * absolute path, and has to exist.
 *
 * @param options `videos: false`: whether they exist is not looked at
 * @throws InputError naming the file and the line: not UTF-8, not JSON, an unknown, missing, mistyped or blank field, a
 *   duplicate key or id, `choices` without the answer or with a duplicate, `end` not after `start`, a missing video, a
 *   folder without `fps` or a file with it; or where the file is missing or holds no sample
 */
export async function readManifest(path: string, { videos = true } = {}): Promise<Sample[]> {
  const importer = 'mtransllama import-csv writes one from a table'
  if (/\.(csv|tsv|xlsx?)$/i.test(path)) throw invalid(path, 'a manifest (JSONL)', new Error('a table'), importer)
  const text = await readText(path, (error) => invalid(path, 'a readable manifest (JSONL)', error, importer))
  const samples: Sample[] = []
  const lineOf = new Map<string, number>()
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue // to JavaScript a byte order mark is space
    const where = `${path}, line ${i + 1}`
    const sample = parseLine(line.replace(/^\uFEFF/, ''), where)
    const before = lineOf.get(sample.id)
    if (before !== undefined) throw invalid(`${where}, id`, 'a unique id', sample.id, `line ${before} has it already`)
    lineOf.set(sample.id, i + 1)
    const whole = { ...sample, video: resolve(dirname(path), sample.video) }
    origins.set(whole, where)
    samples.push(whole)
  }
  if (samples.length === 0)
    throw invalid(path, 'at least one sample', new Error(text === '' ? 'an empty file' : 'blank lines alone'))
  if (videos) await checkVideos(path, samples, [...lineOf.values()])
  return samples
}

/** One line as a sample; checks everything that needs no other line. */
function parseLine(line: string, where: string): Sample {
  const value = parseJson(
    line,
    (error) => invalid(where, 'a JSON object', line.trim(), error.message),
    (key) => invalid(where, 'every key once', key, 'it is there twice; keep one of them'),
  )
  return checkSample(value, (key) => (key === undefined ? where : `${where}, ${key}`))
}

/** What a message calls a line, or the part of it with a key such as `choices.1`. */
export type Place = (key?: string) => string

/** A value as a sample; checks everything that needs neither another sample nor a file. @throws InputError */
export function checkSample(value: unknown, place: Place): Sample {
  const holding = (pattern: RegExp, but?: string): [string, unknown] | undefined =>
    Object.entries((value ?? {}) as object).find(
      ([key, v]) => key !== but && [v].flat().some((s) => typeof s === 'string' && pattern.test(s)),
    )
  const broken = holding(/\p{Cs}/u)
  if (broken) throw invalid(place(broken[0]), 'whole characters', broken[1], 'one is half of a surrogate pair')
  const lost = holding(/\uFFFD/, 'video')
  if (lost) throw invalid(place(lost[0]), 'whole characters', lost[1], 'one was lost when the text was converted')
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw explain(parsed.error.issues, value, place)
  const sample = parsed.data
  if (sample.end !== undefined && sample.end <= (sample.start ?? 0)) {
    throw invalid(place('end'), `a time after start (${sample.start ?? 0} s)`, sample.end)
  }
  if (sample.choices && !sample.choices.includes(sample.answer)) {
    throw invalid(place('answer'), `one of the choices ${show(sample.choices)}`, sample.answer)
  }
  if (sample.references && !sample.references.includes(sample.answer)) {
    throw invalid(place('answer'), `one of the references ${show(sample.references)}`, sample.answer)
  }
  const twice = sample.choices?.find((choice, i) => sample.choices!.indexOf(choice) !== i)
  if (twice !== undefined)
    throw invalid(place('choices'), 'choices that differ', sample.choices, `${show(twice)} is there twice`)
  return sample
}

/** Zod's first issue as one sentence. An unknown key goes first, since it is often a required one mistyped. */
function explain(issues: z.core.$ZodIssue[], value: unknown, place: Place): InputError {
  const issue = issues.find((i) => i.code === 'unrecognized_keys') ?? issues[0]!
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!
    const near = nearest(key, Object.keys(schema.shape))
    return invalid(
      place(),
      'known keys alone',
      key,
      near ? `did you mean ${show(near)}?` : `known are ${Object.keys(schema.shape).join(', ')}`,
    )
  }
  const got = valueAt(issue, value)
  const name = issue.path.length ? place(issue.path.join('.')) : place()
  if (got === undefined && issue.path.length) return invalid(name, 'this field', new Error('nothing'), 'it is required')
  if (issue.code === 'invalid_format') return invalid(name, 'a text that is not blank', got)
  if (issue.code === 'invalid_type')
    return invalid(name, `${/^[aeiou]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`, got)
  if (issue.code === 'too_small') {
    const least = `${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}`
    return invalid(
      name,
      { string: 'a text that is not empty', array: `${least} entries` }[issue.origin as string] ?? `a number, ${least}`,
      got,
    )
  }
  return invalid(name, issue.message, got)
}

/** Every video is there, and `fps` stands where frames are images and only there. */
async function checkVideos(path: string, samples: Sample[], lines: number[]): Promise<void> {
  const kinds = await videoKinds(samples.map(({ video }) => video))
  for (const [i, sample] of samples.entries()) {
    const place = (key?: string): string => `${path}, line ${lines[i]}, ${key}`
    checkVideo(sample, kinds.get(sample.video)!, place, 'paths are relative to the manifest')
  }
}

/** What a path leads to, or why it leads nowhere. */
type VideoKind = 'file' | 'folder' | Error

/** What each video is. */
export async function videoKinds(videos: Iterable<string>): Promise<Map<string, VideoKind>> {
  const kinds = new Map<string, Promise<VideoKind>>()
  for (const video of videos) {
    if (kinds.has(video)) continue
    kinds.set(
      video,
      stat(video).then(
        (s) => (s.isDirectory() ? 'folder' : 'file'),
        (error: Error) => error,
      ),
    )
    if (kinds.size % 64 === 0) await kinds.get(video)
  }
  return new Map(await Promise.all([...kinds].map(async ([video, kind]) => [video, await kind] as const)))
}

/** Checks that a sample's video is there, and its `fps` for it. @param hint where a path is relative to */
export function checkVideo({ video, fps }: Sample, kind: VideoKind, place: Place, hint: string): void {
  if (kind instanceof Error) throw absent(video, place('video'), 'a video file or a folder of frame images', kind, hint)
  if (kind === 'folder' && fps === undefined)
    throw invalid(place('fps'), 'the frames per second of the folder of frame images', new Error('nothing'))
  if (kind === 'file' && fps !== undefined)
    throw invalid(place('fps'), 'no fps for a video file, whose frames carry their own times', fps)
}
