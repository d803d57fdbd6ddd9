/** FFmpeg through node-av, loaded when the first video is opened, so that importing this project stays cheap. */

import { InputError, show } from '../errors.js'

type Lib = typeof import('node-av/lib')
type Constants = typeof import('node-av/constants')

/** node-av's low-level classes; set once `loadFfmpeg` is done. */
export let lib: Lib
/** FFmpeg's constants; set once `loadFfmpeg` is done. */
export let AV: Constants

let loading: Promise<void> | undefined

/** Loads FFmpeg once and silences its log: failures arrive as errors. @throws InputError where node-av does not load */
export function loadFfmpeg(): Promise<void> {
  return (loading ??= (async () => {
    try {
      ;[lib, AV] = await Promise.all([import('node-av/lib'), import('node-av/constants')])
    } catch (error) {
      throw new InputError(
        `node-av: expected FFmpeg, which decodes videos and resizes pictures, but it cannot be loaded (${show(error)}); run "npm install" again.`,
      )
    }
    lib.Log.setLevel(AV.AV_LOG_QUIET)
  })())
}

/** The version of FFmpeg, and those of its libraries by name; `loadFfmpeg` first. */
export const ffmpegInfo = (): { version: string; libraries: Record<string, string> } => lib.getFFmpegInfo()
