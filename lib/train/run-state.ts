/** How far a run is. */
import type { TrainConfig } from './config.js'
import type { EpochEvent, Validation } from './events.js'
import { spike } from './spikes.js'
import type { Progress } from './state.js'
import type { StepResult } from './trainer.js'

/** What a validation is judged by: {@link Validation} and the mean training loss. */
type Scored = Validation & { loss: number }

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
  /** The best score so far; validations since then. */
  best = -Infinity
  sinceBest = 0
  /** The step of the last validation within an epoch. */
  validated = 0
  /** Losses of the last steps, which those of the next ones are compared with. */
  recent: number[] = []
  /** Ids of samples that were left out before the first step, since their clips cannot be used. */
  skipped: string[] = []
  /** Ids of those that are left out since a step, or a validation, found that: their batches are smaller. */
  lost: { train: string[]; validation: string[] } = { train: [], validation: [] }

  /** @param metric what the best is chosen by */
  constructor(private readonly metric: TrainConfig['train']['metric']) {}

  /** Counts a step. The robust z-score of its loss where that is a spike. */
  stepped({ loss, tokens, bad }: StepResult): number | undefined {
    this.step++
    this.position++
    this.bad = bad === undefined ? 0 : this.bad + 1
    if (bad !== undefined) return undefined
    this.loss += loss * tokens
    this.tokens += tokens
    return spike(loss, this.recent)
  }

  /** Counts a step of which no sample is left. */
  passed(): void {
    this.step++
    this.position++
  }

  /** Mean loss per answer token of the epoch so far; NaN where no step was finite. */
  get meanLoss(): number {
    return this.tokens ? this.loss / this.tokens : NaN
  }

  /** Takes a validation into account; whether it is the best so far. */
  private judged(about: Scored): boolean {
    const score = scored(about, this.metric)
    const best = score > this.best
    if (best) this.best = score
    this.sinceBest = best ? 0 : this.sinceBest + 1
    return best
  }

  /** Completes a validation within an epoch. */
  checked<E extends Scored>(about: E): E & { best: boolean } {
    this.validated = this.step
    return { ...about, best: this.judged(about) }
  }

  /** Completes the epoch. */
  finished(about: Omit<EpochEvent, 'best'>): EpochEvent {
    const event = { ...about, best: this.judged(about) }
    Object.assign(this, { epoch: about.epoch, position: 0, loss: 0, tokens: 0 })
    this.epochs.push(event)
    return event
  }

  /** What is saved. */
  get progress(): Progress {
    const { metric, ...saved } = this as unknown as Record<string, unknown> & { metric: unknown }
    return saved as Progress
  }

  /** Takes over what was saved. Earlier versions saved no more than the epochs, of which the best follows. */
  restore(progress: Progress): void {
    const { epochs = [] } = progress as { epochs?: EpochEvent[] }
    const best = Math.max(-Infinity, ...epochs.map((e) => scored(e, this.metric)))
    const sinceBest = epochs.length - 1 - epochs.findLastIndex((e) => e.best)
    Object.assign(this, { bad: 0, best, sinceBest, ...progress })
  }
}

/** The score of a validation: higher is better, and -Infinity where something was not finite. */
function scored(about: Scored, metric: TrainConfig['train']['metric']): number {
  const { accuracy, tasks, valLoss, loss, notFinite } = about
  if (!Number.isFinite(loss) || notFinite !== undefined) return -Infinity
  if (metric === undefined) return accuracy ?? -loss
  if (metric === 'loss') return -loss
  if (metric === 'valLoss') return -(valLoss ?? Infinity)
  return (metric === 'accuracy' ? accuracy : tasks?.[metric.slice('accuracy:'.length)]) ?? -Infinity
}
