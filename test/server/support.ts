/** A server over the tiny model, and clients that do what a well-behaved one does not. */
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import OpenAI from 'openai'
import { type Server, startServer } from '../../lib/server/server.js'
import type { ServerOptions } from '../../lib/server/service.js'
import { type Model, openModel } from '../../lib/session/model.js'
import { makeWorld, writeAdapter, type World } from '../support/world.js'

export interface Served extends Server {
  world: World
  model: Model
  /** A clip's path and bytes. */
  clip: string
  bytes: Buffer
  /** A client that does not try again by itself. */
  client: OpenAI
  port: number
}

let world: Promise<World> | undefined

/** Serves the model as `tiny` with the adapters `one` and `two`. @param around what to put in the model's place */
export async function serve(
  options: Partial<ServerOptions> = {},
  around: (model: Model) => Model = (model) => model,
): Promise<Served> {
  const made = await (world ??= makeWorld().then(async (w) => {
    using model = await openModel(w.model)
    for (const [i, name] of ['one', 'two'].entries()) await writeAdapter(model, join(w.root, name), i + 1)
    return w
  }))
  const model = await openModel(made.model)
  const adapters = new Map(['one', 'two'].map((name) => [name, join(made.root, name)]))
  const server = await startServer(around(model), { name: 'tiny', adapters, port: 0, ...options })
  const clip = join(made.root, 'clips', 'val', '000000.mp4')
  return {
    url: server.url,
    async close() {
      await server.close()
      model.dispose()
    },
    world: made,
    model,
    clip,
    bytes: readFileSync(clip),
    client: new OpenAI({ baseURL: `${server.url}/v1`, apiKey: options.token ?? 'none', maxRetries: 0 }),
    port: Number(new URL(server.url).port),
  }
}

/** The question about a clip as a body. */
export const question = (url: string, more: object = {}): any => ({
  model: 'tiny',
  messages: [
    {
      role: 'user',
      content: [
        { type: 'text', text: 'how many objects move ?' },
        { type: 'video_url', video_url: { url } },
      ],
    },
  ],
  max_tokens: 8,
  ...more,
})
export const inline = ({ bytes }: Served): string => `data:video/mp4;base64,${bytes.toString('base64')}`

export const post = (server: Server, path: string, body: unknown, headers: Record<string, string> = {}) =>
  fetch(server.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })

/** The error of a response in OpenAI's form, on one line. */
export async function refusal(
  response: Response,
): Promise<{ status: number; message: string; code: string; param: string }> {
  const text = await response.text()
  const { error } = JSON.parse(text)
  if (!error) throw new Error(`no error: ${response.status} ${text}`)
  if (Object.keys(error).join() !== 'message,type,param,code') throw new Error(JSON.stringify(error))
  if (/\n/.test(error.message)) throw new Error(`more than one line: ${error.message}`)
  return { status: response.status, ...error }
}

/** A connection on which everything is written by hand. */
export class Wire {
  received = ''
  closed = false
  readonly socket: Socket
  constructor({ port }: { port: number }) {
    this.socket = connect(port, '127.0.0.1')
    this.socket.on('data', (data) => (this.received += data))
    this.socket.on('close', () => (this.closed = true)).on('error', () => {})
  }
  write(text: string | Buffer): void {
    this.socket.write(text)
  }
  /** Until it received this, or was closed. */
  async until(pattern: RegExp): Promise<void> {
    await until(() => this.closed || pattern.test(this.received))
    if (!pattern.test(this.received)) throw new Error(`closed after ${JSON.stringify(this.received)}`)
  }
}

/** Waits for what must come. */
export async function until(what: () => unknown): Promise<void> {
  for (let i = 0; !(await what()); i++) {
    if (i > 4000) throw new Error(`never: ${what}`)
    await sleep(5)
  }
}

/** A model whose answers go on word by word as it is told. */
export interface Gated {
  around(model: Model): Model
  /** Questions that were begun, and that ended in whatever way. */
  begun: string[]
  ended: string[]
  /** Lets every answer go on for good. */
  open(): void
}
export function gated(): Gated {
  let release: () => void = () => {}
  const gate = new Promise<void>((resolve) => (release = resolve))
  const [begun, ended]: [string[], string[]] = [[], []]
  return {
    begun,
    ended,
    open: () => release(),
    around: (model) =>
      ({
        get checkpoint() {
          return model.checkpoint
        },
        ask: async function* (q: any, o: any) {
          begun.push(q.prompt)
          try {
            const pieces = model.ask(q, o)
            const gone = new Promise<never>((_, reject) =>
              o.signal.addEventListener('abort', () => reject(o.signal.reason)),
            )
            gone.catch(() => {}) // where nothing waits for it any more
            for (;;) {
              const next = await pieces.next()
              if (next.done) return next.value
              yield next.value
              await Promise.race([gate, gone])
            }
          } finally {
            ended.push(q.prompt)
          }
        },
      }) as unknown as Model,
  }
}
