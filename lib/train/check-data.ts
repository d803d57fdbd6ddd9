/** Decodes every frame that a run would take, so that clips that cannot be read are known before it. */
import { appendFile, mkdir, readFile, stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { dirname } from 'node:path'
import { clipKey, readFrames } from '../data/frames.js'
import { readManifest, sampleName, type Sample } from '../data/manifest.js'
import { InputError, invalid } from '../errors.js'
import { writeFileAtomic } from '../files/atomic.js'
import type { TrainConfig } from './config.js'

/** What was found of a clip; a line of the file that {@link checkData} continues. */
export interface CheckedClip {
  /** The clip, and the frames that are taken of it. */
  clip: string
  /** Size and time stamp of the video. */
  stamp: string
  /** The first sample with this clip, and how many have it. */
  sample: string
  samples: number
  /** Why it cannot be used. */
  error?: string
}

export interface CheckDataOptions {
  /** File of JSON lines that results are appended to; clips that it holds, unchanged, are not decoded again. */
  file: string
  signal?: AbortSignal | undefined
  /** Called after each clip; `known`: it was in the file. */
  onClip?(clip: CheckedClip, done: number, total: number, known: boolean): void
}

/** Checks the clips of both manifests, several at a time, each within `data.timeout` seconds. */
export async function checkData(config: TrainConfig, options: CheckDataOptions): Promise<CheckedClip[]> {
  const { data, adapter } = config
  const samples = [...(await readManifest(data.train)), ...(data.val === undefined ? [] : await readManifest(data.val))]
  const clips = new Map<string, Sample[]>()
  for (const sample of samples) {
    const key = JSON.stringify([clipKey(sample), adapter.frames, data.sampling])
    clips.set(key, [...(clips.get(key) ?? []), sample])
  }
  const known = await readKnown(options.file)
  try {
    await mkdir(dirname(options.file), { recursive: true })
    // Without a last line that was cut, which the next one would continue.
    await writeFileAtomic(options.file, [...known.values()].map((clip) => `${JSON.stringify(clip)}\n`).join(''))
  } catch (error) {
    throw invalid(options.file, 'a file that can be written', error)
  }
  const todo = [...clips.entries()]
  const results = new Map<string, CheckedClip>()
  const worker = async (): Promise<void> => {
    for (let next = todo.shift(); next; next = todo.shift()) {
      options.signal?.throwIfAborted()
      const [clip, of] = next
      const stamp = await stampOf(of[0]!.video)
      const before = known.get(clip)
      const unchanged = before?.stamp === stamp
      const about = { clip, stamp, sample: sampleName(of[0]!)!, samples: of.length }
      const result = unchanged && before ? { ...about, error: before.error! } : await looked(about, of[0]!, config)
      if (result.error === undefined) delete result.error
      results.set(clip, result)
      if (!unchanged) await appendFile(options.file, `${JSON.stringify(result)}\n`)
      options.onClip?.(result, results.size, clips.size, unchanged)
    }
  }
  await Promise.all(Array.from({ length: Math.max(1, Math.min(4, availableParallelism())) }, worker))
  return [...clips.keys()].flatMap((key) => results.get(key) ?? [])
}

async function looked(about: CheckedClip, sample: Sample, { data, adapter }: TrainConfig): Promise<CheckedClip> {
  try {
    await readFrames(sample, { frames: adapter.frames, sampling: data.sampling, timeout: data.timeout })
    return about
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    return { ...about, error: error.message }
  }
}

const stampOf = (video: string): Promise<string> =>
  stat(video).then(
    ({ size, mtimeMs }) => `${size} ${mtimeMs}`,
    () => 'none',
  )

/** What the file says, by clip; the last line counts, and one that was cut does not. */
async function readKnown(file: string): Promise<Map<string, CheckedClip>> {
  const text = await readFile(file, 'utf8').catch(() => '')
  const known = new Map<string, CheckedClip>()
  for (const line of text.split('\n')) {
    try {
      const entry = JSON.parse(line) as CheckedClip
      if (typeof entry.clip === 'string') known.set(entry.clip, entry)
    } catch {
      // empty, or cut when a check was killed
    }
  }
  return known
}
