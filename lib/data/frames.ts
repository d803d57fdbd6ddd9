/**
 * From a sample to its T frames, of a video file or of a folder of frame images, within a time limit.
 */

import type { Clip, ClipOptions } from './clip.js'
import { Decoders, type Recording } from './decoders.js'
import type { RgbFrame } from './video.js'

export * from './clip.js'
export { DECODERS } from './decoders.js'
export { openVideo, Video, type RgbFrame } from './video.js'

/** Seconds that one clip may take. */
export const TIMEOUT = 60

export interface ReadOptions extends ClipOptions {
  /** Seconds after which the clip is given up; default {@link TIMEOUT}. */
  timeout?: number | undefined
  /** Gives the clip up; the promise rejects with its reason. */
  signal?: AbortSignal | undefined
}

let decoders: Decoders | undefined

/**
 * The T frames of a clip, in order of time: `RgbFrame` with its own size and time stamp. Where the video has fewer
 * frames, one object appears several times. Files are read and decoded in other processes, which are reused and end
 * with this one: native code that hangs or crashes costs that clip alone.
 * @throws InputError if the file cannot be read (missing, empty, no video, damaged where a frame is wanted), if start
 *   or end lie outside the video, if the clip is too short for the sampling, or if it takes more than `timeout` seconds
 */
export async function readFrames(
  clip: Clip,
  { timeout = TIMEOUT, signal, ...options }: ReadOptions,
): Promise<RgbFrame[]> {
  return (decoders ??= new Decoders()).read(clip, options, timeout, signal)
}

/**
 * Opens a clip as {@link readFrames} does, but decodes no frame after the video's first one: tells cheaply of most
 * clips that cannot be used.
 * @throws InputError as {@link readFrames}, unless only the frames themselves are damaged
 */
export async function checkClip(clip: Clip, { timeout = TIMEOUT, signal, ...options }: ReadOptions): Promise<void> {
  await (decoders ??= new Decoders()).open(clip, options, timeout, signal)
}

/**
 * The hash of a video's content, `contentHash`, or with `recording` what `recordedHash` says of it; found out in
 * another process too: a disk may never answer.
 * @throws InputError if it cannot be read, or not within `timeout` seconds; the signal's reason once that aborts
 */
export async function hashVideo(
  video: string,
  timeout = TIMEOUT,
  signal?: AbortSignal,
  recording?: Recording,
): Promise<string | undefined> {
  return (decoders ??= new Decoders()).hash(video, timeout, signal, recording)
}
