/**
 * Downloads a file over HTTP to its place: a connection that breaks is continued where it ended, in this run or the
 * next, and the file takes its name only once its bytes have the checksum that was promised.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import * as fs from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { InputError, show } from '../errors.js'
import { explain, writeAll, type FileSystem } from './atomic.js'

/** What is known of a file before it is loaded. */
export interface Remote {
  /** For messages. */
  name: string
  url: string
  headers: Record<string, string>
  bytes: number
  /** SHA-256 of the bytes (64 digits), or Git's SHA-1 of them as a blob (40). */
  sum: string
}

export interface DownloadOptions {
  /** Attempts in a row that may bring nothing. Default 5. */
  attempts?: number | undefined
  /** Seconds before the second attempt; each further one waits twice as long. Default 1. */
  wait?: number | undefined
  signal?: AbortSignal | undefined
  /** Called as bytes arrive: bytes that are there. */
  onBytes?: ((bytes: number) => void) | undefined
  /** For tests of disks that fail. */
  on?: FileSystem | undefined
}

/** An answer that no further attempt will change. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    readonly code: string | null,
  ) {
    super(`HTTP status ${status}${code ? ` (${code})` : ''}`)
  }
}

/**
 * Loads a file to `target`. What arrives is kept in `target.incomplete`, where a later call goes on.
 *
 * @throws HttpError for an answer of 400 to 499; InputError where the file changed, its bytes are not what was
 *   promised, the disk is full, or the connection brought nothing so many times
 */
export async function download(file: Remote, target: string, options: DownloadOptions = {}): Promise<void> {
  const { attempts = 5, wait = 1, signal, on = fs } = options
  const partial = `${target}.incomplete`
  let [failures, before] = [0, await sizeOf(partial)]
  for (;;) {
    signal?.throwIfAborted()
    try {
      await receive(file, partial, options)
      break
    } catch (error) {
      signal?.throwIfAborted()
      if (error instanceof InputError || (error instanceof HttpError && isFinal(error.status))) throw error
      const now = await sizeOf(partial)
      failures = now > before ? 1 : failures + 1
      before = now
      if (failures >= attempts)
        throw new InputError(
          `${file.name}: the connection broke ${failures} times in a row at byte ${now} of ${file.bytes} (${reasonOf(error)}); call again to continue there.`,
          { cause: error },
        )
      await sleep(1000 * wait * 2 ** (failures - 1), undefined, { signal })
    }
  }
  const sum = await checksum(partial, file)
  if (sum !== file.sum) {
    await fs.rm(partial, { force: true })
    throw new InputError(
      `${file.name}: its bytes do not have the checksum that the hub states (${sum.slice(0, 12)}… in place of ${file.sum.slice(0, 12)}…); they were deleted, load it again.`,
    )
  }
  await on.rename(partial, target)
}

const isFinal = (status: number): boolean => status >= 400 && status < 500 && status !== 408 && status !== 429

const sizeOf = (path: string): Promise<number> =>
  fs.stat(path).then(
    ({ size }) => size,
    () => 0,
  )

/** Why a request failed; the reason of a failed fetch is in its cause. */
export function reasonOf(error: unknown): string {
  const { message, cause } = error as Error
  const inner = cause as (Error & { code?: string }) | undefined
  return (inner?.code ?? inner?.message ?? message).replace(/\s+/g, ' ')
}

/** One request: from the byte where the partial file ends. */
async function receive(file: Remote, partial: string, { signal, onBytes, on = fs }: DownloadOptions): Promise<void> {
  let have = await sizeOf(partial)
  if (have > file.bytes) {
    await fs.rm(partial, { force: true })
    have = 0
  }
  onBytes?.(have)
  // A new file of no bytes must be made, too.
  if (have === file.bytes && have > 0) return
  const response = await fetch(file.url, {
    headers: { ...file.headers, ...(have > 0 && { Range: `bytes=${have}-` }) },
    signal: signal ?? null,
  })
  if (!response.ok) {
    await response.body?.cancel()
    throw new HttpError(response.status, response.headers.get('x-error-code'))
  }
  await checkUnchanged(file, response, partial)
  const from = response.status === 206 ? startOf(response) : 0
  if (from !== have && from !== 0) throw new Error(`the server sent bytes from ${from} on, and not from ${have} on`)
  if (from === 0) await fs.rm(partial, { force: true })
  const disk = <T>(work: Promise<T>): Promise<T> =>
    work.catch((error: unknown) => {
      throw explain(partial, error, 'what is there is kept, and continued by the next call')
    })
  const handle = await disk(on.open(partial, 'a'))
  try {
    let at = from
    for await (const bytes of response.body ?? []) {
      at += bytes.length
      if (at > file.bytes) {
        await fs.rm(partial, { force: true })
        throw new InputError(`${file.name}: the server sent more than its ${file.bytes} bytes.`)
      }
      await disk(writeAll(handle, bytes))
      onBytes?.(at)
    }
    await disk(handle.sync())
    if (at < file.bytes) throw new Error('the answer ended early')
  } finally {
    await handle.close()
  }
}

/** Where the bytes of a partial answer begin. */
function startOf(response: Response): number {
  const range = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')
  if (!range) throw new Error('a partial answer does not say where it begins')
  return Number(range[1])
}

/** Compares the answer's etag with the promised checksum, where it has the form of one. */
async function checkUnchanged(file: Remote, response: Response, partial: string): Promise<void> {
  const etag = response.headers.get('x-linked-etag') ?? (response.redirected ? null : response.headers.get('etag'))
  const sum = /^(?:W\/)?"?([0-9a-f]{40}|[0-9a-f]{64})"?$/.exec(etag ?? '')?.[1]
  if (sum === undefined || sum === file.sum) return
  await response.body?.cancel()
  await fs.rm(partial, { force: true })
  throw new InputError(
    `${file.name}: the file changed on the hub while it was being loaded (its etag is ${show(sum.slice(0, 12))} now, it was ${show(file.sum.slice(0, 12))}); load it again.`,
  )
}

async function checksum(path: string, { sum, bytes }: Remote): Promise<string> {
  const hash = sum.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${bytes}\0`)
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer)
  return hash.digest('hex')
}
