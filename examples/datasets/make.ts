/**
 * Writes small folders in the form in which the paper's datasets are published, with made-up texts and clips of the
 * tiny world: to try `mtransllama prepare` without the data, and for tests.
 *
 *     npx tsx examples/datasets/make.ts FOLDER
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { writeVideo } from '../tiny-world/render-video.js'
import { clip, film } from '../tiny-world/world.js'
import { arrayOf, bytes, dict, int, list, pickle, text, tuple, type Instructions } from './pickles.js'

/** How much is made. */
export interface Sizes {
  /** Samples of each dataset, at least 10. */
  samples: number
  /** Writes the clips; without them the files that stand for clips are empty. */
  clips: boolean
}

const DIRECTIONS = ['up', 'down', 'left', 'right']
const OBJECTS = ['pan', 'cup', 'knife', 'phone', 'box']
const ACTIONS = ['cut the onion', 'stir the soup', 'add salt to the pot', 'pour the oil into a pan', 'peel a carrot']
const pick = <T>(list: readonly T[], i: number): T => list[i % list.length]!

/** A folder of one dataset that is being written. */
class Folder {
  #clips = 0
  constructor(
    readonly root: string,
    readonly sizes: Sizes,
  ) {}

  async write(path: string, content: string | Uint8Array): Promise<void> {
    await mkdir(dirname(join(this.root, path)), { recursive: true })
    await writeFile(join(this.root, path), content)
  }
  json(path: string, value: unknown): Promise<void> {
    return this.write(path, JSON.stringify(value))
  }
  async clip(path: string): Promise<void> {
    await this.write(path, '')
    if (this.sizes.clips) await writeVideo(join(this.root, path), film(clip(1, 'datasets', this.#clips++)))
  }
}

/** MUStARD: the JSON of annotations, the index file of Python 2, a clip each. */
async function mustard(folder: Folder): Promise<void> {
  const { samples } = folder.sizes
  const shows = ['FRIENDS', 'BBT', 'GOLDENGIRLS', 'SARCASMOHOLICS']
  const rows = Array.from({ length: samples }, (_, i) => ({
    utterance: i % 2 ? `What a lovely ${pick(OBJECTS, i)}.` : `Here is the ${pick(OBJECTS, i)}.`,
    speaker: pick(['ANN', 'BOB', 'CARLA'], i),
    context: Array.from({ length: 1 + (i % 3) }, (_, k) => `Line ${k} about the ${pick(OBJECTS, i + k)}.`),
    context_speakers: Array.from({ length: 1 + (i % 3) }, (_, k) => pick(['BOB', 'CARLA', 'ANN'], i + k)),
    show: pick(shows, i),
    sarcasm: i % 2 === 1,
  }))
  await folder.json(
    'data/sarcasm_data.json',
    Object.fromEntries(rows.map((row, i) => [`${1 + (i % 2)}_${i + 100}`, row])),
  )
  const places = [...rows.keys()]
  const folds = [0, 1, 2, 3, 4].map((fold): Instructions => {
    const of = (test: boolean): Instructions => arrayOf(places.filter((i) => (i % 5 === fold) === test))
    return tuple(of(false), of(true))
  })
  await folder.write('data/split_indices.p', pickle(list(...folds)))
  for (const i of places) await folder.clip(`mmsd_raw_data/utterances_final/${1 + (i % 2)}_${i + 100}.mp4`)
}

/** UR-FUNNY: three pickles, with texts as Python 2 wrote them where `old`. */
async function urFunny(folder: Folder): Promise<void> {
  const ids = Array.from({ length: folder.sizes.samples }, (_, i) => i + 1)
  const part = (from: number, to: number): Instructions =>
    list(...ids.slice(Math.floor(ids.length * from), Math.floor(ids.length * to)).map(int))
  await folder.write(
    'data_folds.pkl',
    pickle(dict([text('train'), part(0, 0.6)], [text('dev'), part(0.6, 0.8)], [text('test'), part(0.8, 1)])),
  )
  const said = (id: number): Instructions =>
    dict(
      [
        text('punchline_sentence'),
        id % 3 ? text(`and then the ${pick(OBJECTS, id)} laughed`) : bytes(`so I ate the ${pick(OBJECTS, id)}`),
      ],
      [text('context_sentences'), list(text(`I had a ${pick(OBJECTS, id)}`), text('it was a good one'))],
      [text('punchline_embedding_indexes'), list(int(3), int(id))],
      [text('punchline_intervals'), list(list(int(0), int(1)))],
    )
  await folder.write(
    'language_sdk.pkl',
    pickle(dict(...ids.map((id): [Instructions, Instructions] => [int(id), said(id)]))),
  )
  await folder.write(
    'humor_label_sdk.pkl',
    pickle(dict(...ids.map((id): [Instructions, Instructions] => [int(id), int(id % 2)]))),
  )
  for (const id of ids) await folder.clip(`urfunny2_videos/${id}.mp4`)
}

const options = (texts: readonly string[]): string =>
  texts.map((t, i) => `(${String.fromCharCode(65 + i)}) ${t}`).join('\n')

/** CLEVRER-MC in VideoChat2-IT's form: several questions a video, videos in folders of 1000. */
async function clevrerMc(folder: Folder): Promise<void> {
  const name = (i: number): string => `video_${String(i).padStart(5, '0')}.mp4`
  const rows = Array.from({ length: Math.ceil(folder.sizes.samples / 2) }, (_, i) => ({
    video: name(i),
    QA: [0, 1].map((k) => ({
      i: 'Watch the video and choose the right option.',
      q: `Question: Which way does object ${k} move?\nOptions:\n${options(DIRECTIONS)}`,
      a: `Answer: ${options(DIRECTIONS).split('\n')[(i + k) % 4]}`,
    })),
  }))
  await folder.json('video/reasoning/clevrer_mc/train.json', rows)
  for (const [i] of rows.entries()) await folder.clip(`video_train/video_00000-01000/${name(i)}`)
}

/** MVBench: a file a task, the videos of CLEVRER's validation. */
async function mvbench(folder: Folder): Promise<void> {
  const each = Math.ceil(folder.sizes.samples / 4)
  const video = (i: number): string => `video_${10000 + i}.mp4`
  const tasks = {
    moving_direction: { question: 'Which way does the cube move?', candidates: DIRECTIONS },
    moving_count: { question: 'How many objects move?', candidates: ['0', '1', '2', '3'] },
    moving_attribute: { question: 'Which colour has the object that moves?', candidates: ['red', 'green', 'blue'] },
    object_existence: { question: 'Is there a metal ball?', candidates: ['yes', 'no', 'not sure'] },
  }
  for (const [task, { question, candidates }] of Object.entries(tasks))
    await folder.json(
      `json/${task}.json`,
      Array.from({ length: each }, (_, i) => ({ video: video(i), question, candidates, answer: pick(candidates, i) })),
    )
  for (let i = 0; i < each; i++) await folder.clip(`video/clevrer/video_validation/${video(i)}`)
}

/** QaEgo4D: what its converter writes, and GroundVQA's file of wrong answers. */
async function qaego4d(folder: Folder): Promise<void> {
  const uuid = (i: number): string => `0000${i % 10}000-1111-2222-3333-${String(i).padStart(12, '0')}`
  const row = (i: number): object => ({
    video_id: uuid(Math.floor(i / 2)),
    sample_id: `${uuid(i)}_${i % 3}`,
    question: `Where did I put the ${pick(OBJECTS, i)}?`,
    answer: `on the ${pick(['table', 'shelf', 'floor'], i)}`,
    moment_start_frame: 30 * i,
    moment_end_frame: 30 * i + 45.5,
  })
  const { samples } = folder.sizes
  const places = Array.from({ length: samples }, (_, i) => i)
  const parts = { train: [0, 0.6], val: [0.6, 0.8], test: [0.8, 1] } as const
  for (const [split, [from, to]] of Object.entries(parts)) {
    const own = places.slice(Math.floor(samples * from), Math.floor(samples * to)).map(row)
    await folder.json(`annotations.${split}.json`, own)
    if (split === 'test')
      await folder.json(
        'annotations.QaEgo4D_test_close.json',
        own.map((r) => ({ ...r, wrong_answers: ['in the car', 'under the bed', 'in the oven'] })),
      )
  }
  for (let i = 0; i < Math.ceil(samples / 2); i++) await folder.clip(`v1/clips/${uuid(i)}.mp4`)
}

/** YouCook2: one file of annotations, videos by subset and type of recipe; segments lie within the second of a clip. */
async function youcook2(folder: Folder): Promise<void> {
  const videos = Array.from({ length: Math.ceil(folder.sizes.samples / 2) }, (_, i) => ({
    id: `Fake${String(i).padStart(7, '-')}`,
    subset: i % 3 ? 'training' : 'validation',
    type: `${101 + (i % 4)}`,
  }))
  const database = videos.map(({ id, subset, type }, i) => [
    id,
    {
      duration: 1,
      subset,
      recipe_type: type,
      video_url: `https://example.org/${id}`,
      annotations: [0, 1].map((k) => ({ id: k, segment: [k * 0.5, k * 0.5 + 0.5], sentence: pick(ACTIONS, i + k) })),
    },
  ])
  await folder.json('youcookii_annotations_trainval.json', { database: Object.fromEntries(database) })
  for (const { id, subset, type } of videos) await folder.clip(`raw_videos/${subset}/${type}/${id}.mp4`)
}

const MAKERS = { mustard, 'ur-funny': urFunny, 'clevrer-mc': clevrerMc, mvbench, qaego4d, youcook2 }

/**
 * Writes a folder for each dataset; `mustard-star` has the files of `mustard`.
 *
 * @returns the folders, by the names that `prepare` takes
 */
export async function makeDatasets(
  root: string,
  sizes: Sizes = { samples: 20, clips: true },
  names = Object.keys(MAKERS),
): Promise<Record<string, string>> {
  const folders: Record<string, string> = {}
  for (const name of names) {
    folders[name] = join(root, name)
    await MAKERS[name as keyof typeof MAKERS](new Folder(folders[name], sizes))
  }
  return { ...folders, ...(folders['mustard'] !== undefined && { 'mustard-star': folders['mustard'] }) }
}

const [, script, target] = process.argv
if (script && import.meta.url === pathToFileURL(script).href) {
  if (target === undefined) {
    console.error('give the folder to write to')
    process.exitCode = 1
  } else for (const [name, folder] of Object.entries(await makeDatasets(target))) console.log(`${name}: ${folder}`)
}
