/**
 * Users' text files, decoded without loss; and pointer files (Git LFS, git-annex), which stand for files that were not
 * fetched.
 */
import { isUtf8 } from 'node:buffer'
import { existsSync, readlinkSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { InputError, show } from '../errors.js'

/** The default error of {@link readText} for a file that cannot be read. */
export function unreadable(path: string, error: unknown, missing = ''): InputError {
  const code = (error as NodeJS.ErrnoException).code
  const link = brokenLink(path)
  if (link) return new InputError(`${path}: is ${link.what}; ${link.remedy}.`, { cause: error })
  if (code === 'ENOENT' || code === 'ENOTDIR')
    return new InputError(`${path}: no such file${missing ? `; ${missing}` : ''}.`, { cause: error })
  return new InputError(`${path}: cannot be read (${code}).`, { cause: error })
}

/**
 * The text of a file, which is UTF-8; a byte order mark at its beginning is dropped. Nothing is ever replaced by
 * U+FFFD.
 *
 * @param wrong the error for a file that cannot be read
 * @throws InputError with the line for bytes that are not UTF-8; for UTF-16; for a pointer to another file
 */
export async function readText(
  path: string,
  wrong: (error: unknown) => InputError = (error) => unreadable(path, error),
): Promise<string> {
  let bytes: Buffer
  try {
    bytes = await readFile(path)
  } catch (error) {
    throw wrong(error)
  }
  return decodeText(bytes, path)
}

/** The same from the bytes themselves. @param remedy what to do about another encoding */
export function decodeText(bytes: Uint8Array, path: string, remedy = 'save the file as UTF-8'): string {
  const pointer = pointerIn(bytes)
  if (pointer) throw new InputError(`${path}: is ${pointer.what}; ${pointer.remedy}.`)
  const line = (at: number): number => 1 + bytes.subarray(0, at).reduce((n, byte) => n + Number(byte === 10), 0)
  const [a, b] = bytes
  if ((a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff))
    throw new InputError(`${path}: expected UTF-8 text, but it begins as UTF-16 does; save it as UTF-8.`)
  if (!isUtf8(bytes)) {
    const at = firstBad(bytes)
    const before = new TextDecoder().decode(bytes.subarray(Math.max(bytes.lastIndexOf(10, at - 1) + 1, at - 24), at))
    throw new InputError(
      `${path}, line ${line(at)}: expected UTF-8 text, but got the byte 0x${bytes[at]!.toString(16)} behind ${show(before)}; ${remedy} (it may be Latin-1 or Windows-1252).`,
    )
  }
  const zero = bytes.indexOf(0)
  if (zero >= 0)
    throw new InputError(
      `${path}, line ${line(zero)}: expected UTF-8 text, but got a zero byte; the file is UTF-16 or damaged.`,
    )
  return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
}

/** Where the first sequence begins that is not UTF-8. */
function firstBad(bytes: Uint8Array): number {
  let [good, bad] = [0, bytes.length] // the longest prefix known to be whole sequences; one known not to be
  while (bad - good > 1) {
    const middle = (good + bad) >> 1
    try {
      // a sequence may go on behind it
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, middle), { stream: true })
      good = middle
    } catch {
      bad = middle
    }
  }
  while (good > 0 && !isUtf8(bytes.subarray(0, good))) good-- // back to where the sequence begins that does not end
  return good
}

/** The error for a pointer file: what it is, and how to fetch the file that it stands for. */
export interface Pointer {
  what: string
  remedy: string
}

/** The same for a link whose target is absent, as git-annex and download caches leave them. */
export function brokenLink(path: string): Pointer | undefined {
  if (existsSync(path)) return undefined
  let target: string
  try {
    target = readlinkSync(path)
  } catch {
    return undefined
  }
  const annex = /\.git[\\/]annex[\\/]objects[\\/]/.test(target)
  const remedy = annex ? 'run "git annex get" on it' : 'fetch the file that it stands for'
  return { what: `a link to ${target}, which is not there`, remedy }
}

/** Bytes of a file's beginning that are enough for {@link pointerIn}. */
export const POINTER_BYTES = 64

/** Whether a file with this beginning is a pointer of Git LFS or git-annex. */
export function pointerIn(head: Uint8Array): Pointer | undefined {
  const text = Buffer.from(head.buffer, head.byteOffset, Math.min(head.byteLength, POINTER_BYTES)).toString('latin1')
  if (/^version https?:\/\/(git-lfs\.github\.com|hawser\.github\.com)\/spec\//.test(text)) {
    return { what: 'a Git LFS pointer and not the file itself', remedy: 'run "git lfs pull" in its repository' }
  }
  if (/^\/annex\/objects\//.test(text))
    return { what: 'a git-annex pointer and not the file itself', remedy: 'run "git annex get" on it' }
  return undefined
}
