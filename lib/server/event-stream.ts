/** Server-sent events over a response of Fastify. */
import { once } from 'node:events'
import type { FastifyReply } from 'fastify'
import { HEADERS } from './headers.js'
import { Refusal } from './refusal.js'

/** Server-sent events. A client that does not read is waited for, as long as the patience lasts. */
export class EventStream {
  readonly #raw: FastifyReply['raw']

  constructor(reply: FastifyReply, patience: number) {
    this.#raw = reply.raw
    reply.hijack()
    this.#raw.socket?.setTimeout(patience)
    this.#raw.writeHead(200, {
      ...HEADERS,
      'content-type': 'text/event-stream; charset=utf-8',
      'x-accel-buffering': 'no',
    })
  }

  async send(data: unknown): Promise<void> {
    const raw = this.#raw
    if (raw.destroyed) throw new Refusal(499, 'The client closed the connection.')
    if (raw.write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`)) return
    const gone = new AbortController()
    const close = (): void => gone.abort()
    raw.once('close', close)
    try {
      await once(raw, 'drain', { signal: gone.signal })
    } catch {
      throw new Refusal(499, 'The client closed the connection.')
    } finally {
      raw.off('close', close)
    }
  }

  /** Shows that the connection lives. */
  comment(): void {
    if (!this.#raw.destroyed && !this.#raw.writableNeedDrain) this.#raw.write(':\n\n')
  }

  end(): void {
    this.#raw.end()
  }
}
