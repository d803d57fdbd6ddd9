/**
 * Decoding processes (decoder.ts), reused over clips. A decoder that never returns, or a file system that never
 * answers, can only be abandoned in another process.
 *
 * A {@link Request} is sent as a line of JSON on the standard input. The fourth pipe returns a line of JSON, a
 * {@link Reply}, and then the bytes of its pictures.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import type { Socket } from 'node:net'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { InputError, invalid } from '../errors.js'
import type { Clip, ClipOptions } from './clip.js'
import { seconds, type RgbFrame } from './video.js'

/** Where the hash of a video's content is recorded, and how it is found out; see `recordedHash`. */
export interface Recording {
  folder: string
  how?: 'verify' | 'recorded' | undefined
}

/**
 * For the pictures of a clip, or none where it is only looked whether the clip is there (`open`); or for the hash of a
 * video's content.
 */
export type Request =
  | { clip: Clip; options: ClipOptions; open?: boolean }
  | { hash: string; recording?: Recording | undefined }

/** The answer of a decoding process to a request; or that it has started. */
export type Reply = { rss: number } & (
  | { ready: true }
  /** `order`: which of the pictures each of the T frames is. */
  | { pictures: { width: number; height: number; time: number }[]; order: number[] }
  /** Absent where none was recorded. */
  | { hash?: string }
  /** `input`: the error is an InputError. */
  | { error: string; input: boolean }
)

/** A process that holds more than this (bytes) after a clip is replaced. */
const MOST_MEMORY = 2 ** 30
/** Seconds in which a process must start. */
const START = 60
/** The longest `setTimeout`, in seconds. */
const FOREVER = 2 ** 31 / 1000 - 1

interface Job {
  request: Request
  timeout: number
  resolve(result: RgbFrame[] | string | undefined): void
  reject(error: Error): void
}
const videoOf = ({ request }: Job): string => ('hash' in request ? request.hash : request.clip.video)

/** Decoding processes at a time, unless options say otherwise. */
export const DECODERS = Math.max(1, Math.min(4, availableParallelism() - 1))

export interface DecodersOptions {
  /** Most processes at a time. Default {@link DECODERS}: one less than the processor has threads, at most 4. */
  size?: number
  /** The program that each runs. */
  program?: URL
}

export class Decoders {
  private readonly waiting: Job[] = []
  private readonly all = new Set<Decoder>()
  private readonly size: number
  private readonly program: URL
  /** Largest resident set that a process has reported, in bytes. */
  rss = 0
  /** Processes that ended, or were ended, while they had a clip. */
  lost = 0

  constructor({ size, program }: DecodersOptions = {}) {
    this.size = size ?? DECODERS
    this.program =
      program ?? new URL(import.meta.url.endsWith('.ts') ? './decoder.ts' : './decoder.js', import.meta.url)
  }

  /**
   * The frames of a clip. Once the signal aborts, its process is ended. @throws InputError as `readFrames` says; the
   * signal's reason
   */
  read(clip: Clip, options: ClipOptions, timeout: number, signal?: AbortSignal): Promise<RgbFrame[]> {
    return this.ask({ clip, options }, timeout, signal) as Promise<RgbFrame[]>
  }

  /** Opens a clip as {@link read} does, and decodes none of its frames but the first. @throws as {@link read} */
  async open(clip: Clip, options: ClipOptions, timeout: number, signal?: AbortSignal): Promise<void> {
    await this.ask({ clip, options, open: true }, timeout, signal)
  }

  /**
   * The hash of a video's content, undefined where only one that is recorded is asked for. @throws as {@link read}, and
   * as `contentHash`
   */
  hash(
    video: string,
    timeout: number,
    signal?: AbortSignal,
    recording?: Recording | undefined,
  ): Promise<string | undefined> {
    return this.ask({ hash: video, recording }, timeout, signal) as Promise<string | undefined>
  }

  private async ask(request: Request, timeout: number, signal?: AbortSignal): Promise<RgbFrame[] | string | undefined> {
    if (!(timeout > 0)) throw invalid('timeout', 'seconds above 0', timeout)
    signal?.throwIfAborted()
    let stop: (() => void) | undefined
    try {
      return await new Promise((resolve, reject) => {
        const job: Job = { request, timeout, resolve, reject }
        stop = () => {
          reject(signal!.reason as Error)
          const at = this.waiting.indexOf(job)
          if (at >= 0) this.waiting.splice(at, 1)
          else for (const decoder of this.all) if (decoder.has(job)) decoder.kill()
        }
        signal?.addEventListener('abort', stop)
        this.waiting.push(job)
        this.next()
      })
    } finally {
      if (stop) signal?.removeEventListener('abort', stop)
    }
  }

  /** Ends all processes; pending clips are rejected. */
  close(): void {
    for (const decoder of this.all) decoder.kill()
  }

  private next(): void {
    while (this.waiting.length) {
      let decoder = [...this.all].find((d) => d.idle)
      if (!decoder) {
        if (this.all.size >= this.size) return
        decoder = new Decoder(this.program, {
          idle: (rss) => {
            this.rss = Math.max(this.rss, rss)
            this.next()
          },
          gone: (one, busy) => {
            this.all.delete(one)
            if (busy) this.lost++
            this.next()
          },
        })
        this.all.add(decoder)
      }
      decoder.take(this.waiting.shift()!)
    }
  }
}

interface Listener {
  idle(rss: number): void
  gone(decoder: Decoder, busy: boolean): void
}

