/**
 * From a decoded frame to the vision tower's input: one resize to the model's square, division by 255, normalisation.
 * Nothing is cropped or mirrored.
 */

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { invalid, show } from '../errors.js'
import { readJsonObject } from '../files/json.js'
import type { Rgb } from './picture.js'
import { resample } from './resample.js'
import { valueAt } from '../files/schema.js'

/** Defaults where no preprocessor file says otherwise: CLIP's. */
const CLIP_MEAN: Triple = [0.48145466, 0.4578275, 0.40821073]
const CLIP_STD: Triple = [0.26862954, 0.26130258, 0.27577711]
/** PIL's numbers for filters, by their usual names. */
const KERNELS = { 0: 'nearest', 1: 'lanczos3', 2: 'linear', 3: 'cubic' } as const
/** One value each for red, green and blue. */
export type Triple = [number, number, number]

/** How a picture becomes a tensor: resized to `size` pixels, x·rescale, (x − mean)/std. */
export interface Preprocessor {
  size: { height: number; width: number }
  mean: Triple
  std: Triple
  rescale: number
  resample: (typeof KERNELS)[keyof typeof KERNELS]
}

const pixels = z.number().int().positive()
const triple = z.tuple([z.number(), z.number(), z.number()])
/** The fields of Hugging Face's BlipImageProcessor that are used; others are accepted and ignored. */
const schema = z.looseObject({
  size: z
    .union([pixels, z.looseObject({ height: pixels, width: pixels }), z.looseObject({ shortest_edge: pixels })])
    .nullish(),
  do_resize: z.literal(true).nullish(),
  do_center_crop: z.literal(false).nullish(),
  do_rescale: z.boolean().nullish(),
  rescale_factor: z.number().positive().nullish(),
  do_normalize: z.boolean().nullish(),
  image_mean: triple.nullish(),
  image_std: triple.refine((s) => s.every((x) => x > 0), 'deviations above 0').nullish(),
  resample: z.union([z.literal(0), z.literal(1), z.literal(2), z.literal(3)]).nullish(),
})

/** How pictures are prepared, and where that was read. */
export interface PreprocessorSource {
  preprocessor: Preprocessor
  /** File and section; undefined where the folder has none. */
  from: string | undefined
  /** What was assumed or ignored: one sentence each. */
  notes: string[]
}

/** The preprocessor of {@link findPreprocessor} alone. */
export async function readPreprocessor(folder: string, imageSize: number): Promise<Preprocessor> {
  return (await findPreprocessor(folder, imageSize)).preprocessor
}

/**
 * Reads how a model folder prepares pictures: `preprocessor_config.json`, else `image_processor` or `video_processor`
 * of `processor_config.json` (where transformers 5 writes them), else `video_preprocessor_config.json`. Missing values
 * default to CLIP's mean and std, 1/255, bicubic, and `imageSize`; each assumption is noted.
 *
 * @param imageSize pixels of a side, as the vision tower's configuration says
 * @throws InputError if the file is not understood, asks for a crop, or its size is not `imageSize`
 */
export async function findPreprocessor(folder: string, imageSize: number): Promise<PreprocessorSource> {
  const [first, ...others] = await candidates(folder)
  if (!first) {
    const notes = [
      `${folder}: no file states the preprocessing (preprocessor_config.json, or image_processor in processor_config.json); assumed: CLIP's mean and std, 1/255, bicubic, ${imageSize} × ${imageSize}.`,
    ]
    return { preprocessor: parse({}, folder, imageSize), from: undefined, notes }
  }
  const preprocessor = parse(first.value, first.path, imageSize)
  const needed = Object.entries(ASSUMED).filter(
    ([key, { unless }]) => first.value[key] == null && (unless === undefined || first.value[unless] !== false),
  )
  const notes = needed.length
    ? [
        `${first.path}: ${needed.map(([key]) => key).join(', ')} not given; assumed: ${needed.map(([, { value }]) => value).join(', ')}.`,
      ]
    : []
  for (const other of others) {
    const odd = Object.keys(EXPECTED).filter(
      (key) => other.value[key] != null && JSON.stringify(other.value[key]) !== JSON.stringify(first.value[key]),
    )
    if (odd.length) notes.push(`${other.path}: has another ${odd.join(', ')} than ${first.path}, which was used.`)
  }
  return { preprocessor, from: first.path, notes }
}

/** What is assumed for a key that is not given, unless another key says that it does not matter. */
const ASSUMED: Record<string, { value: string; unless?: string }> = {
  size: { value: "the vision tower's size" },
  image_mean: { value: "CLIP's mean", unless: 'do_normalize' },
  image_std: { value: "CLIP's std", unless: 'do_normalize' },
  rescale_factor: { value: '1/255', unless: 'do_rescale' },
  resample: { value: 'bicubic' },
}

interface Candidate {
  path: string
  value: Record<string, unknown>
}

