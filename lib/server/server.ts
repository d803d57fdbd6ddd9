/**
 * The HTTP server over one open model and its adapters: OpenAI's API for questions about clips, and a page for people.
 * Every request is bounded: in size, in time, and in how many may wait.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { isIP } from 'node:net'
import multipart from '@fastify/multipart'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { Adapter } from '../adapter/adapter.js'
import { loadAdapter } from '../adapter/save.js'
import { readFrames } from '../data/frames.js'
import { pictureUrl } from '../data/picture-url.js'
import { InputError, invalid } from '../errors.js'
import { Features } from '../session/features.js'
import { NotFiniteError } from '../session/finite.js'
import { framesOf, type Answered, type Model } from '../session/model.js'
import { Completion, parseAsked, parseVideo, type Asked, type VideoSource } from './chat.js'
import { Clips, givenFolder, Runs } from './folders.js'
import { readPage } from './page.js'
import { Queue, type Place } from './queue.js'
import { errorBody, limited, paced, Refusal } from './refusal.js'
import { Sources } from './sources.js'
import { Uploads, type Upload } from './uploads.js'

/** What is served, and its limits. */
export interface ServerOptions {
  /** The name of the model without an adapter. */
  name: string
  /** Folders of adapters by the names under which they are offered. */
  adapters?: ReadonlyMap<string, string> | undefined
  /** Address to listen on. Default 127.0.0.1; any that others can reach needs a token. */
  host?: string | undefined
  /** Default 8080; 0: any that is free. */
  port?: number | undefined
  /** What clients must send as `Authorization: Bearer TOKEN`. */
  token?: string | undefined
  /** Folders of clips to choose from, and of training runs to follow. */
  clips?: string | undefined
  runs?: string | undefined
  /** Questions that may wait for the one that is being answered. Default 16. */
  queue?: number | undefined
  /** Most bytes of an uploaded clip; default 512 MiB. All clips together: four times that. */
  uploadBytes?: number | undefined
  /** Seconds after its last use after which an uploaded clip is deleted. Default 3600. */
  uploadSeconds?: number | undefined
  /** Whether clips may be fetched from http(s) URLs that clients name. */
  fetchUrls?: boolean | undefined
  /** Seconds that reading one clip may take; whether a GPU launches steps as graphs: of {@link Model.ask}. */
  timeout?: number | undefined
  graphs?: boolean | undefined
  /** Seconds that a question may take to arrive, and an upload or a reader may pause. Default 30. */
  patience?: number | undefined
  /** Milliseconds between two looks at a log that is followed. Default 500. */
  interval?: number | undefined
  /** Told of errors that are no client's fault. Default: the error stream. */
  onError?: ((error: unknown) => void) | undefined
}

export interface Server {
  /** With the port that was taken. */
  url: string
  /** Ends what is being answered, closes connections and deletes uploads. The model stays open. */
  close(): Promise<void>
}

/** Most bytes of a clip inside of a question, as a data: URL; a larger one is uploaded. */
const INLINE = 16 * 2 ** 20
/** Bytes of a multipart body beside the clip. */
const FRAMING = 64 * 1024
/** Uploads, pictures of clips and followed logs at a time. */
const [UPLOADS, PICTURES, FOLLOWERS] = [4, 2, 64]
/** Bytes of image features that are kept for the next question about the same clip. */
export const KEPT = 256 * 2 ** 20

const HEADERS = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

const loopback = (host: string): boolean => host === 'localhost' || host === '::1' || /^127(\.\d+){3}$/.test(host)

/**
 * Serves an open model.
 *
 * @throws InputError for an adapter that cannot be used, a port that is taken, and an address that others can reach
 *   without a token
 */
export async function startServer(model: Model, options: ServerOptions): Promise<Server> {
  const { host = '127.0.0.1', port = 8080, token } = options
  if (!loopback(host) && !token)
    throw new InputError(
      `host: others can reach ${host}, so a token is needed; set MTRANSLLAMA_TOKEN to a long random text, which clients send as their API key, or listen on 127.0.0.1.`,
    )
  if (token !== undefined && token.length < 8)
    throw new InputError('token: expected at least 8 characters, so that it cannot be guessed.')
  const service = await Service.open(model, options)
  try {
    await service.app.listen({ host, port, listenTextResolver: () => '' })
  } catch (error) {
    await service.close()
    throw cannotListen(error, host, port)
  }
  const { port: taken } = service.app.server.address() as { port: number }
  const shown = isIP(host) === 6 ? `[${host}]` : host
  return { url: `http://${shown}:${taken}`, close: () => service.close() }
}

