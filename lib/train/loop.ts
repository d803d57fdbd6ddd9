/** A training run: everything checked first, then epochs of steps, each validated and saved. */
import { Adapter } from '../adapter/adapter.js'
import { readMasks } from '../adapter/read-masks.js'
import { countGroups } from '../adapter/parameters.js'
import { readManifest } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { openModel, type Model } from '../session/model.js'
import { accuracy, predictSamples, type Prediction } from '../eval/evaluate.js'
import { Features } from '../session/features.js'
import { firstNotFinite } from '../session/finite.js'
import { BadSteps } from './bad-steps.js'
import type { TrainConfig } from './config.js'
import type { EpochEvent, TrainOptions, TrainResult } from './events.js'
import { AdamW } from './optimizer.js'
import { checkTexts, computeFeatures, type Samples } from './prepare.js'
import { StepProfile } from './profile.js'
import { RunFolder } from './run-folder.js'
import { RunState } from './run-state.js'
import { chunks, rateFactor, shuffled } from './schedule.js'
import { Trainer } from './trainer.js'
import { Watch } from './watch.js'

export type * from './events.js'

/**
 * Trains an adapter as `config` says and writes to `config.output`: `last/` and `best/` (adapters), `metrics.jsonl`. A
 * run that ends early saves its state in `last/`.
 *
 * @throws InputError for anything wrong with configuration, model or data, before the first step; when
 *   `train.maxBadSteps` steps in a row were not finite; and when not one step of the run was
 */
export async function train(config: TrainConfig, options: TrainOptions = {}): Promise<TrainResult> {
  const { train, val } = config.data
  const samples = { train: await readManifest(train), validation: val === undefined ? [] : await readManifest(val) }
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
      return await new Run(config, options, model, adapter, samples).run()
    } finally {
      adapter.dispose()
    }
  } finally {
    if (!options.model) model.dispose()
  }
}

class Run {
  private readonly state = new RunState()
  private readonly features: Features
  private readonly optimizer: AdamW
  private readonly trainer: Trainer
  private readonly folder: RunFolder
  private readonly badSteps: BadSteps
  private readonly profile: StepProfile | undefined
  /** What the run waits for, for the watchdog's message. */
  private at = 'the start'
  private watch: Watch | undefined

  constructor(
    private readonly config: TrainConfig,
    private readonly options: TrainOptions,
    private readonly model: Model,
    private readonly adapter: Adapter,
    private readonly samples: Samples,
  ) {
    const { data, train: t } = config
    const { checkpoint } = model
    this.features = new Features(checkpoint, {
      frames: adapter.config.frames,
      sampling: data.sampling,
      timeout: data.timeout,
      cache: data.cache,
    })
    const lr =
      typeof t.lr === 'number'
        ? t.lr
        : Object.fromEntries(Object.entries(t.lr).filter((e): e is [string, number] => e[1] !== undefined))
    this.optimizer = new AdamW(
      adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
      { lr, betas: t.betas, eps: t.eps, weightDecay: t.weightDecay, clip: t.clip },
    )
    const { state, optimizer } = this
    this.trainer = new Trainer(checkpoint, adapter, this.features, optimizer, { graphs: options.graphs })
    this.folder = new RunFolder(config, { checkpoint, adapter, optimizer, samples: samples.train, state })
    this.badSteps = new BadSteps(checkpoint.model, adapter)
    if (options.onProfile) this.profile = new StepProfile((p) => options.onProfile!(p))
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
    const {
      config: { train: t },
      options: { signal, resume = false },
      state,
      samples,
      adapter,
      model,
    } = this
    await this.folder.open(resume)
    checkTexts(model.checkpoint, adapter.config, samples)
    const steps = Math.ceil(Math.ceil(samples.train.length / t.batch) / t.accumulation) * t.epochs
    const counts = countGroups(adapter.trained())
    this.options.onStart?.({ counts, samples: samples.train.length, steps, model, adapter })
    const watch = new Watch(() => this.at)
    this.watch = watch
    try {
      const done = (ready: number, total: number): void => {
        watch.ended()
        this.options.onFeatures?.(ready, total)
      }
      await computeFeatures(this.features, samples, { at: (what) => (this.at = what), done }, signal)
      while (state.epoch < t.epochs) await this.epoch(state.epoch + 1, steps)
      return this.result()
    } catch (error) {
      throw await this.folder.rescued(error, signal?.aborted === true)
    } finally {
      watch.stop()
    }
  }

  /** Throws an InputError where no step was finite, or nothing was saved. */
  private result(): TrainResult {
    const { state, folder, badSteps } = this
    if (this.optimizer.steps === 0)
      throw new InputError(
        `training: none of the ${state.step} steps was finite, the last because of ${badSteps.reason}, so nothing was learned; ${badSteps.remedy}.`,
      )
    folder.checkSaved()
    return { epochs: state.epochs, best: folder.best, last: folder.last }
  }

  private async epoch(epoch: number, steps: number): Promise<void> {
    const { state, badSteps } = this
    const { train: t } = this.config
    const order = shuffled(this.samples.train.length, t.seed, epoch).map((i) => this.samples.train[i]!)
    const todo = chunks(chunks(order, t.batch), t.accumulation).slice(state.position)
    try {
      for (const [i, microBatches] of todo.entries()) {
        this.options.signal?.throwIfAborted()
        this.profile?.before(i, todo.length)
        this.at = `step ${state.step + 1} of ${steps}`
        const factor = rateFactor(state.step, steps, t.warmup, t.schedule)
        const result = await badSteps.explained(await this.trainer.step(microBatches, factor), microBatches)
        this.watch?.ended()
        state.stepped(result)
        const event = { ...result, epoch, step: state.step, steps, factor }
        await this.folder.log({ kind: 'step', ...event })
        this.options.onStep?.(event)
        if (state.bad >= t.maxBadSteps)
          throw new InputError(
            `training: ${state.bad} steps in a row were not finite, the last because of ${badSteps.reason}; ${badSteps.remedy}.`,
          )
        await this.profile?.after(i)
      }
    } finally {
      await this.profile?.stop()
    }
    await this.finish(epoch)
  }

  /** Ends an epoch: validates it, unless none of its steps was finite, and saves it. */
  private async finish(epoch: number): Promise<void> {
    const loss = this.state.meanLoss
    const notFinite = await firstNotFinite(this.adapter.parameters)
    const scored = notFinite === undefined && Number.isFinite(loss) ? await this.validated() : undefined
    // Complete only now: a run that is stopped during validation repeats it when it resumes.
    const event = this.state.finished({ epoch, loss, ...(notFinite !== undefined && { notFinite }), ...scored })
    await this.folder.log({ kind: 'epoch', ...event })
    await this.folder.saveEpoch(event)
    this.options.onEpoch?.(event)
  }

  /** Shares of right answers on the validation samples, where there are any. */
  private async validated(): Promise<Pick<EpochEvent, 'accuracy' | 'tasks'> | undefined> {
    const {
      samples: { validation },
      options: { graphs, signal },
      adapter,
    } = this
    if (!validation.length) return undefined
    this.at = `the validation after step ${this.state.step}`
    const all: Prediction[] = []
    for await (const p of predictSamples(this.model.checkpoint, this.features, validation, {
      adapter,
      graphs,
      signal,
    })) {
      all.push(p)
      this.watch?.ended()
    }
    const { overall, tasks } = accuracy(all)
    return {
      accuracy: overall.accuracy,
      tasks: Object.fromEntries(Object.entries(tasks).map(([task, { accuracy }]) => [task, accuracy])),
    }
  }
}
