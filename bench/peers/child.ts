/**
 * A process that answers requests, one line of JSON each, in the order in which they were asked. It ends when its stdin
 * closes.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { createInterface } from 'node:readline'
import { show } from '../../lib/errors.js'

export type Reply = Record<string, any>

export class Child {
  private readonly process: ChildProcessWithoutNullStreams
  private queue: Promise<unknown> = Promise.resolve()
  private waiting: ((reply: Reply) => void) | undefined
  private readonly closed: Promise<void>
  private lastError = ''
  /** Why it no longer answers. */
  private dead: string | undefined
  /** Its first line, when it has started. */
  readonly greeting: Promise<Reply>

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv, startMs: number) {
    this.process = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
    this.process.stdin.on('error', () => {}) // it has ended: handled by `close`
    createInterface(this.process.stdout).on('line', (line) => this.answer(line))
    createInterface(this.process.stderr).on('line', (line) => {
      if (/error|killed|fatal/i.test(line) || !this.lastError) this.lastError = line.trim()
    })
    this.process.on('error', (error) => this.end(error.message))
    this.closed = new Promise((resolve) =>
      this.process.on('close', (code, signal) => {
        this.end(`it ended (${signal ?? `exit status ${code}`})${this.lastError && `: ${this.lastError}`}`)
        resolve()
      }),
    )
    this.greeting = this.turn(() => {}, startMs)
  }

  /**
   * Its answer; {unavailable} with the reason where it has ended, answers something else than a JSON object, or exceeds
   * the time limit.
   */
  ask(request: object, timeoutMs: number): Promise<Reply> {
    return this.turn(() => {
      if (!this.dead) this.process.stdin.write(`${JSON.stringify(request)}\n`)
    }, timeoutMs)
  }

  async close(): Promise<void> {
    await this.queue
    this.process.stdin.end()
    const late = setTimeout(() => this.process.kill('SIGKILL'), 5000)
    await this.closed
    clearTimeout(late)
  }

  private turn(start: () => void, timeoutMs: number): Promise<Reply> {
    const mine = this.queue.then(
      () =>
        new Promise<Reply>((resolve) => {
          start()
          if (this.dead) return resolve({ unavailable: this.dead })
          const timer = setTimeout(() => this.fail(`it did not answer within ${timeoutMs / 1000} seconds`), timeoutMs)
          this.waiting = (reply) => {
            clearTimeout(timer)
            this.waiting = undefined
            resolve(reply)
          }
        }),
    )
    this.queue = mine
    return mine
  }

  private answer(line: string): void {
    if (this.dead) return
    let reply: unknown
    try {
      reply = JSON.parse(line)
    } catch {}
    if (!this.waiting || typeof reply !== 'object' || reply === null || Array.isArray(reply))
      return this.fail(`it answered ${show(line)}`)
    this.waiting(reply)
  }

  private fail(why: string): void {
    this.end(why)
    this.process.kill('SIGKILL')
  }

  private end(why: string): void {
    this.dead ??= why
    this.waiting?.({ unavailable: this.dead })
  }
}