/** One process, with at most one clip at a time. */
class Decoder {
  private readonly child: ChildProcess
  private readonly pipe: Socket
  private job: Job | undefined
  private ready = false
  private gone = false
  private timer: NodeJS.Timeout | undefined
  private complaint = '' // what it printed last
  private line: Buffer[] = [] // of the reply that is arriving
  private reply: Reply | undefined
  private pictures: Uint8Array[] = []
  private filled = { picture: 0, bytes: 0 }

  constructor(
    program: URL,
    private readonly listener: Listener,
  ) {
    const path = fileURLToPath(program)
    // When run from source, the child loads TypeScript as this process does.
    const loader = path.endsWith('.ts')
      ? ['--import', pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href]
      : []
    this.child = spawn(process.execPath, [...loader, path], {
      stdio: ['pipe', 'ignore', 'pipe', 'pipe'],
      windowsHide: true,
    })
    this.pipe = this.child.stdio[3] as Socket
    this.pipe.on('data', (chunk: Buffer) => this.receive(chunk))
    this.child.stderr!.on('data', (chunk: Buffer) => (this.complaint = (this.complaint + chunk).slice(-500)))
    // the exit handler reports more
    for (const stream of [this.child.stdin!, this.child.stderr!, this.pipe]) stream.on('error', () => {})
    this.child.on('error', (error) => this.end(error.message))
    this.child.on('close', (code, signal) => this.end(signal ?? `code ${code}`))
    this.limit(START)
  }

  get idle(): boolean {
    return !this.job && !this.gone
  }

  has(job: Job): boolean {
    return this.job === job
  }

  take(job: Job): void {
    this.job = job
    this.hold(true)
    if (this.ready) this.send()
  }

  kill(): void {
    this.child.kill('SIGKILL')
    this.end('SIGKILL')
  }

  private send(): void {
    const { request, timeout } = this.job!
    this.limit(timeout)
    this.child.stdin!.write(`${JSON.stringify(request)}\n`)
  }

  private limit(time: number): void {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => {
      const { job } = this
      const error = !this.ready
        ? new InputError(`decoding: its process did not start within ${seconds(time)}; the machine may be overloaded.`)
        : job &&
          invalid(
            videoOf(job),
            `its ${'hash' in job.request ? 'bytes' : 'frames'} within ${seconds(time)}`,
            new Error('none'),
            'the file is damaged, or its disk does not answer; leave the clip out, or raise the limit (data.timeout of a configuration, --timeout of a command)',
          )
      this.child.kill('SIGKILL')
      this.end('SIGKILL', error)
    }, 1000 * Math.min(time, FOREVER))
  }

  /** An idle process does not keep this one alive. */
  private hold(busy: boolean): void {
    const way = busy ? 'ref' : 'unref'
    for (const stream of [this.child.stdin, this.child.stderr, this.pipe] as Socket[]) stream[way]()
    this.child[way]()
    if (!busy) clearTimeout(this.timer)
  }

  private end(how: string, error?: Error): void {
    if (this.gone) return
    this.gone = true
    this.hold(false)
    for (const stream of [this.child.stdin, this.child.stderr, this.pipe] as Socket[]) stream.destroy()
    const { job } = this
    this.job = undefined
    const says = this.complaint.trim().split('\n').at(-1)
    job?.reject(
      error ??
        (this.ready
          ? invalid(
              videoOf(job),
              'a video that can be decoded',
              new Error(`a decoder that crashed (${how}${says ? `: ${says}` : ''})`),
              'the file is damaged, or memory ran out',
            )
          : new InputError(
              `decoding: its process did not start (${how}${says ? `: ${says}` : ''}); check that node-av is installed.`,
            )),
    )
    this.listener.gone(this, job !== undefined)
  }

  private receive(chunk: Buffer): void {
    while (chunk.length && !this.gone) {
      if (!this.reply) {
        const at = chunk.indexOf(10)
        this.line.push(at < 0 ? chunk : chunk.subarray(0, at))
        if (at < 0) return
        chunk = chunk.subarray(at + 1)
        this.reply = JSON.parse(Buffer.concat(this.line).toString()) as Reply
        this.line = []
        this.pictures =
          'pictures' in this.reply
            ? this.reply.pictures.map(({ width, height }) => new Uint8Array(3 * width * height))
            : []
        this.filled = { picture: 0, bytes: 0 }
      }
      for (let to: Uint8Array | undefined; chunk.length && (to = this.pictures[this.filled.picture]); ) {
        const part = chunk.subarray(0, to.length - this.filled.bytes)
        to.set(part, this.filled.bytes)
        chunk = chunk.subarray(part.length)
        this.filled.bytes += part.length
        if (this.filled.bytes === to.length) this.filled = { picture: this.filled.picture + 1, bytes: 0 }
      }
      if (this.filled.picture === this.pictures.length) this.finish()
    }
  }

  private finish(): void {
    const { reply, pictures, job } = this
    this.reply = undefined
    this.pictures = []
    if ('ready' in reply!) {
      this.ready = true
      if (job) this.send()
      else this.hold(false)
      return
    }
    this.job = undefined
    this.hold(false)
    if ('error' in reply!) job!.reject(reply.input ? new InputError(reply.error) : new Error(reply.error))
    else if (!('pictures' in reply!)) job!.resolve(reply!.hash)
    else {
      const frames = reply!.pictures.map((picture, i) => ({ data: pictures[i]!, ...picture }))
      job!.resolve(reply!.order.map((i) => frames[i]!))
    }
    if (reply!.rss > MOST_MEMORY) this.kill()
    this.listener.idle(reply!.rss)
  }
}