function cannotListen(error: unknown, host: string, port: number): unknown {
  const { code } = error as NodeJS.ErrnoException
  const reasons: Record<string, string> = {
    EADDRINUSE: 'another program listens there; choose another port, or 0 for any that is free',
    EACCES: 'there is no permission to listen there; choose a port above 1023',
    EADDRNOTAVAIL: 'this machine has no such address; use 127.0.0.1, or 0.0.0.0 for all of its own',
    ENOTFOUND: 'there is no such host; use 127.0.0.1, or 0.0.0.0 for all addresses of this machine',
  }
  const reason = code === undefined ? undefined : reasons[code]
  return reason ? new InputError(`port: cannot listen on ${host}:${port}: ${reason}.`, { cause: error }) : error
}

class Service {
  readonly app: FastifyInstance
  readonly #queue: Queue
  readonly #uploading = new Queue(0, UPLOADS)
  readonly #looking = new Queue(8, PICTURES)
  readonly #following = new Queue(0, FOLLOWERS)
  /** Image features by number of frames: adapters that are compared share them. */
  readonly #features = new Map<number, Features>()
  /** Of the requests that are being answered. */
  readonly #open = new Set<AbortController>()
  #stopped: Refusal | undefined
  readonly #started = Math.floor(Date.now() / 1000)
  readonly #sources: Sources

  static async open(model: Model, options: ServerOptions): Promise<Service> {
    const clips = options.clips === undefined ? undefined : new Clips(await givenFolder('clips', options.clips))
    const runs =
      options.runs === undefined ? undefined : new Runs(await givenFolder('runs', options.runs), options.interval)
    const adapters = new Map<string, Adapter>()
    try {
      for (const [name, folder] of options.adapters ?? []) {
        if (name === options.name)
          throw new InputError(`adapter: ${name} is the name of the model itself; choose another.`)
        adapters.set(name, await loadAdapter(folder, model.checkpoint))
      }
      const { uploadBytes = 512 * 2 ** 20, uploadSeconds = 3600 } = options
      const uploads = await Uploads.open({ bytes: uploadBytes, total: 4 * uploadBytes, seconds: uploadSeconds })
      const service = new Service(model, options, adapters, uploads, { clips, runs })
      await service.#routes()
      return service
    } catch (error) {
      for (const adapter of adapters.values()) adapter.dispose()
      throw error
    }
  }

  private constructor(
    private readonly model: Model,
    private readonly options: ServerOptions,
    private readonly adapters: ReadonlyMap<string, Adapter>,
    private readonly uploads: Uploads,
    private readonly given: { clips: Clips | undefined; runs: Runs | undefined },
  ) {
    this.#queue = new Queue(options.queue ?? 16)
    this.#sources = new Sources(uploads, given.clips, { inline: INLINE, fetch: options.fetchUrls ?? false })
    this.app = Fastify({
      bodyLimit: Math.ceil((INLINE * 4) / 3) + FRAMING,
      // Later than the limits of a request, which tell the client why.
      connectionTimeout: 2 * this.#patience,
      // A body may be large; that it comes at all is what the connection's own limit sees to.
      requestTimeout: 30 * 60_000,
      keepAliveTimeout: 10_000,
      forceCloseConnections: true,
      routerOptions: { maxParamLength: 500 },
      logger: false,
    })
  }

