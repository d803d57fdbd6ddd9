/** From what a client says of a clip to a file: an upload, a clip of the server's folder, a data: URL, http(s). */
import { basename } from 'node:path'
import { InputError } from '../errors.js'
import type { VideoSource } from './chat.js'
import type { Clips } from './folders.js'
import { Refusal } from './refusal.js'
import type { Uploads } from './uploads.js'

/** A clip that can be read until it is released. */
export interface Source {
  path: string
  release(): Promise<void>
  /** The error without paths of this machine. */
  hidden(error: unknown): unknown
}

/** Seconds that fetching a clip may take. */
const FETCH = 60

export class Sources {
  constructor(
    private readonly uploads: Uploads,
    private readonly clips: Clips | undefined,
    private readonly allowed: { inline: number; fetch: boolean },
  ) {}

  /** @throws Refusal for a URL that is not accepted, and what `Uploads` refuses */
  async open({ url }: VideoSource, signal: AbortSignal): Promise<Source> {
    const [, scheme, rest] = /^([a-z]+):(.*)$/is.exec(url) ?? []
    switch (scheme?.toLowerCase()) {
      case 'file':
        return this.#uploaded(rest!)
      case 'clip':
        if (!this.clips) break
        return source(await this.clips.path(rest!), rest!)
      case 'data':
        return this.#added(this.#inline(rest!), 'the clip')
      case 'http':
      case 'https':
        if (!this.allowed.fetch) break
        return this.#added(this.#fetched(url, signal), basename(new URL(url).pathname) || 'the clip')
    }
    throw new Refusal(
      400,
      `video_url: expected a data: URL, file: and the id of an upload${this.clips ? ', clip: and the name of a clip' : ''}${this.allowed.fetch ? ', http or https' : ''}, but got ${JSON.stringify(url.slice(0, 40))}.`,
      { param: 'messages' },
    )
  }

  #uploaded(id: string): Source {
    const { name } = this.uploads.get(id)
    const { path, release } = this.uploads.hold(id)
    return source(path, name, release)
  }

  /** A clip that goes with its question. */
  async #added(chunks: AsyncIterable<Uint8Array>, name: string): Promise<Source> {
    const { id } = await this.uploads.add(chunks, name)
    const { path, release } = this.uploads.hold(id)
    return source(path, name, async () => {
      await this.uploads.delete(id).catch(() => {}) // it may have been deleted while it was read
      await release()
    })
  }

  async *#inline(rest: string): AsyncGenerator<Uint8Array> {
    const comma = rest.indexOf(',')
    if (comma < 0 || !/;base64$/i.test(rest.slice(0, comma)))
      throw new Refusal(400, 'video_url: expected data:video/…;base64, and the bytes of the clip.', {
        param: 'messages',
      })
    const bytes = Buffer.from(rest.slice(comma + 1), 'base64')
    if (bytes.length > this.allowed.inline)
      throw new Refusal(413, 'video_url: the clip is too large for a data: URL; upload it by POST /v1/files.', {
        code: 'file_too_large',
      })
    yield bytes
  }

  async *#fetched(url: string, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const failed = (reason: string): Refusal =>
      new Refusal(400, `video_url: ${JSON.stringify(url.slice(0, 200))} cannot be fetched: ${reason}.`, {
        param: 'messages',
      })
    try {
      const response = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(1000 * FETCH)]) })
      if (!response.ok || !response.body) throw failed(`it answers with ${response.status}`)
      yield* response.body
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof Refusal) throw error
      const { name, message, cause } = error as Error
      throw failed(
        name === 'TimeoutError'
          ? `it took more than ${FETCH} seconds`
          : ((cause as Error | undefined)?.message ?? message),
      )
    }
  }
}

const source = (path: string, name: string, release = async (): Promise<void> => {}): Source => ({
  path,
  release,
  hidden: (error) =>
    error instanceof InputError && error.message.includes(path)
      ? new InputError(error.message.replaceAll(path, name), { cause: error })
      : error,
})
