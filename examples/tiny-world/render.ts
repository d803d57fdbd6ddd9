/**
 * Writes parts of the tiny world to disk as sets: a folder with videos (or pictures) and a manifest, made whole or not
 * at all, and used again where it is there already. Also stills in memory, for pre-training.
 */

import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { availableParallelism } from 'node:os'
import { invalid } from '../../lib/errors.js'
import { Interviewer, severalQuestion, stillQuestions, type Question } from './questions.js'
import { ENCODER, writeVideo } from './render-video.js'
import { FPS, FRAMES, Random, SIZE, clip, film, paint, stillScene, type Scene } from './world.js'

/** Raised whenever the same seed gives other pixels or questions, so that no older set is taken for a new one. */
const WORLD = 1

/** Frames as they happen, in another order, or one of them throughout. */
export type Order = 'normal' | 'shuffled' | 'still'

interface Job {
  dir: string // the set becomes a folder inside
  seed: number
  split: string // train, val, test …: splits of one seed share nothing
  progress?: ((done: number, total: number) => void) | undefined
  signal?: AbortSignal | undefined
}

export interface ClipJob extends Job {
  clips: number
  order?: Order | undefined
  pictures?: boolean | undefined // a folder of PNG files a clip instead of a video
}

export interface StillJob extends Job {
  stills: number // folders of pictures
  images?: number | undefined // pictures in each: 1 by default; 2–4 are asked about their order
  questions?: number | undefined // of each folder, 4 by default
}

// --- clips ----------------------------------------------------------------------------------------------------------

/** One clip and what is asked about it. */
export interface Clip {
  id: string
  scene: Scene
  questions: Question[]
}

/** The clips of a split with their questions, balanced over the split from its first clip on. */
export function clips(seed: number, split: string, count: number): Clip[] {
  const interviewer = new Interviewer()
  return Array.from({ length: count }, (_, i) => {
    const scene = clip(seed, split, i)
    return { id: number(i), scene, questions: interviewer.ask(scene, i, new Random(seed, 'clip questions', split, i)) }
  })
}

/** Which frame is shown when: for `shuffled` never the true order, for `still` one frame throughout. */
export function frameOrder(order: Order, seed: number, split: string, index: number): number[] {
  const random = new Random(seed, order, split, index)
  const frames = Array.from({ length: FRAMES }, (_, f) => f)
  if (order === 'still') return frames.fill(random.int(FRAMES))
  let out = frames
  while (order === 'shuffled' && out.every((f, i) => f === i)) out = random.shuffled(frames)
  return out
}

/**
 * Writes `dir/split` (or `dir/split-shuffled`, `dir/split-still`: the same clips, ids and questions, other frames) with
 * one mp4 (or folder of pictures) a clip and one line of the manifest a question.
 *
 * @returns the path of the manifest
 */
export async function renderClips(job: ClipJob): Promise<string> {
  const { seed, split, order = 'normal', pictures = false } = job
  atLeastOne('clips', job.clips)
  const name = order === 'normal' ? split : `${split}-${order}`
  const recipe = {
    world: WORLD,
    kind: 'clips',
    seed,
    split,
    clips: job.clips,
    order,
    encoder: pictures ? 'png' : ENCODER,
  }
  return writeSet(job, name, recipe, async (folder) => {
    const all = clips(seed, split, job.clips)
    await forEach(all, job, async ({ id, scene }, i) => {
      const shown = film(scene)
      const frames = frameOrder(order, seed, split, i).map((f) => shown[f]!)
      if (pictures) await writePictures(join(folder, id), frames)
      else await writeVideo(join(folder, `${id}.mp4`), frames)
    })
    const video = (id: string) => (pictures ? { video: id, fps: FPS } : { video: `${id}.mp4` })
    return all.flatMap(({ id, questions }) => questions.map((q) => sample(`${split}/${id}/${q.task}`, video(id), q)))
  })
}

// --- stills ---------------------------------------------------------------------------------------------------------

/** A still in memory. */
export interface Still {
  scene: Scene
  rgb: Uint8Array // 48 × 48 × 3 bytes
  questions: Question[] // 4, no two the same
}

/** Stills of a split (`pretrain` by default), with 1–4 objects each, or all with exactly `things`. */
export function stills(seed: number, count: number, { split = 'pretrain', things = 0, questions = 4 } = {}): Still[] {
  return Array.from({ length: count }, (_, i) => {
    const random = new Random(seed, 'still', split, things, i)
    const scene = things ? stillScene(random, things) : stillScene(random)
    return { scene, rgb: paint(scene), questions: stillQuestions(scene, random, questions) }
  })
}

/**
 * Writes `dir/split` with one folder of PNG files a still (or a group of stills), to be read at one frame a second.
 *
 * @returns the path of the manifest
 */
