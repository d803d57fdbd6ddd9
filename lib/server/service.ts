/** The state of a server: an open model and its adapters, and what every request passes. */
import { createHash, timingSafeEqual } from 'node:crypto'
import multipart from '@fastify/multipart'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { Adapter } from '../adapter/adapter.js'
import { loadAdapter } from '../adapter/save.js'
import { InputError } from '../errors.js'
import { Features } from '../session/features.js'
import { NotFiniteError } from '../session/finite.js'
import { framesOf, type Model } from '../session/model.js'
import { Clips, givenFolder, Runs } from './folders.js'
import { HEADERS } from './headers.js'
import { Queue, type Place } from './queue.js'
import { errorBody, Refusal } from './refusal.js'
import { Sources } from './sources.js'
import { Uploads } from './uploads.js'

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

/** Most bytes of a clip inside of a question, as a data: URL; a larger one is uploaded. */
const INLINE = 16 * 2 ** 20
/** Bytes of a multipart body beside the clip. */
export const FRAMING = 64 * 1024
/** Uploads, pictures of clips and followed logs at a time. */
const [UPLOADS, PICTURES, FOLLOWERS] = [4, 2, 64]
/** Bytes of image features that are kept for the next question about the same clip. */
export const KEPT = 256 * 2 ** 20

/** Whether an address is this machine's alone. */
export const loopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || /^127(\.\d+){3}$/.test(host)

/** An open model, its adapters, and what routes share: queues, clips, the check of a request, the words of an error. */
export class Service {
  readonly app: FastifyInstance
  /** Places of questions, uploads, pictures of clips and followed logs. */
  readonly questions: Queue
  readonly uploading = new Queue(0, UPLOADS)
  readonly looking = new Queue(8, PICTURES)
  readonly following = new Queue(0, FOLLOWERS)
  /** Image features by number of frames: adapters that are compared share them. */
  readonly #features = new Map<number, Features>()
  /** Of the requests that are being answered. */
  readonly #open = new Set<AbortController>()
  #stopped: Refusal | undefined
  readonly started = Math.floor(Date.now() / 1000)
  readonly sources: Sources

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
      await service.#guard()
      return service
    } catch (error) {
      for (const adapter of adapters.values()) adapter.dispose()
      throw error
    }
  }

  private constructor(
    readonly model: Model,
    readonly options: ServerOptions,
    readonly adapters: ReadonlyMap<string, Adapter>,
    readonly uploads: Uploads,
    readonly given: { clips: Clips | undefined; runs: Runs | undefined },
  ) {
    this.questions = new Queue(options.queue ?? 16)
    this.sources = new Sources(uploads, given.clips, { inline: INLINE, fetch: options.fetchUrls ?? false })
    this.app = Fastify({
      bodyLimit: Math.ceil((INLINE * 4) / 3) + FRAMING,
      // Later than the limits of a request, which tell the client why.
      connectionTimeout: 2 * this.patience,
      // A body may be large; that it comes at all is what the connection's own limit sees to.
      requestTimeout: 30 * 60_000,
      keepAliveTimeout: 10_000,
      forceCloseConnections: true,
      routerOptions: { maxParamLength: 500 },
      logger: false,
    })
  }

  /** In milliseconds. */
  get patience(): number {
    return 1000 * (this.options.patience ?? 30)
  }

  async close(): Promise<void> {
    this.#stopped = new Refusal(503, 'The server is stopping.', { code: 'stopping' })
    for (const controller of this.#open) controller.abort(this.#stopped)
    // Whoever has its turn is told, and gives its place back.
    while (this.questions.running) await new Promise((resolve) => setTimeout(resolve, 5))
    await this.app.close()
    await this.uploads.close()
    for (const adapter of this.adapters.values()) adapter.dispose()
  }

  // -----------------------------------------------------------------------------------------------------------------
  // what every request passes

  async #guard(): Promise<void> {
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
    const { status, message, details } = this.described(error)
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
  described(error: unknown): { status: number; message: string; details: Refusal['details'] } {
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
  signal(reply: FastifyReply): AbortSignal {
    const controller = new AbortController()
    this.#open.add(controller)
    reply.raw.once('close', () => {
      this.#open.delete(controller)
      controller.abort(new Refusal(499, 'The client closed the connection.'))
    })
    if (this.#stopped) controller.abort(this.#stopped)
    return controller.signal
  }

  /** The adapter of a model's name; null: none. @throws Refusal 404 */
  adapter(name: string): Adapter | null {
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

  /** Features of clips by frames: those asked for, else those of the adapter. */
  featuresOf(asked: number | undefined, adapter: Adapter | null): Features {
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
}

/** Places in queues that requests hold until their response has ended, however it ended. */
const places = new WeakMap<FastifyReply, Place>()

/** Keeps a place until the response has ended. */
export function hold(reply: FastifyReply, place: Place): void {
  places.set(reply, place)
  reply.raw.once('close', () => place.leave())
}

/** The place that a request holds. */
export const placeOf = (reply: FastifyReply): Place => places.get(reply)!
