/**
 * The manifest: JSONL, one sample a line, the only form in which data reaches training and evaluation. A converter for a
 * dataset writes such a file; nothing downstream knows the dataset. Imports lib/errors.ts and zod.
 */

import { readFile, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { z } from 'zod'
import { invalid, nearest, show, type InputError } from '../errors.js'

const schema = z.strictObject({
  id: z.string().min(1).describe('Unique within the manifest.'),
  video: z.string().min(1).describe('A video file, or a folder of frame images; relative to the manifest.'),
  fps: z.number().positive().optional().describe('Frames per second of a folder of frame images; required there, not allowed for a video file.'),
  start: z.number().min(0).optional().describe('Start of the clip in seconds; 0 when absent.'),
  end: z.number().positive().optional().describe('End of the clip in seconds; the end of the video when absent.'),
  qformerText: z.string().optional().describe('Text given to the Q-Former beside the frames: the dialogue, the subtitles or the question.'),
  prompt: z.string().min(1).describe('What the language model is asked, as it stands.'),
  answer: z.string().min(1).describe('The expected answer; among `choices` where these are given.'),
  choices: z.array(z.string().min(1)).min(2).optional().describe('The possible answers of a closed question.'),
  task: z.string().min(1).optional().describe('A name under which accuracy is also reported on its own.'),
})

/** One line of a manifest; `video` is an absolute path once read, times are in seconds. */
export type Sample = z.infer<typeof schema>

/** The JSON Schema (draft 2020-12) of one line; docs/manifest.schema.json holds the same. */
export function manifestJsonSchema(): Record<string, unknown> {
  const { $schema, ...rest } = z.toJSONSchema(schema)
  return { $schema, title: 'One line of an mtransllama manifest (JSONL)', ...rest }
}

/**
 * Reads and checks a manifest. Blank lines are skipped; `video` becomes an absolute path, and has to exist.
 *
 * @throws InputError naming the file and the line: not JSON, an unknown, missing or mistyped field, an id twice, `choices`
 *   without the answer or with a double, `end` not after `start`, no such video, a folder without `fps` or a file with it;
 *   and where the file is missing or holds no sample
 */
export async function readManifest(path: string): Promise<Sample[]> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    throw invalid(path, 'a readable manifest (JSONL)', error)
  }
  const samples: Sample[] = []
  const lineOf = new Map<string, number>()
  for (const [i, line] of text.replace(/^\uFEFF/, '').split('\n').entries()) {
    if (line.trim() === '') continue
    const where = `${path}, line ${i + 1}`
    const sample = parseLine(line, where)
    const before = lineOf.get(sample.id)
    if (before !== undefined) throw invalid(`${where}, id`, 'an id of its own', sample.id, `line ${before} has it already`)
    lineOf.set(sample.id, i + 1)
    samples.push({ ...sample, video: resolve(dirname(path), sample.video) })
  }
  if (samples.length === 0) throw invalid(path, 'at least one sample', new Error(text === '' ? 'an empty file' : 'blank lines alone'))
  await checkVideos(path, samples, [...lineOf.values()])
  return samples
}

/** One line as a sample, everything checked that the line alone can tell. */
function parseLine(line: string, where: string): Sample {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (error) {
    throw invalid(where, 'a JSON object', line.trim(), (error as Error).message)
  }
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw explain(parsed.error.issues, value, where)
  const sample = parsed.data
  if (sample.end !== undefined && sample.end <= (sample.start ?? 0)) {
    throw invalid(`${where}, end`, `a time after start (${sample.start ?? 0} s)`, sample.end)
  }
  if (sample.choices && !sample.choices.includes(sample.answer)) {
    throw invalid(`${where}, answer`, `one of the choices ${show(sample.choices)}`, sample.answer)
  }
  const twice = sample.choices?.find((choice, i) => sample.choices!.indexOf(choice) !== i)
  if (twice !== undefined) throw invalid(`${where}, choices`, 'choices that differ', sample.choices, `${show(twice)} is there twice`)
  return sample
}

/** Zod's first complaint in this project's words; an unknown key goes first, since it is often a required one mistyped. */
function explain(issues: z.core.$ZodIssue[], value: unknown, where: string): InputError {
  const issue = issues.find((i) => i.code === 'unrecognized_keys') ?? issues[0]!
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0]!
    const near = nearest(key, Object.keys(schema.shape))
    return invalid(where, 'known keys alone', key, near ? `did you mean ${show(near)}?` : `known are ${Object.keys(schema.shape).join(', ')}`)
  }
  const got = issue.path.reduce<unknown>((v, key) => (v as Record<PropertyKey, unknown> | undefined)?.[key], value)
  const name = issue.path.length ? `${where}, ${issue.path.join('.')}` : where
  if (got === undefined && issue.path.length) return invalid(name, 'this field', new Error('nothing'), 'it is required')
  if (issue.code === 'invalid_type') return invalid(name, `${/^[aeiou]/.test(issue.expected) ? 'an' : 'a'} ${issue.expected}`, got)
  if (issue.code === 'too_small') {
    const least = `${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}`
    return invalid(name, { string: 'a text that is not empty', array: `${least} entries` }[issue.origin as string] ?? `a number, ${least}`, got)
  }
  return invalid(name, issue.message, got)
}

/** Every video is there, and `fps` stands where frames are images and only there. */
async function checkVideos(path: string, samples: Sample[], lines: number[]): Promise<void> {
  const kinds = new Map<string, Promise<'file' | 'folder' | Error>>()
  for (const { video } of samples) {
    if (kinds.has(video)) continue
    kinds.set(video, stat(video).then((s) => (s.isDirectory() ? 'folder' : 'file'), (error: Error) => error))
    if (kinds.size % 64 === 0) await kinds.get(video)
  }
  for (const [i, { video, fps }] of samples.entries()) {
    const where = `${path}, line ${lines[i]}`
    const kind = await kinds.get(video)!
    if (kind instanceof Error) throw invalid(`${where}, video`, 'a video file or a folder of frame images', kind, 'paths are relative to the manifest')
    if (kind === 'folder' && fps === undefined) throw invalid(`${where}, fps`, 'the frames per second of the folder of frame images', new Error('nothing'))
    if (kind === 'file' && fps !== undefined) throw invalid(`${where}, fps`, 'no fps for a video file, whose frames carry their own times', fps)
  }
}