export async function renderStills(job: StillJob): Promise<string> {
  const { seed, split, images = 1, questions = 4 } = job
  atLeastOne('stills', job.stills)
  if (![1, 2, 3, 4].includes(images)) throw invalid('images', '1 to 4', images)
  const recipe = { world: WORLD, kind: 'stills', seed, split, stills: job.stills, images, questions }
  return writeSet(job, split, recipe, async (folder) => {
    const all = stills(seed, job.stills * images, { split, questions })
    const groups = Array.from({ length: job.stills }, (_, i) => all.slice(i * images, (i + 1) * images))
    await forEach(groups, job, (group, i) =>
      writePictures(
        join(folder, number(i)),
        group.map(({ rgb }) => rgb),
      ),
    )
    return groups.flatMap((group, i) => {
      const random = new Random(seed, 'several', split, i)
      const scenes = group.map((s) => s.scene)
      const asked =
        images === 1 ? group[0]!.questions : Array.from({ length: questions }, () => severalQuestion(scenes, random))
      return asked.map((q, k) => sample(`${split}/${number(i)}/${k}`, { video: number(i), fps: 1 }, q))
    })
  })
}

/** A folder with the pictures (48 × 48 × 3 bytes, RGB) as 0.png, 1.png and so on. */
async function writePictures(folder: string, pictures: readonly Uint8Array[]): Promise<void> {
  const { default: sharp } = await import('sharp')
  await mkdir(folder)
  for (const [k, rgb] of pictures.entries())
    await sharp(rgb, { raw: { width: SIZE, height: SIZE, channels: 3 } })
      .png()
      .toFile(join(folder, `${k}.png`))
}

// --- sets -----------------------------------------------------------------------------------------------------------

type Line = Record<string, unknown>

/** A line of the manifest. The Q-Former hears the question too, as InstructBLIP gives both the same instruction. */
function sample(id: string, video: { video: string; fps?: number }, { prompt, answer, choices, task }: Question): Line {
  const text = prompt.join(' ')
  return { id, ...video, qformerText: text, prompt: text, answer: answer.join(' '), ...(choices && { choices }), task }
}

/**
 * Makes the folder `dir/name`, unless it holds a set of the same recipe. It is filled under another name and moved into
 * place when complete, the recipe written last; an older set there goes only then. A folder that is no set is never
 * touched.
 */
async function writeSet(
  { dir }: Job,
  name: string,
  recipe: Line,
  fill: (folder: string) => Promise<Line[]>,
): Promise<string> {
  const folder = join(dir, name)
  const manifest = join(folder, 'manifest.jsonl')
  const wanted = `${JSON.stringify(recipe, null, 2)}\n`
  const found = await readFile(join(folder, 'set.json'), 'utf8').catch(() => undefined)
  if (found === wanted) return manifest
  const taken = found === undefined && (await readdir(folder).catch(() => [])).length > 0
  if (taken)
    throw invalid(
      folder,
      'an empty place, or a set written earlier',
      'other files',
      'remove them or choose another dir',
    )
  const part = join(dir, `.${name}.${process.pid}.part`)
  try {
    await rm(part, { recursive: true, force: true })
    await mkdir(part, { recursive: true })
    const lines = await fill(part)
    await writeFile(join(part, 'manifest.jsonl'), lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
    await writeFile(join(part, 'set.json'), wanted)
    if (found !== undefined) await rm(folder, { recursive: true })
    await rename(part, folder)
  } catch (error) {
    await rm(part, { recursive: true, force: true })
    throw error
  }
  return manifest
}

/** Runs `work` on every item, as many at a time as there are processors (at most 4), and reports how many are done. */
async function forEach<T>(
  items: readonly T[],
  { progress, signal }: Job,
  work: (item: T, i: number) => Promise<void>,
): Promise<void> {
  let next = 0
  let done = 0
  let failed = false
  const worker = async (): Promise<void> => {
    while (next < items.length && !failed) {
      signal?.throwIfAborted()
      const i = next++
      await work(items[i]!, i)
      progress?.(++done, items.length)
    }
  }
  const workers = Array.from({ length: Math.min(4, availableParallelism()) }, () =>
    worker().catch((error: unknown) => {
      failed = true // the others end with their item, so that nothing writes any more when this returns
      throw error
    }),
  )
  const ends = await Promise.allSettled(workers)
  for (const end of ends) if (end.status === 'rejected') throw end.reason
}

function atLeastOne(name: string, count: number): void {
  if (!Number.isInteger(count) || count < 1) throw invalid(name, 'a whole number, at least 1', count)
}

const number = (i: number): string => String(i).padStart(6, '0')
