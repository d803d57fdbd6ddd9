/** Errors for files that are no video or image, one sentence each. */

import { open, stat } from 'node:fs/promises'
import { invalid, type InputError } from '../errors.js'
import { brokenLink, pointerIn, POINTER_BYTES } from '../files/text.js'
import { outline, type Outline } from './outline.js'

/**
 * Checks that a file exists, is not empty and can be read. Returns its outline.
 * @throws InputError if not, or if it is an AVI file that is cut off
 */
export async function checkFile(path: string): Promise<Outline> {
  let size: number
  let head: Buffer
  let about: Outline
  try {
    const s = await stat(path)
    if (!s.isFile()) throw new Error(s.isDirectory() ? 'a folder' : 'neither a file nor a folder')
    if (s.size === 0) throw new Error('an empty file')
    size = s.size
    head = await readHead(path)
    about = await outline(path, size)
  } catch (error) {
    throw absent(path, path, 'a readable video file', error)
  }
  const pointer = pointerIn(head)
  if (pointer) throw notAVideo(path, pointer.what, pointer.remedy)
  if (!/^RIFF....AVI /s.test(head.toString('latin1'))) return about
  // Without the index at its end, FFmpeg makes up the time stamps after a seek and shortens the duration.
  const promised = head.readUInt32LE(4) + 8
  if (promised > size || promised === 8) {
    throw notAVideo(
      path,
      `the first ${size} bytes of an AVI file of ${promised === 8 ? 'unknown length' : `${promised} bytes`}`,
      'it is truncated, or was never finished',
    )
  }
  return about
}

/**
 * The error for a path that cannot be read: a link without a target is named as one.
 *
 * @param name what the message begins with
 */
export function absent(path: string, name: string, expected: string, error: unknown, hint?: string): InputError {
  const link = brokenLink(path)
  return invalid(name, expected, link ? new Error(link.what) : error, link?.remedy ?? hint)
}

/** The first bytes, zeros after the end. */
async function readHead(path: string): Promise<Buffer> {
  const file = await open(path)
  const head = Buffer.alloc(POINTER_BYTES)
  await file.read(head, 0, head.length, 0).finally(() => file.close())
  return head
}

/** The error for a file that FFmpeg cannot open; names an MP4 whose index is cut off. */
export async function unopened(path: string, reason: string): Promise<InputError> {
  if ((await readHead(path)).toString('latin1', 4, 8) === 'ftyp')
    return notAVideo(path, 'an MP4 file without its index (moov)', 'it is truncated, or was never finished')
  return notAVideo(path, `something that FFmpeg cannot read (${reason})`)
}

/** The error for an image that is none. */
export async function notAnImage(path: string, reason: unknown): Promise<InputError> {
  const pointer = pointerIn(await readHead(path).catch(() => Buffer.alloc(0)))
  if (pointer) return invalid(path, 'an image', new Error(pointer.what), pointer.remedy)
  return invalid(path, 'an image that can be decoded', reason)
}

/** The error for a file that is something else. */
export function notAVideo(path: string, got: string, hint?: string): InputError {
  return invalid(path, 'a video file', new Error(got), hint)
}
