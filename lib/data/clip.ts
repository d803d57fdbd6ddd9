/**
 * From a sample to its T frames: which times are wanted, and the pictures shown then, of a video file or of a folder of
 * frame images.
 */

import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { invalid, show } from '../errors.js'
import { onBlack } from './picture.js'
import { resize, type Preprocessor } from './preprocess.js'
import { absent, notAnImage } from './reject.js'
import { openVideo, seconds, type RgbFrame } from './video.js'

/**
 * How T frames are chosen from a clip. `uniform`: the clip is cut into T equal parts, and the middle of each is taken;
 * `fps`: T frames from the start on, 1/fps apart; `first`: the first T frames as they come.
 */
export type Sampling = { kind: 'uniform' } | { kind: 'fps'; fps: number } | { kind: 'first' }

/** The part of a manifest line that says where pictures come from; times in seconds, `fps` for folders alone. */
export interface Clip {
  /** A video file, or a folder of frame images. */
  video: string
  /** Default: the beginning. */
  start?: number | undefined
  /** Default: the end. */
  end?: number | undefined
  /** Frames per second of a folder. */
  fps?: number | undefined
}

/** The same for clips with the same pictures: which file or folder, which part of it, at which rate. */
export const clipKey = ({ video, start = 0, end, fps }: Clip): string =>
  JSON.stringify([video, start, end ?? null, fps ?? null])

const IMAGE = /\.(jpe?g|png|webp|tiff?|gif|avif)$/i

/**
 * The times (seconds) of `frames` frames of the clip [start, end): pure arithmetic. `first` has no times of its own in
 * a video; for a folder of images, give its rate as `fps` sampling.
 * @throws InputError if `frames` is not a whole number from 1 on, or the clip is too short for `frames` frames at the
 * rate
 */
export function sampleTimes(
  start: number,
  end: number,
  frames: number,
  sampling: Exclude<Sampling, { kind: 'first' }>,
): number[] {
  checkFrames(frames)
  if (sampling.kind === 'uniform')
    return Array.from({ length: frames }, (_, i) => start + ((i + 0.5) * (end - start)) / frames)
  const { fps } = sampling
  if (!(fps > 0 && Number.isFinite(fps))) throw invalid('sampling.fps', 'frames per second above 0', fps)
  const last = start + (frames - 1) / fps
  if (last >= end) {
    throw invalid(
      'sampling',
      `a clip that lasts more than ${seconds((frames - 1) / fps)} for ${frames} frames at ${fps} fps`,
      new Error(seconds(end - start)),
      'choose fewer frames, a higher fps, or uniform sampling',
    )
  }
  return Array.from({ length: frames }, (_, i) => start + i / fps)
}

/** Which frames of a clip, and how. */
export interface ClipOptions {
  /** T, from 1 on. */
  frames: number
  sampling: Sampling
  /** Each frame is resized to this; without it, it has the size that it is stored with. */
  resize?: Pick<Preprocessor, 'size' | 'resample'> | undefined
}

/**
 * The T frames of a clip, read in this process and without a time limit; see `readFrames`.
 * @throws InputError if the file cannot be read (missing, empty, no video, damaged where a frame is wanted), if start
 *   or end lie outside the video, or if the clip is too short for the sampling
 */
export async function readClip(clip: Clip, options: ClipOptions): Promise<RgbFrame[]> {
  const stored = await readStored(clip, options)
  const { resize: to } = options
  if (!to) return stored
  const resized = new Map<RgbFrame, RgbFrame>() // a frame that is shown twice is resized once
  for (const frame of stored) {
    if (!resized.has(frame)) resized.set(frame, { ...resize(frame, to), time: frame.time })
  }
  return stored.map((frame) => resized.get(frame)!)
}

/**
 * Opens a clip and checks its part and the times of its frames, but decodes no frame after the video's first one.
 * @throws InputError as {@link readClip}, unless only the frames themselves are damaged or too few
 */
export function openClip(clip: Clip, { frames, sampling }: ClipOptions): Promise<void> {
  return withSource(clip, frames, async (_, range) => {
    if (sampling.kind !== 'first') sampleTimes(...range, frames, sampling)
  })
}

function readStored(clip: Clip, { frames, sampling }: ClipOptions): Promise<RgbFrame[]> {
  return withSource(clip, frames, async (source, range) => {
    if (sampling.kind === 'first') return firstFrames(clip.video, source, frames, ...range)
    const wanted: RgbFrame[] = []
    for (const time of sampleTimes(...range, frames, sampling)) wanted.push(await source.frameAt(time))
    return wanted
  })
}

async function withSource<R>(
  clip: Clip,
  frames: number,
  f: (source: Source, range: [number, number]) => Promise<R>,
): Promise<R> {
  checkFrames(frames)
  const { start, end } = clip
  if (start !== undefined && !(start >= 0)) throw invalid('start', 'seconds, from 0 on', start)
  if (end !== undefined && !(end > (start ?? 0)))
    throw invalid('end', `a time after start (${seconds(start ?? 0)})`, end)
  const folder = await isFolder(clip.video)
  if (!folder && clip.fps !== undefined)
    throw invalid('fps', 'nothing, for a video file', clip.fps, 'it is the rate of a folder of frame images')
  const source = folder ? await openFolder(clip) : await openVideo(clip.video)
  try {
    return await f(source, checkRange(clip, source))
  } finally {
    await source.close()
  }
}