  /** In milliseconds. */
  get #patience(): number {
    return 1000 * (this.options.patience ?? 30)
  }

  async close(): Promise<void> {
    this.#stopped = new Refusal(503, 'The server is stopping.', { code: 'stopping' })
    for (const controller of this.#open) controller.abort(this.#stopped)
    // Whoever has its turn is told, and gives its place back.
    while (this.#queue.running) await new Promise((resolve) => setTimeout(resolve, 5))
    await this.app.close()
    await this.uploads.close()
    for (const adapter of this.adapters.values()) adapter.dispose()
  }

  // -----------------------------------------------------------------------------------------------------------------
  // what every request passes

  async #routes(): Promise<void> {
    const { app } = this
    app.setErrorHandler((error, request, reply) => this.#failed(error, request, reply))
    app.setNotFoundHandler((request) => {
      throw new Refusal(404, `There is no ${request.method} ${request.url.slice(0, 80)} here.`, { code: 'not_found' })
    })
    app.addHook('onRequest', async (request, reply) => {
      reply.headers(HEADERS)
      this.#checkOrigin(request)
      if (/^\/(v1|api)(\/|$)/.test(request.url)) this.#checkToken(request)
    })
    await app.register(multipart, {
      // One byte more than is accepted, so that a clip that is too large is noticed here and not cut.
      limits: { fileSize: this.uploads.limits.bytes + 1, files: 1, fields: 8, fieldSize: 1024, headerPairs: 32 },
    })
    await this.#page()
    this.#about()
    this.#files()
    this.#chat()
    this.#folders()
    await app.ready()
  }

  /**
   * A page of another site may send requests to this machine from the browser of whoever visits it. Without a token,
   * requests are accepted under the names of this machine alone, which such a site cannot use; and never from a page of
   * another origin.
   */
  #checkOrigin({ headers }: FastifyRequest): void {
    const { host = '', origin } = headers
    const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
    if (this.options.token === undefined && !loopback(name) && name !== this.options.host)
      throw new Refusal(403, `This server answers to 127.0.0.1 and localhost, not to ${JSON.stringify(name)}.`)
    if (origin !== undefined && origin.replace(/^https?:\/\//, '') !== host)
      throw new Refusal(403, 'Requests from pages of other sites are refused.')
  }

  #checkToken({ headers }: FastifyRequest): void {
    const { token } = this.options
    if (token === undefined) return
    const given = /^Bearer +(.+)$/i.exec(headers.authorization ?? '')?.[1]
    const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
    if (given !== undefined && timingSafeEqual(digest(given), digest(token))) return
    throw new Refusal(401, 'Send the token of this server: Authorization: Bearer TOKEN.', { code: 'invalid_api_key' })
  }

  #failed(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
    const { status, message, details } = this.#described(error)
    const { raw } = request
    // The rest of a body that is refused is thrown away for a while, so that the client gets to read why.
    if (!raw.complete) {
      const timer = setTimeout(() => raw.socket.destroy(), 2000).unref()
      raw.once('end', () => clearTimeout(timer)).resume()
    }
    if (details.retryAfter !== undefined) reply.header('retry-after', details.retryAfter)
    if (status === 401) reply.header('www-authenticate', 'Bearer')
    void reply.status(status).send(errorBody(status, message, details))
  }

  /** What a client is told of an error. */
  #described(error: unknown): { status: number; message: string; details: Refusal['details'] } {
    if (error instanceof Refusal) return { status: error.status, message: error.message, details: error.details }
    // That the model itself is damaged is no fault of the question.
    if (error instanceof InputError)
      return { status: error instanceof NotFiniteError ? 500 : 400, message: error.message, details: {} }
    const { statusCode: status, code = '', message } = error as Error & { statusCode?: number; code?: string }
    if (code === 'FST_ERR_CTP_BODY_TOO_LARGE')
      return {
        status: 413,
        message: `The request is larger than ${Math.floor(INLINE / 2 ** 20)} MiB, the most of a clip inside of a question; upload it by POST /v1/files.`,
        details: { code: 'request_too_large' },
      }
    if (status !== undefined && status < 500) return { status, message, details: { code: code.toLowerCase() } }
    if (code === 'ECONNRESET' || code === 'ERR_STREAM_PREMATURE_CLOSE')
      return { status: 400, message: 'The request ended before its body was whole.', details: { code: 'malformed' } }
    ;(this.options.onError ?? console.error)(error)
    return { status: 500, message: 'The server failed; its own error stream has the reason.', details: {} }
  }

  /** Aborts when the client is gone, or the server stops. */
  #signal(reply: FastifyReply): AbortSignal {
    const controller = new AbortController()
    this.#open.add(controller)
    reply.raw.once('close', () => {
      this.#open.delete(controller)
      controller.abort(new Refusal(499, 'The client closed the connection.'))
    })
    if (this.#stopped) controller.abort(this.#stopped)
    return controller.signal
  }

  // -----------------------------------------------------------------------------------------------------------------
  // routes

  async #page(): Promise<void> {
    for (const { path, type, content } of await readPage())
      this.app.get(path, (_, reply) => reply.type(type).header('cache-control', 'no-cache').send(content))
  }

  #about(): void {
    const object = (id: string): object => ({
      id,
      object: 'model',
      created: this.#started,
      owned_by: 'mtransllama',
      frames: framesOf(this.adapters.get(id)),
    })
    const names = [this.options.name, ...this.adapters.keys()]
    this.app.get('/healthz', async () => ({
      status: 'ok',
      running: this.#queue.running,
      waiting: this.#queue.waiting,
    }))
    this.app.get('/v1/models', async () => ({ object: 'list', data: names.map(object) }))
    this.app.get<{ Params: { id: string } }>('/v1/models/:id', async ({ params }) => {
      this.#adapter(params.id)
      return object(params.id)
    })
  }

  /** The adapter of a model's name; null: none. @throws Refusal 404 */
  #adapter(name: string): Adapter | null {
    const adapter = name === this.options.name ? null : this.adapters.get(name)
    if (adapter === undefined) {
      const known = [this.options.name, ...this.adapters.keys()].join(', ')
      throw new Refusal(404, `model: there is no ${JSON.stringify(name.slice(0, 80))} here; there is ${known}.`, {
        param: 'model',
        code: 'model_not_found',
      })
    }
    return adapter
  }

  #files(): void {
    const { app, uploads } = this
    const object = ({ id, name, bytes, created }: Upload): object => ({
      id,
      object: 'file',
      bytes,
      created_at: created,
      filename: name,
      purpose: 'user_data',
      status: 'processed',
    })
    const tooLarge = uploads.limits.bytes + FRAMING
    app.post(
      '/v1/files',
      {
        bodyLimit: tooLarge,
        onRequest: async ({ headers }, reply) => {
          if (Number(headers['content-length']) > tooLarge)
            throw new Refusal(
              413,
              `The clip is larger than ${uploads.limits.bytes} bytes, the most that is accepted.`,
              {
                code: 'file_too_large',
              },
            )
          if (!/^multipart\/form-data/i.test(headers['content-type'] ?? ''))
            throw new Refusal(415, 'Send the clip as multipart/form-data, in a field named file.', {
              code: 'unsupported_body',
            })
          hold(reply, this.#uploading.enter())
        },
      },
      async (request, reply) => {
        await places.get(reply)!.turn(this.#signal(reply))
        let saved: Upload | undefined
        try {
          for await (const part of request.parts()) {
            if (part.type !== 'file') continue
            if (part.fieldname !== 'file') throw new Refusal(400, 'The clip is expected in a field named file.')
            saved = await uploads.add(paced(part.file, this.#patience), part.filename.slice(0, 200))
          }
        } catch (error) {
          if (saved) await uploads.delete(saved.id)
          const { statusCode, code, message } = error as Error & { statusCode?: number; code?: string }
          if (code === 'FST_FILES_LIMIT') throw new Refusal(400, 'Send one clip in a request.')
          if (error instanceof Refusal || statusCode !== undefined || code !== undefined) throw error
          throw new Refusal(400, `The multipart body cannot be read: ${message}.`, { code: 'malformed' })
        }
        if (!saved) throw new Refusal(400, 'The form has no file; send the clip in a field named file.')
        return object(saved)
      },
    )
    app.get('/v1/files', async () => ({ object: 'list', data: uploads.all.map(object), has_more: false }))
    app.get<{ Params: { id: string } }>('/v1/files/:id', async ({ params }) => object(uploads.get(params.id)))
    app.delete<{ Params: { id: string } }>('/v1/files/:id', async ({ params: { id } }) => {
      await uploads.delete(id)
      return { id, object: 'file', deleted: true }
    })
  }

  #chat(): void {
    this.app.post(
      '/v1/chat/completions',
      {
        // A place is taken before the body is read, so that bodies of those who cannot wait cost no memory; and the
        // body must come in time, so that nobody keeps a place by sending slowly.
        onRequest: async (_, reply) => hold(reply, this.#queue.enter()),
        preParsing: async (_request, _reply, payload) => limited(payload, this.#patience),
      },
      async (request, reply) => {
        const asked = parseAsked(request.body)
        const adapter = this.#adapter(asked.model)
        const signal = this.#signal(reply)
        const place = places.get(reply)!
        request.raw.socket.setTimeout(0) // silence is no fault of a client that waits for its turn
        try {
          const source = await this.#sources.open(asked.video, signal)
          try {
            await place.turn(signal)
            const { start, end } = asked.video
            const { graphs } = this.options
            const answer = this.model.ask(
              { video: source.path, start, end, prompt: asked.prompt, dialogue: asked.dialogue },
              {
                ...asked.choice,
                adapter,
                features: this.#featuresOf(asked, adapter),
                maxTokens: asked.maxTokens,
                graphs,
                signal,
              },
            )
            return await (asked.stream ? this.#stream(reply, asked, answer) : whole(asked, answer))
          } catch (error) {
            throw source.hidden(error)
          } finally {
            await source.release()
          }
        } finally {
          place.leave()
          request.raw.socket.setTimeout(2 * this.#patience)
        }
      },
    )
  }

  #featuresOf({ frames: asked }: Asked, adapter: Adapter | null): Features {
    const frames = asked ?? framesOf(adapter ?? undefined)
    let features = this.#features.get(frames)
    if (!features) {
      const { timeout } = this.options
      features = new Features(this.model.checkpoint, { frames, sampling: { kind: 'uniform' }, timeout, memory: KEPT })
      this.#features.clear() // of one number at a time, so that memory is bounded
      this.#features.set(frames, features)
    }
    return features
  }

  /** Sends an answer as it comes. What fails before the first word is an error response like any other. */
  async #stream(reply: FastifyReply, asked: Asked, answer: AsyncGenerator<string, Answered>): Promise<void> {
    const completion = new Completion(asked.model)
    let next = await answer.next()
    const sink = new EventStream(reply, this.#patience)
    try {
      await sink.send(completion.piece({ role: 'assistant', content: '' }))
      for (; !next.done; next = await answer.next()) await sink.send(completion.piece({ content: next.value }))
      await sink.send(completion.piece({}, next.value.finish))
      if (asked.usage) await sink.send(completion.usage(next.value))
      await sink.send('[DONE]')
    } catch (error) {
      const { status, message, details } = this.#described(error)
      await sink.send(errorBody(status, message, details)).catch(() => {})
    } finally {
      await answer.return(undefined as never)
      sink.end()
    }
  }

  #folders(): void {
    const { app } = this
    const { clips, runs } = this.given
    app.get('/api/about', async () => ({
      clips: clips ? await clips.list() : null,
      runs: runs !== undefined,
      upload: this.uploads.limits.bytes,
    }))
    app.post<{ Body: { video?: unknown; model?: unknown; frames?: unknown } | null }>(
      '/api/frames',
      { onRequest: async (_, reply) => hold(reply, this.#looking.enter()) },
      async ({ body }, reply) => {
        const video = parseVideo(body?.video, 'video')
        const adapter = this.#adapter(String(body?.model ?? this.options.name))
        const signal = this.#signal(reply)
        await places.get(reply)!.turn(signal)
        return { frames: await this.#pictures(video, framesOf(adapter ?? undefined), signal) }
      },
    )
    app.get('/api/runs', async () => ({ runs: runs ? await runs.list() : [] }))
    app.get<{ Params: { name: string }; Querystring: { from?: string } }>(
      '/api/runs/:name',
      { onRequest: async (_, reply) => hold(reply, this.#following.enter()) },
      async ({ params, query }, reply) => {
        const from = Number(query.from ?? 0)
        if (!Number.isSafeInteger(from) || from < 0) throw invalid('from', 'a number of bytes, from 0 on', query.from)
        if (!runs) throw new Refusal(404, 'This server was started without --runs.', { code: 'not_found' })
        const signal = this.#signal(reply)
        await places.get(reply)!.turn(signal)
        const follow = runs.follow(params.name, from, signal)
        let next = await follow.next()
        if (next.done) return
        const sink = new EventStream(reply, this.#patience)
        const beat = setInterval(() => sink.comment(), Math.min(10_000, this.#patience / 2))
        try {
          for (; !next.done; next = await follow.next()) await sink.send(next.value)
        } finally {
          clearInterval(beat)
          sink.end()
        }
      },
    )
  }

  /** The frames of a clip that the model would read, in the size in which it reads them. */
  async #pictures(video: VideoSource, frames: number, signal: AbortSignal): Promise<{ time: number; image: string }[]> {
    const source = await this.#sources.open(video, signal)
    try {
      const { start, end } = video
      const shown = await readFrames(
        { video: source.path, start, end },
        {
          frames,
          sampling: { kind: 'uniform' },
          resize: this.model.checkpoint.preprocessor,
          timeout: this.options.timeout,
          signal,
        },
      )
      return await Promise.all(shown.map(async (frame) => ({ time: frame.time, image: await pictureUrl(frame) })))
    } catch (error) {
      throw source.hidden(error)
    } finally {
      await source.release()
    }
  }
}

/** Places in queues that requests hold until their response has ended, however it ended. */
const places = new WeakMap<FastifyReply, Place>()

function hold(reply: FastifyReply, place: Place): void {
  places.set(reply, place)
  reply.raw.once('close', () => place.leave())
}

async function whole(asked: Asked, answer: AsyncGenerator<string, Answered>): Promise<object> {
  let text = ''
  let next = await answer.next()
  for (; !next.done; next = await answer.next()) text += next.value
  return new Completion(asked.model).whole(text, next.value)
}

/** Server-sent events. A client that does not read is waited for, as long as the patience lasts. */
class EventStream {
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
