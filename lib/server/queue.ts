/** Whose turn it is: some at a time, a bounded number waiting, in order. */
import { performance } from 'node:perf_hooks'
import { Refusal } from './refusal.js'

/** A place in the queue; {@link leave} gives it back. */
export interface Place {
  /** Resolves when it is this one's turn. Rejects with the signal's reason; the place is to be left then too. */
  turn(signal: AbortSignal): Promise<void>
  /** Does nothing the second time. */
  leave(): void
}

interface Waiting {
  start(): void
}

export class Queue {
  /** Places that are taken. */
  #taken = 0
  #running = 0
  readonly #waiting: Waiting[] = []
  /** Mean seconds of a turn; of those that ended last the most. */
  #seconds = 1

  /**
   * @param most places beside those whose turn it is
   * @param parallel how many have their turn at the same time
   */
  constructor(
    readonly most: number,
    readonly parallel = 1,
  ) {}

  get running(): number {
    return this.#running
  }
  /** Those that hold a place and whose turn it is not yet. */
  get waiting(): number {
    return this.#taken - this.#running
  }

  /** Takes a place. @throws Refusal 429, with the seconds after which to try again, where all are taken */
  enter(): Place {
    if (this.#taken >= this.most + this.parallel) {
      const retryAfter = Math.max(1, Math.ceil((this.#seconds * this.#taken) / this.parallel))
      throw new Refusal(
        429,
        `The queue is full: ${this.#running} requests are being answered and ${this.waiting} wait; try again in ${retryAfter} s.`,
        { code: 'queue_full', retryAfter },
      )
    }
    this.#taken++
    let began: number | undefined
    let left = false
    return {
      turn: async (signal) => {
        signal.throwIfAborted()
        if (this.#running >= this.parallel) await this.#wait(signal)
        else this.#running++
        began = performance.now()
      },
      leave: () => {
        if (left) return
        left = true
        this.#taken--
        if (began === undefined) return
        this.#seconds += (Math.min(600, (performance.now() - began) / 1000) - this.#seconds) / 4
        this.#running--
        const next = this.#waiting.shift()
        if (next) {
          this.#running++
          next.start()
        }
      },
    }
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const gone = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
        reject(signal.reason as Error)
      }
      const waiting: Waiting = {
        start() {
          signal.removeEventListener('abort', gone)
          resolve()
        },
      }
      signal.addEventListener('abort', gone, { once: true })
      this.#waiting.push(waiting)
    })
  }
}
