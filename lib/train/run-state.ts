/** How far a run is. */
import type { EpochEvent } from './events.js'
import type { Progress } from './state.js'
import type { StepResult } from './trainer.js'

/** How far a run is: saved whole, and restored as it was. */
export class RunState {
  /** Epochs that are complete; steps of the next one that are done, and over those the sums of losses and tokens. */
  epoch = 0
  position = 0
  loss = 0
  tokens = 0
  /** Optimiser steps so far; steps in a row, up to the last one, that were not finite. */
  step = 0
  bad = 0
  /** The epochs that are complete. */
  epochs: EpochEvent[] = []

  /** Counts a step. */
  stepped({ loss, tokens, bad }: StepResult): void {
    this.step++
    this.position++
    if (bad === undefined) {
      this.loss += loss * tokens
      this.tokens += tokens
    }
    this.bad = bad === undefined ? 0 : this.bad + 1
  }

  /** Mean loss per answer token of the epoch so far; NaN where no step was finite. */
  get meanLoss(): number {
    return this.tokens ? this.loss / this.tokens : NaN
  }

  /** Completes the epoch. It is the best so far by accuracy, or by loss where there is none. */
  finished(about: Omit<EpochEvent, 'best'>): EpochEvent {
    const event = { ...about, best: score(about) > Math.max(-Infinity, ...this.epochs.map(score)) }
    Object.assign(this, { epoch: about.epoch, position: 0, loss: 0, tokens: 0 })
    this.epochs.push(event)
    return event
  }

  /** What is saved. */
  get progress(): Progress {
    return { ...(this as RunState) }
  }
  /** Takes over what was saved. */
  restore(progress: Progress): void {
    const { epoch, position, loss, tokens, step, bad = 0, epochs } = progress as Progress & RunState
    Object.assign(this, { epoch, position, loss, tokens, step, bad, epochs })
  }
}

function score({ accuracy, loss, notFinite }: Omit<EpochEvent, 'best'>): number {
  return Number.isFinite(loss) && notFinite === undefined ? (accuracy ?? -loss) : -Infinity
}
