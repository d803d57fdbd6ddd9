/** What a run tells its listeners, and its options. */
import type { Adapter } from '../adapter/adapter.js'
import type { GroupCount } from '../adapter/parameters.js'
import type { Ranks } from '../ranks/ranks.js'
import type { Model } from '../session/model.js'
import type { LoadOptions } from '../session/checkpoint.js'
import type { Profile } from '../tensor/profile.js'
import type { Place } from './bad-steps.js'
import type { StepResult } from './trainer.js'

/** An optimiser step: its results and its place in the run. */
export interface StepEvent extends StepResult {
  epoch: number
  /** Optimiser steps so far, and of the whole run. */
  step: number
  steps: number
  /** Factor on the learning rates. */
  factor: number
  /** The learning rate; the first group's where there are several. */
  lr: number
  /** Seconds that the step took; answer tokens per second; the share of the time that it waited for data. */
  seconds: number
  tokensPerSecond: number
  waiting: number
  /** Clips whose features arrived during the step, for later ones. */
  ahead: number
  /** Bytes of native memory in use, of the device that computes. */
  memory: number
  /** Of a step that was skipped, where a layer's output is not finite: the first such layer, and its sample. */
  place?: Place
  /** Set where the loss stands out from those before: its robust z-score, and the ids of the samples. */
  spike?: number
  samples?: string[]
}

/** What a validation found. */
export interface Validation {
  /** Share of right answers on the validation manifest. */
  accuracy?: number
  tasks?: Record<string, number>
  /** Mean loss per answer token of the validation samples; computed where `train.metric` asks for it. */
  valLoss?: number
  /** A trained tensor that was not finite; earlier saved states are kept. */
  notFinite?: string
}

/** A validation within an epoch, by `train.evalEvery`. */
export interface ValidationEvent extends Validation {
  epoch: number
  step: number
  /** Mean training loss per answer token of the epoch so far. */
  loss: number
  /** Whether this is the best so far. */
  best: boolean
}

/** The end of an epoch. */
export interface EpochEvent extends Validation {
  epoch: number
  /** Mean training loss per answer token, over the steps that were finite; NaN where none was. */
  loss: number
  /** Whether this is the best so far; never an epoch without a step that was finite. */
  best: boolean
}

/** Listeners; all are optional, and what they throw ends the run. */
export interface TrainEvents {
  /** Called once, before the first step: trained parameters by group, samples, and optimiser steps of the whole run. */
  onStart?(start: { counts: GroupCount[]; samples: number; steps: number; model: Model; adapter: Adapter }): void
  /** Called while clips are looked at before the first step: those without features in the cache are opened. */
  onFeatures?(done: number, total: number): void
  /** Called after each optimiser step. */
  onStep?(event: StepEvent): void
  /** Called after each validation within an epoch. */
  onValidation?(event: ValidationEvent): void
  /** Called after each epoch, its validation included. */
  onEpoch?(event: EpochEvent): void
  /**
   * Called with one sentence about something that does not end the run: a clip that is left out, a save or a log that
   * failed, and that it works again. Default: the error stream.
   */
  onNotice?(sentence: string): void
  /**
   * Called with the profile of steps 3 to 12, or of the first epoch where it has fewer steps. Recorded only for this
   * listener. On a CUDA device, graphs hide operators: see {@link TrainOptions.graphs}. The run waits for the promise.
   */
  onProfile?(profile: Profile): void | Promise<void>
}

/**
 * Options of a run beside {@link TrainConfig}; those of {@link openModel} say where it computes, in which precision,
 * and how weights are held.
 */
export interface TrainOptions extends TrainEvents, LoadOptions {
  /** Stops the run after the current step; the adapter is saved, and `train` rejects with the signal's reason. */
  signal?: AbortSignal | undefined
  /** Resumes the run whose state is in `config.output`: its last save, or the one of this name, such as `step-120`. */
  resume?: boolean | string
  /** With `resume`: `train.epochs` may be more than it was. */
  extend?: boolean
  /** With `resume`: the run may be computed by another number of {@link ranks} than before. */
  rescale?: boolean
  /**
   * The processes that compute this run together: each calls `train` with the same configuration and computes its share
   * of every batch. The first one writes files and calls listeners. Default: this process alone.
   */
  ranks?: Ranks | undefined
  /** On a CUDA device, whether steps of training and of answers are launched as graphs. Default: true. */
  graphs?: boolean | undefined
  /**
   * Most bytes of features that are computed ahead of the steps that need them. Default: 256 MiB; 0: none are. Results
   * do not depend on it.
   */
  ahead?: number | undefined
  /** Whether the cache takes a video for unchanged only where its content is, which reads all of it, once. */
  verify?: boolean | undefined
  /** An open model to use instead of opening `config.model`; its own adapter plays no part, and the caller frees it. */
  model?: Model | undefined
}

/** The result of a finished run. */
export interface TrainResult {
  epochs: EpochEvent[]
  /** Whether the run ended before its last epoch, since `train.patience` validations brought no new best. */
  early: boolean
  /** Samples that were left out, since their clip cannot be used. */
  skipped: string[]
  /** Folders of the adapters. */
  best: string
  last: string
}