/** Everything in the folder that says how pictures are prepared, the first to be used first. */
async function candidates(folder: string): Promise<Candidate[]> {
  const found: Candidate[] = []
  const read = async (name: string): Promise<Candidate | undefined> => {
    const path = join(folder, name)
    return existsSync(path) ? { path, value: await readJsonObject(path) } : undefined
  }
  const [own, processor, video] = [
    await read('preprocessor_config.json'),
    await read('processor_config.json'),
    await read('video_preprocessor_config.json'),
  ]
  if (own) found.push(own)
  for (const section of ['image_processor', 'video_processor']) {
    const value = processor?.value[section]
    if (value == null) continue
    const path = `${processor!.path}, ${section}`
    if (typeof value !== 'object' || Array.isArray(value)) throw invalid(path, 'an object', value)
    found.push({ path, value: value as Record<string, unknown> })
  }
  if (video) found.push(video)
  return found
}

function parse(value: Record<string, unknown>, path: string, imageSize: number): Preprocessor {
  const parsed = schema.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    const got = valueAt(issue, value)
    throw invalid(
      issue.path.length ? `${path}, ${issue.path.join('.')}` : path,
      EXPECTED[String(issue.path[0])] ?? issue.message,
      got,
    )
  }
  const step = Object.keys(value).find((key) => /^do_/.test(key) && value[key] === true && !STEPS.has(key))
  if (step !== undefined)
    throw invalid(`${path}, ${step}`, 'false, since this program does not take that step', true, HINT)
  const p = parsed.data
  const size = sizeOf(p.size) ?? { height: imageSize, width: imageSize }
  if (size.height !== imageSize || size.width !== imageSize) {
    throw invalid(
      `${path}, size`,
      `the vision tower's image size, ${imageSize} × ${imageSize}`,
      p.size,
      'take both files from the same checkpoint',
    )
  }
  return {
    size,
    mean: p.do_normalize === false ? [0, 0, 0] : (p.image_mean ?? CLIP_MEAN),
    std: p.do_normalize === false ? [1, 1, 1] : (p.image_std ?? CLIP_STD),
    rescale: p.do_rescale === false ? 1 : (p.rescale_factor ?? 1 / 255),
    resample: KERNELS[p.resample ?? 3],
  }
}

/** Steps that are taken, or change nothing: frames are chosen by the caller, and pictures are RGB. */
const STEPS = new Set(['do_resize', 'do_rescale', 'do_normalize', 'do_convert_rgb', 'do_sample_frames'])
const HINT = 'the pictures would not be those that the model was trained with'

const EXPECTED: Record<string, string> = {
  size: 'a number, {height, width} or {shortest_edge}, in whole pixels',
  do_resize: 'true, since the vision tower takes one size alone',
  do_center_crop: 'false, since this model is fed the whole picture',
  rescale_factor: 'a number above 0',
  image_mean: 'three numbers',
  image_std: 'three numbers above 0',
  resample: '0 (nearest), 1 (Lanczos), 2 (bilinear) or 3 (bicubic)',
}

type Size = z.infer<typeof schema>['size']

function sizeOf(size: Size): Preprocessor['size'] | undefined {
  if (size === null || size === undefined) return undefined
  if (typeof size === 'number') return { height: size, width: size }
  if ('shortest_edge' in size) return { height: size.shortest_edge as number, width: size.shortest_edge as number }
  return { height: size.height as number, width: size.width as number }
}

/**
 * One picture for the vision tower. The aspect ratio is not kept. A picture that has the size already is not resampled.
 * @param rgb 8-bit RGB, row by row
 * @returns float32 [3, height, width]: channel, row, column
 * @throws InputError if `data` has not 3·width·height bytes
 */
export async function preprocess(rgb: Rgb, p: Preprocessor): Promise<Float32Array> {
  const { width, height } = rgb
  if (
    !(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0) ||
    rgb.data.length !== 3 * width * height
  ) {
    throw invalid(
      'rgb',
      'a picture with 3·width·height bytes',
      new Error(`${rgb.data.length} bytes for ${show(width)} × ${show(height)}`),
    )
  }
  const { data } = resize(rgb, p)
  const area = p.size.height * p.size.width
  const out = new Float32Array(3 * area)
  for (const c of [0, 1, 2] as const) {
    const [mean, std] = [p.mean[c], p.std[c]]
    for (let i = 0; i < area; i++) out[c * area + i] = (data[3 * i + c]! * p.rescale - mean) / std
  }
  return out
}

/** A picture of the model's size, 8-bit RGB; the very same one where it has that size. */
export function resize<T extends Rgb>(
  rgb: T,
  { size, resample: filter }: Pick<Preprocessor, 'size' | 'resample'>,
): T | Rgb {
  const { width, height } = rgb
  if (width === size.width && height === size.height) return rgb
  return { data: resample(rgb.data, rgb, size, filter), ...size }
}