/** What video files and folders of images have in common. */
interface Source {
  readonly start: number
  readonly endless: boolean
  readonly duration: number
  readonly fps: number
  frameAt(time: number): Promise<RgbFrame>
  next(): Promise<RgbFrame | undefined>
  close(): Promise<void>
}

function checkFrames(frames: number): void {
  if (!Number.isInteger(frames) || frames < 1) throw invalid('frames', 'a whole number from 1 on', frames)
}

/**
 * Where the clip starts, with the first picture at the earliest, and ends. An `end` past the video by less than a frame
 * (a rounded annotation) is accepted.
 */
function checkRange({ video, start, end }: Clip, source: Source): [number, number] {
  const { duration, fps } = source
  if (start !== undefined && start >= duration)
    throw invalid('start', `a time before the end of ${video}, which lasts ${seconds(duration)}`, start)
  const from = Math.max(start ?? 0, source.start)
  if (end === undefined && source.endless) {
    throw invalid(
      video,
      'a whole video file, for a clip without an end',
      new Error(`pictures up to ${seconds(duration)}`),
      'it is truncated, and does not say how long it was',
    )
  }
  if (end === undefined) return [from, duration]
  const slack = fps > 0 ? 1 / fps : 0.05
  if (end > duration + slack) throw invalid('end', `a time within ${video}, which lasts ${seconds(duration)}`, end)
  if (end <= from)
    throw invalid('end', `a time after the first picture of ${video}, which is shown at ${seconds(from)}`, end)
  return [from, Math.min(end, duration)]
}

/** From the first frame whose time is not before `start`. */
async function firstFrames(
  video: string,
  source: Source,
  frames: number,
  start: number,
  end: number,
): Promise<RgbFrame[]> {
  const list: RgbFrame[] = []
  let frame: RgbFrame | undefined = await source.frameAt(start)
  if (frame.time < start - 1e-6) frame = await source.next()
  for (
    ;
    frame && frame.time < end - 1e-6 && list.length < frames;
    frame = list.length < frames ? await source.next() : undefined
  )
    list.push(frame)
  if (list.length < frames) {
    throw invalid(
      video,
      `at least ${frames} frames from ${seconds(start)} to ${seconds(end)}`,
      list.length,
      'choose fewer frames or uniform sampling',
    )
  }
  return list
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory()
  } catch (error) {
    throw absent(path, path, 'a video file or a folder of frame images', error)
  }
}

/** The images of a folder in natural order of their names (2 before 10). @throws InputError if there is none */
export async function frameImages(folder: string): Promise<string[]> {
  const { compare } = new Intl.Collator('en', { numeric: true })
  const names = (await readdir(folder)).filter((name) => IMAGE.test(name) && !name.startsWith('.'))
  if (names.length === 0)
    throw invalid(
      folder,
      'a folder of frame images (jpg, png, webp, tiff, gif, avif)',
      new Error('a folder without any'),
    )
  return names.sort((a, b) => compare(a, b) || (a < b ? -1 : 1)).map((name) => join(folder, name))
}

/** A folder of frame images as a source: image i is shown from i/fps on. */
async function openFolder({ video, fps }: Clip): Promise<Source> {
  if (fps === undefined)
    throw invalid(`fps of ${video}`, 'the frames per second of this folder of images', new Error('nothing'))
  if (!(fps > 0 && Number.isFinite(fps))) throw invalid(`fps of ${video}`, 'a number above 0', fps)
  const images = await frameImages(video)
  let [at, shown]: [number, RgbFrame | undefined] = [-1, undefined]
  const read = async (index: number): Promise<RgbFrame> => {
    if (index !== at || !shown) [at, shown] = [index, await readImage(images[index]!, index / fps)]
    return shown
  }
  return {
    start: 0,
    endless: false,
    duration: images.length / fps,
    fps,
    frameAt: (time) => read(Math.min(images.length - 1, Math.max(0, Math.floor(time * fps + 1e-6)))),
    next: async () => (at + 1 < images.length ? read(at + 1) : undefined),
    close: async () => {},
  }
}

/** One image file as sRGB, turned as its EXIF orientation says, transparency on black. */
async function readImage(path: string, time: number): Promise<RgbFrame> {
  const { default: sharp } = await import('sharp')
  // reading a pipe may block forever
  const about = await stat(path).catch((error: unknown) => {
    throw absent(path, path, 'an image that can be decoded', error)
  })
  if (!about.isFile()) throw invalid(path, 'an image that can be decoded', new Error('not a file'))
  try {
    const image = sharp(path, { failOn: 'error' }).rotate().toColourspace('srgb')
    const { data, info } = await image.raw().toBuffer({ resolveWithObject: true })
    const { width, height, channels } = info
    if (channels === 4) return { ...(await onBlack(data, width, height)), time }
    if (channels !== 3) throw new Error(`${channels} channels after conversion to sRGB: ${show(info)}`)
    return { data: new Uint8Array(data.buffer, data.byteOffset, data.length), width, height, time }
  } catch (error) {
    throw await notAnImage(path, error)
  }
}
