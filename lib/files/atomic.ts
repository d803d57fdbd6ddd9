/**
 * Atomic writes: a reader sees the old file or the new one, never a part. The bytes go to a temporary file in the same
 * folder and are flushed to disk; the rename comes last.
 */
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { InputError } from '../errors.js'

/** The calls on a file that is being written. */
export interface Sink {
  write(bytes: Uint8Array): Promise<void>
}

/** The file system's calls; a test passes ones that fail. */
export interface FileSystem {
  open(path: string, flags: string): Promise<Pick<fs.FileHandle, 'write' | 'sync' | 'close'>>
  rename(from: string, to: string): Promise<void>
  unlink(path: string): Promise<void>
}

/** Most bytes of one write call; the system's own limit is 2 GiB. */
const CHUNK = 1 << 26

/** Calls `body` with a file to write to, and renames it to `path` once all of it is on disk. */
export async function writeAtomically(
  path: string,
  body: (sink: Sink) => Promise<void>,
  on: FileSystem = fs,
): Promise<void> {
  const folder = dirname(path)
  const temporary = join(folder, `.${basename(path)}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`)
  let handle: Awaited<ReturnType<FileSystem['open']>> | undefined
  try {
    handle = await on.open(temporary, 'wx')
    await body({ write: (bytes) => writeAll(handle!, bytes) })
    await handle.sync()
    const open = handle
    handle = undefined
    await open.close()
    await on.rename(temporary, path)
  } catch (error) {
    await handle?.close().catch(() => {})
    await on.unlink(temporary).catch(() => {})
    throw explain(path, error)
  }
  await syncFolder(folder)
}

/** `writeAtomically` for text or bytes that are in memory. */
export function writeFileAtomic(path: string, data: string | Uint8Array, on: FileSystem = fs): Promise<void> {
  return writeAtomically(path, (sink) => sink.write(typeof data === 'string' ? Buffer.from(data, 'utf8') : data), on)
}

/** A write call may take less than it was given. */
export async function writeAll(handle: Pick<fs.FileHandle, 'write'>, bytes: Uint8Array): Promise<void> {
  let at = 0
  while (at < bytes.byteLength) {
    const { bytesWritten } = await handle.write(bytes, at, Math.min(CHUNK, bytes.byteLength - at))
    if (bytesWritten === 0) throw Object.assign(new Error('the system wrote nothing'), { code: 'EIO' })
    at += bytesWritten
  }
}

/** Makes the rename itself durable. Not every system lets a folder be opened; the file is complete either way. */
async function syncFolder(folder: string): Promise<void> {
  try {
    const handle = await fs.open(folder, 'r')
    await handle.sync().finally(() => handle.close())
  } catch {}
}

const REASONS: Record<string, string> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EACCES: 'there is no permission to write there',
  EPERM: 'there is no permission to write there',
  EROFS: 'the file system is read-only',
  ENOENT: 'its folder does not exist',
  ENOTDIR: 'its folder is a file',
  EISDIR: 'that is a folder',
  EFBIG: 'the file would be too large for this file system',
}

/** The sentence for an error of the system while a file is written; any other error as it is. */
export function explain(path: string, error: unknown, left = 'nothing was left half-written'): unknown {
  const code = (error as NodeJS.ErrnoException | undefined)?.code
  if (code === undefined || error instanceof InputError) return error
  const reason = REASONS[code] ?? (error as Error).message
  return new InputError(`${path}: cannot be written: ${reason} (${code}); ${left}.`, {
    cause: error,
  })
}
