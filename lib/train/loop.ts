/** A training run: epochs, validation, saving, and early ends that lose nothing. */
import { existsSync } from 'node:fs'
import { appendFile, mkdir, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { Adapter } from '../adapter/adapter.js'
import { readMasks } from '../adapter/read-masks.js'
import type { AdapterMeta } from '../adapter/save.js'
import { countGroups, type GroupCount } from '../adapter/parameters.js'
import { clipKey } from '../data/frames.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { InputError, invalid } from '../errors.js'
import { openModel, type Model } from '../session/model.js'
import { accuracy, predictSamples, type Prediction } from '../eval/evaluate.js'
import { Features } from '../session/features.js'
import { encode } from '../session/encode.js'
import { firstNotFinite, NotFiniteError } from '../session/finite.js'
import type { Precision } from '../tensor/dtype.js'
import type { DeviceChoice } from '../tensor/device.js'
import type { Profile } from '../tensor/profile.js'
import { checkOutput, hasState, loadState, saveBest, saveState } from './state.js'
import { AdamW } from './optimizer.js'
import { StepProfile } from './profile.js'
import { chunks, rateFactor, shuffled } from './schedule.js'
import { Trainer, type StepResult } from './trainer.js'
import type { TrainConfig } from './config.js'
import { Watch } from './watch.js'

/** An optimiser step: its results and its place in the run. */
export interface StepEvent extends StepResult {
  epoch: number
  /** Optimiser steps so far, and of the whole run. */
  step: number
  steps: number
  /** Factor on the learning rates. */
  factor: number
}

/** The end of an epoch. */
export interface EpochEvent {
  epoch: number
  /** Mean training loss per answer token, over the steps that were finite; NaN where none was. */
  loss: number
  /** Share of right answers on the validation manifest. */
  accuracy?: number
  tasks?: Record<string, number>
  /** Whether this is the best epoch so far; never one without a step that was finite. */
  best: boolean
  /** A trained tensor that was not finite at the end of the epoch; earlier saved states are kept. */
  notFinite?: string
}

/** Listeners; all are optional, and what they throw ends the run. */
export interface TrainEvents {
  /** Called once, before the first step: trained parameters by group, samples, and optimiser steps of the whole run. */
  onStart?(start: { counts: GroupCount[]; samples: number; steps: number; model: Model; adapter: Adapter }): void
  /** Called while the features of all clips are computed or read. */
  onFeatures?(done: number, total: number): void
  /** Called after each optimiser step. */
  onStep?(event: StepEvent): void
  /** Called after each epoch, its validation included. */
  onEpoch?(event: EpochEvent): void
  /**
   * Called with the profile of steps 3 to 12, or of the first epoch where it has fewer steps. Recorded only for this
   * listener. On a CUDA device, graphs hide operators: see {@link TrainOptions.graphs}. The run waits for the promise.
   */
  onProfile?(profile: Profile): void | Promise<void>
}

/** Options of a run that do not change its result, beside {@link TrainConfig}. */
export interface TrainOptions extends TrainEvents {
  /** Stops the run after the current step; the adapter is saved, and `train` rejects with the signal's reason. */
  signal?: AbortSignal | undefined
  /** Resumes the run whose state is in `config.output`. */
  resume?: boolean
  /** Where to compute, default the CPU, and what activations are stored in, default float32: of {@link openModel}. */
  device?: DeviceChoice | undefined
  precision?: Precision | undefined
  /** On a CUDA device, whether steps of training and of answers are launched as graphs. Default: true. */
  graphs?: boolean | undefined
  /** An open model to use instead of opening `config.model`; its own adapter plays no part, and the caller frees it. */
  model?: Model | undefined
}

/** The result of a finished run. */
export interface TrainResult {
  epochs: EpochEvent[]
  /** Folders of the adapters. */
  best: string
  last: string
}

/**
 * Trains an adapter as `config` says and writes to `config.output`: `last/` and `best/` (adapters), `metrics.jsonl`. A
 * run that ends early saves its state in `last/`.
 *
 * @throws InputError for anything wrong with configuration, model or data, before the first step; when
 *   `train.maxBadSteps` steps in a row were not finite; and when not one step of the run was
 */
export async function train(config: TrainConfig, options: TrainOptions = {}): Promise<TrainResult> {
  const samples = await readManifest(config.data.train)
  const validation = config.data.val === undefined ? undefined : await readManifest(config.data.val)
  const model =
    options.model ?? (await openModel(config.model, { device: options.device, precision: options.precision }))
  try {
    const { seed } = config.train
    const { model: image } = model.checkpoint
    const adapter = new Adapter(image.config, config.adapter, {
      seed,
      device: image.device,
      masks: await readMasks(config.adapter, '.', { queries: image.config.numQueryTokens }),
    })
    try {
      return await new Run(config, options, model, adapter, samples, validation).run()
    } finally {
      adapter.dispose()
    }
  } finally {
    if (!options.model) model.dispose()
  }
}

/** After this many bad clips the run ends. */
const MANY = 10

class Run {
  private readonly features: Features
  private readonly optimizer: AdamW
  private readonly trainer: Trainer
  private readonly profile: StepProfile | undefined
  private readonly epochs: EpochEvent[] = []
  private watch: Watch | undefined
  /** What the run waits for, for the watchdog's message. */
  private at = 'the start'
  private step = 0
  /** Bad steps in a row. */
  private bad = 0
  /** Optimiser steps that are saved in `last/`. */
  private saved = 0
  /** Of the frozen weights: the first that is not finite, or none; unknown until a step was bad. */
  private badWeight: Promise<string | undefined> | undefined
  /** The reason of the last bad step, and what to do. */
  private blame = { bad: 'a step before it was stopped', remedy: 'lower train.lr or set train.clip' }
  /** The run's place in the data: complete epochs, steps of the current one, and their sums. */
  private progress = { epoch: 0, position: 0, loss: 0, tokens: 0 }

  constructor(
    private readonly config: TrainConfig,
    private readonly options: TrainOptions,
    private readonly model: Model,
    private readonly adapter: Adapter,
    private readonly samples: Sample[],
    private readonly validation: Sample[] | undefined,
  ) {
    const { data, train: t } = config
    const { checkpoint } = model
    this.features = new Features(checkpoint, {
      frames: adapter.config.frames,
      sampling: data.sampling,
      timeout: data.timeout,
      cache: data.cache,
    })
    const trained = adapter.trained()
    const lr =
      typeof t.lr === 'number'
        ? t.lr
        : Object.fromEntries(Object.entries(t.lr).filter((e): e is [string, number] => e[1] !== undefined))
    this.optimizer = new AdamW(
      trained.map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
      { lr, betas: t.betas, eps: t.eps, weightDecay: t.weightDecay, clip: t.clip },
    )
    this.trainer = new Trainer(checkpoint, adapter, this.features, this.optimizer, { graphs: options.graphs })
    if (options.onProfile) this.profile = new StepProfile((p) => options.onProfile!(p))
  }

  private get out(): { last: string; best: string; metrics: string } {
    const at = (name: string): string => join(this.config.output, name)
    return { last: at('last'), best: at('best'), metrics: at('metrics.jsonl') }
  }

  async run(): Promise<TrainResult> {
    try {
      return await this.begin()
    } finally {
      this.trainer.dispose()
      this.optimizer.dispose()
    }
  }

  private async begin(): Promise<TrainResult> {
    const { train: t, output } = this.config
    if (this.options.resume) await this.restore()
    else if (await hasState(output))
      throw new InputError(`output: ${output} holds a run already; go on with it (--resume), or choose another folder.`)
    await checkOutput(output)
    try {
      await mkdir(output, { recursive: true })
      if (!this.options.resume) await writeFile(this.out.metrics, '')
    } catch (error) {
      throw invalid('output', 'a folder that can be written', error, `choose another than ${output}`)
    }
    this.checkTexts()
    const perEpoch = Math.ceil(Math.ceil(this.samples.length / t.batch) / t.accumulation)
    const steps = perEpoch * t.epochs
    this.options.onStart?.({
      counts: countGroups(this.adapter.trained()),
      samples: this.samples.length,
      steps,
      model: this.model,
      adapter: this.adapter,
    })
    this.watch = new Watch(() => this.at)
    try {
      await this.prepare()
      while (this.progress.epoch < t.epochs) await this.epoch(this.progress.epoch + 1, steps)
      return await this.result()
    } catch (error) {
      throw await this.rescued(error)
    } finally {
      this.watch.stop()
    }
  }

  /** Fails where no step was finite, or nothing was saved. */
  private async result(): Promise<TrainResult> {
    const { best, last } = this.out
    if (this.optimizer.steps === 0) {
      throw new InputError(
        `training: none of the ${this.step} steps was finite, the last because of ${this.blame.bad}, so nothing was learned; ${this.blame.remedy}.`,
      )
    }
    const gone = [best, last].find((folder) => !existsSync(folder))
    if (gone !== undefined)
      throw new InputError(
        `training: finished, but ${gone} does not exist; it was removed during the run, or its adapter was never finite.`,
      )
    return { epochs: this.epochs, best, last }
  }

  /** What ends the run, once what was learned since the last save is saved; a saved place is named in the message. */
  private async rescued(error: unknown): Promise<unknown> {
    const { steps } = this.optimizer
    const stopped = this.options.signal?.aborted === true
    if (steps === this.saved && !(stopped && this.step > 0)) return error
    let outcome: string
    try {
      const bad = await this.save()
      outcome =
        bad === undefined
          ? `what was learned in ${steps} steps is in ${this.out.last}, and --resume goes on from there`
          : `what was saved before stays, since ${bad} is not finite`
    } catch (second) {
      if ((second as Error).message === (error as Error).message) return error
      outcome = `what was learned could not be saved: ${(second as Error).message.replace(/\.$/, '')}`
    }
    if (stopped || !(error instanceof InputError)) return error
    return new InputError(`${error.message.replace(/\.$/, '')}; ${outcome}.`, { cause: error })
  }

  /** Encodes every text of training and validation, so that one that does not fit is found before the first step. */
  private checkTexts(): void {
    const {
      model: { checkpoint },
      adapter: { config },
    } = this
    for (const sample of this.samples) encode(checkpoint, config, sample)
    for (const sample of this.validation ?? [])
      for (const answer of sample.choices ?? [undefined]) encode(checkpoint, config, sample, answer)
  }

  /** Computes the features of every clip. Bad clips are collected and reported together; too many end it. */
  private async prepare(): Promise<void> {
    const all = [...this.samples, ...(this.validation ?? [])]
    const clips = new Map(all.map((s) => [clipKey(s), s]))
    const bad: InputError[] = []
    let done = 0
    for (const clip of clips.values()) {
      if (bad.length === MANY) break
      this.options.signal?.throwIfAborted()
      this.at = `clip ${done + 1} of ${clips.size}, ${clip.video}`
      try {
        await this.features.of(clip)
      } catch (error) {
        if (!(error instanceof InputError) || error instanceof NotFiniteError) throw error
        bad.push(error)
      }
      done++
      this.watch?.ended()
      this.options.onFeatures?.(done, clips.size)
    }
    if (bad.length === 1) throw bad[0]!
    const seen = done === clips.size ? `${done}` : `the first ${done} of ${clips.size}`
    if (bad.length)
      throw new InputError(
        `data: ${bad.length} of ${seen} clips cannot be used: ${bad.map((e) => e.message.replace(/\.$/, '')).join('; ')}.`,
      )
  }

  private async epoch(epoch: number, steps: number): Promise<void> {
    const { train: t } = this.config
    const order = shuffled(this.samples.length, t.seed, epoch).map((i) => this.samples[i]!)
    const todo = chunks(chunks(order, t.batch), t.accumulation).slice(this.progress.position)
    try {
      for (const [i, microBatches] of todo.entries()) {
        this.options.signal?.throwIfAborted()
        this.profile?.before(i, todo.length)
        this.at = `step ${this.step + 1} of ${steps}`
        const factor = rateFactor(this.step, steps, t.warmup, t.schedule)
        const result = await this.explained(await this.trainer.step(microBatches, factor), microBatches)
        this.watch?.ended()
        this.step++
        this.progress.position++
        if (result.bad === undefined) {
          this.progress.loss += result.loss * result.tokens
          this.progress.tokens += result.tokens
        }
        this.bad = result.bad === undefined ? 0 : this.bad + 1
        const event = { ...result, epoch, step: this.step, steps, factor }
        await this.log({ kind: 'step', ...event })
        this.options.onStep?.(event)
        if (this.bad >= t.maxBadSteps) {
          throw new InputError(
            `training: ${this.bad} steps in a row were not finite, the last because of ${this.blame.bad}; ${this.blame.remedy}.`,
          )
        }
        await this.profile?.after(i)
      }
    } finally {
      await this.profile?.stop()
    }
    const { loss, tokens } = this.progress
    await this.finish(epoch, tokens ? loss / tokens : NaN)
  }

  /** Finds whether a bad step is due to a frozen weight or to the samples. */
  private async explained(result: StepResult, microBatches: readonly (readonly Sample[])[]): Promise<StepResult> {
    if (result.bad === undefined) return result
    let { bad } = result
    if (!this.adapter.parameters.has(bad)) {
      const weight = await (this.badWeight ??= firstNotFinite(this.model.checkpoint.model.weights))
      const ids = microBatches.flat().map((s) => JSON.stringify(s.id))
      if (weight === undefined) bad = `${bad} (samples ${ids.slice(0, 4).join(', ')}${ids.length > 4 ? ', …' : ''})`
      else
        [bad, this.blame.remedy] = [
          `the weight ${weight}`,
          'it holds a NaN or an infinity: the checkpoint is damaged, fetch it again',
        ]
    }
    this.blame.bad = bad
    return { ...result, bad }
  }

  /** Validates, unless no step of the epoch was finite. */
  private async finish(epoch: number, loss: number): Promise<void> {
    const notFinite = await firstNotFinite(this.adapter.parameters)
    const scored =
      notFinite === undefined && Number.isFinite(loss) && this.validation
        ? accuracy(await this.predictions(this.validation))
        : undefined
    const score = (e: Pick<EpochEvent, 'accuracy' | 'loss' | 'notFinite'>): number =>
      Number.isFinite(e.loss) && e.notFinite === undefined ? (e.accuracy ?? -e.loss) : -Infinity
    const about = {
      epoch,
      loss,
      ...(notFinite !== undefined && { notFinite }),
      ...(scored && {
        accuracy: scored.overall.accuracy,
        tasks: Object.fromEntries(Object.entries(scored.tasks).map(([k, v]) => [k, v.accuracy])),
      }),
    }
    const event: EpochEvent = { ...about, best: score(about) > Math.max(-Infinity, ...this.epochs.map(score)) }
    // Complete only now: a run that is stopped during validation repeats it when it resumes.
    this.progress = { epoch, position: 0, loss: 0, tokens: 0 }
    this.epochs.push(event)
    await this.log({ kind: 'epoch', ...event })
    if (event.best) await saveBest(this.config.output, this.adapter, this.meta(event))
    await this.save()
    this.options.onEpoch?.(event)
  }

  private async predictions(samples: readonly Sample[]): Promise<Prediction[]> {
    const all: Prediction[] = []
    this.at = `the validation after step ${this.step}`
    for await (const p of predictSamples(this.model.checkpoint, this.features, samples, {
      adapter: this.adapter,
      graphs: this.options.graphs,
      signal: this.options.signal,
    })) {
      all.push(p)
      this.watch?.ended()
    }
    return all
  }

  private meta(info: object = {}): AdapterMeta {
    return {
      fingerprint: this.model.checkpoint.fingerprint,
      base: basename(resolve(this.model.checkpoint.folder)),
      info: { step: this.step, seed: this.config.train.seed, ...info },
    }
  }

  /** The part of the configuration that must not change between stop and resume. Folders may move. */
  private get unchanging(): object {
    const { train, adapter, data } = this.config
    return { train, adapter, sampling: data.sampling, samples: this.samples.map((s) => s.id) }
  }

  /** Saves the run. A state that is not finite is not saved; the name of the trained tensor is returned. */
  private async save(): Promise<string | undefined> {
    const { adapter, optimizer, progress, step, bad, epochs } = this
    const culprit = (await hasState(this.config.output)) ? await firstNotFinite(adapter.parameters) : undefined
    if (culprit !== undefined) return culprit
    const { steps } = optimizer
    await saveState(
      this.config.output,
      {
        adapter,
        optimizer,
        progress: { ...progress, step, bad, epochs },
        random: { seed: this.config.train.seed },
        config: this.unchanging,
      },
      this.meta(),
    )
    this.saved = steps
    return undefined
  }

  private async restore(): Promise<void> {
    const { adapter, optimizer } = this
    const { progress } = await loadState(this.config.output, {
      adapter,
      optimizer,
      config: this.unchanging,
      base: this.model.checkpoint,
    })
    const {
      epoch,
      position,
      loss,
      tokens,
      step,
      bad = 0,
      epochs,
    } = progress as typeof this.progress & { step: number; bad?: number; epochs: EpochEvent[] }
    this.progress = { epoch, position, loss, tokens }
    this.step = step
    this.bad = bad
    this.saved = optimizer.steps
    this.epochs.push(...epochs)
  }

  private async log(entry: object): Promise<void> {
    try {
      await appendFile(this.out.metrics, `${JSON.stringify(entry)}\n`)
    } catch (error) {
      throw invalid(
        this.out.metrics,
        'a file that can be written',
        error,
        'free space on the disk, or choose another output',
      )
    }
  }
}
