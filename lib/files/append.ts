/**
 * A file that only grows, such as a log. What a full disk refuses is kept and written with the next record, so that the
 * file never holds a part of a record followed by another.
 */
import * as fs from 'node:fs/promises'

/** Most bytes that are kept while the file cannot be written; the oldest records are lost beyond that. */
const KEPT = 1 << 24

export class AppendFile {
  #pending: Uint8Array[] = []
  /** Records that were given up, since the file could not be written for too long. */
  lost = 0

  private constructor(
    readonly path: string,
    private readonly handle: fs.FileHandle,
    /** Bytes of whole records. */
    private size: number,
  ) {}

  /** Opens the file, or creates it; `fresh` empties it. */
  static async open(path: string, { fresh = false } = {}): Promise<AppendFile> {
    const handle = await fs.open(path, fresh ? 'w' : 'a')
    // Mode 'a' would write at the end of the file whatever the position: a part of a record could not be overwritten.
    if (!fresh) {
      await handle.close()
      const again = await fs.open(path, 'r+')
      return new AppendFile(path, again, (await again.stat()).size)
    }
    return new AppendFile(path, handle, 0)
  }

  /** Whether records wait to be written. */
  get behind(): boolean {
    return this.#pending.length > 0
  }

  /** Appends a record, after those that could not be written before. Rejects where that fails; the record is kept. */
  async append(record: string | Uint8Array): Promise<void> {
    this.#pending.push(typeof record === 'string' ? Buffer.from(record) : record)
    let bytes = this.#pending.reduce((n, r) => n + r.byteLength, 0)
    while (bytes > KEPT && this.#pending.length > 1) {
      bytes -= this.#pending.shift()!.byteLength
      this.lost++
    }
    await this.flush()
  }

  /** Writes what waits. */
  async flush(): Promise<void> {
    if (!this.#pending.length) return
    const bytes = Buffer.concat(this.#pending)
    try {
      for (let at = 0; at < bytes.length; ) {
        const { bytesWritten } = await this.handle.write(bytes, at, bytes.length - at, this.size + at)
        if (bytesWritten === 0) throw Object.assign(new Error('the system wrote nothing'), { code: 'EIO' })
        at += bytesWritten
      }
    } catch (error) {
      await this.handle.truncate(this.size).catch(() => {})
      throw error
    }
    this.size += bytes.length
    this.#pending = []
  }

  /** Makes what was written durable. */
  sync(): Promise<void> {
    return this.handle.sync()
  }

  close(): Promise<void> {
    return this.handle.close()
  }
}
