/**
 * Clips that clients send: files of a folder that exists while the server runs. Names are made here, so that no path of
 * a client is ever used; what does not begin as a video container is refused, and so FFmpeg never sees a playlist that
 * names other files.
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, open, readdir, rm, unlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { alive } from '../files/folder.js'
import { Refusal } from './refusal.js'

/** An uploaded clip. */
export interface Upload {
  id: string
  /** As the client called it; shown, never used. */
  name: string
  path: string
  bytes: number
  /** Seconds since 1970. */
  created: number
}

export interface UploadLimits {
  /** Most bytes of a clip, and of all together. */
  bytes: number
  total: number
  /** Seconds after its last use after which a clip is deleted. */
  seconds: number
}

/** Bytes of a beginning that {@link container} looks at: two packets of an MPEG transport stream. */
const HEAD = 189 + 4
const text = (head: Uint8Array, at: number, length: number): string =>
  Buffer.from(head.subarray(at, at + length)).toString('latin1')

/** The ending of a video container that begins like this; undefined for anything else. */
export function container(head: Uint8Array): string | undefined {
  if (text(head, 4, 4) === 'ftyp') return text(head, 8, 2) === 'qt' ? 'mov' : 'mp4'
  if (['moov', 'mdat', 'wide', 'free', 'skip'].includes(text(head, 4, 4))) return 'mov'
  if (text(head, 0, 4) === '\x1aE\xdf\xa3') return 'mkv'
  if (text(head, 0, 4) === 'RIFF' && text(head, 8, 4) === 'AVI ') return 'avi'
  if (text(head, 0, 4) === 'OggS') return 'ogv'
  if (text(head, 0, 3) === 'FLV') return 'flv'
  if (text(head, 0, 4) === '\x00\x00\x01\xba') return 'mpg'
  if (text(head, 0, 6) === 'GIF89a' || text(head, 0, 6) === 'GIF87a') return 'gif'
  if (text(head, 0, 8) === '0&\xb2u\x8ef\xcf\x11') return 'wmv'
  if (head[0] === 0x47 && head[188] === 0x47) return 'ts'
  if (head[4] === 0x47 && head[192] === 0x47) return 'm2ts'
  return undefined
}

const PREFIX = 'mtransllama-uploads-'
const size = (bytes: number): string => `${Number((bytes / 2 ** 20).toFixed(1))} MiB`

export class Uploads {
  readonly #files = new Map<string, Upload & { used: number; readers: number; deleted: boolean }>()
  #bytes = 0
  readonly #timer: NodeJS.Timeout

  private constructor(
    readonly folder: string,
    readonly limits: UploadLimits,
  ) {
    const tick = Math.min(60_000, Math.max(10, 250 * limits.seconds))
    this.#timer = setInterval(() => void this.#expire(), tick).unref()
  }

  /** With a new folder among the temporary files. Those of servers that were killed are removed. */
  static async open(limits: UploadLimits): Promise<Uploads> {
    for (const name of await readdir(tmpdir())) {
      const pid = name.startsWith(PREFIX) ? /^\d+/.exec(name.slice(PREFIX.length))?.[0] : undefined
      if (pid && !alive(Number(pid))) await rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => {})
    }
    return new Uploads(await mkdtemp(join(tmpdir(), `${PREFIX}${process.pid}-`)), limits)
  }

  /**
   * Writes a clip to the disk as it comes.
   *
   * @throws Refusal where it is too large or no video, and where there is no room for it; nothing is left of it then
   */
  async add(chunks: AsyncIterable<Uint8Array>, name: string): Promise<Upload> {
    const id = `file-${randomBytes(12).toString('hex')}`
    const path = join(this.folder, id)
    const file = await open(path, 'wx', 0o600)
    let bytes = 0
    try {
      let head = Buffer.alloc(0)
      for await (const chunk of chunks) {
        if (bytes + chunk.length > this.limits.bytes)
          throw new Refusal(413, `The clip is larger than ${size(this.limits.bytes)}, the most that is accepted.`, {
            code: 'file_too_large',
          })
        await this.#makeRoom(chunk.length)
        bytes += chunk.length
        if (head.length < HEAD) {
          head = Buffer.concat([head, chunk.subarray(0, HEAD - head.length)])
          if (head.length >= HEAD) this.#check(head)
        }
        await file.writeFile(chunk)
      }
      this.#check(head)
    } catch (error) {
      this.#bytes -= bytes
      await file.close()
      await unlink(path).catch(() => {})
      if ((error as NodeJS.ErrnoException).code === 'ENOSPC')
        throw new Refusal(507, 'The disk of the server is full; try again later.', { code: 'disk_full' })
      throw error
    }
    await file.close()
    const now = Date.now()
    const upload = { id, name, path, bytes, created: Math.floor(now / 1000), used: now, readers: 0, deleted: false }
    this.#files.set(id, upload)
    return upload
  }

  #check(head: Uint8Array): void {
    if (container(head) !== undefined) return
    throw new Refusal(
      415,
      head.length
        ? 'The file does not begin as a video does; send MP4, MOV, MKV, WebM, AVI, MPEG, Ogg, FLV, WMV or GIF.'
        : 'The file is empty; send a video.',
      { code: 'unsupported_file' },
    )
  }

  /** Counts the bytes in; where all clips together grow too large, those that were not used for longest go. */
  async #makeRoom(bytes: number): Promise<void> {
    const idle = [...this.#files.values()].filter((f) => !f.readers).sort((a, b) => a.used - b.used)
    while (this.#bytes + bytes > this.limits.total) {
      const oldest = idle.shift()
      if (!oldest)
        throw new Refusal(507, 'All room for uploaded clips is in use; try again later.', { code: 'uploads_full' })
      await this.delete(oldest.id)
    }
    this.#bytes += bytes
  }

  get all(): Upload[] {
    return [...this.#files.values()]
  }

  /** @throws Refusal 404 */
  get(id: string): Upload {
    return this.#find(id)
  }
  #find(id: string): Upload & { used: number; readers: number; deleted: boolean } {
    const found = this.#files.get(id)
    if (!found)
      throw new Refusal(404, `There is no uploaded file ${JSON.stringify(id.slice(0, 80))}; it may have expired.`, {
        code: 'file_not_found',
      })
    return found
  }

  /** Keeps a clip from being deleted until `release` is called. @throws Refusal 404 */
  hold(id: string): { path: string; release(): Promise<void> } {
    const file = this.#find(id)
    file.readers++
    return {
      path: file.path,
      release: async () => {
        file.readers--
        file.used = Date.now()
        if (file.deleted && !file.readers) await this.#remove(file)
      },
    }
  }

  /** Deletes a clip; one that is being read goes when that ends. @throws Refusal 404 */
  async delete(id: string): Promise<void> {
    const file = this.#find(id)
    this.#files.delete(id)
    file.deleted = true
    if (!file.readers) await this.#remove(file)
  }
  async #remove({ path, bytes }: Upload): Promise<void> {
    this.#bytes -= bytes
    await unlink(path).catch(() => {})
  }

  async #expire(): Promise<void> {
    const before = Date.now() - 1000 * this.limits.seconds
    for (const file of this.#files.values()) if (!file.readers && file.used < before) await this.delete(file.id)
  }

  /** Deletes everything. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#files.clear()
    await rm(this.folder, { recursive: true, force: true })
  }
}
