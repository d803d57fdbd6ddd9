/** A training run: everything checked first, then epochs of steps, each validated and saved. */
import { performance } from 'node:perf_hooks'
import { Adapter } from '../adapter/adapter.js'
import { readMasks } from '../adapter/read-masks.js'
import { countGroups } from '../adapter/parameters.js'
import { clipKey } from '../data/frames.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { alone, RankStopped, type Ranks } from '../ranks/ranks.js'
import { openModel, type Model } from '../session/model.js'
import { accuracy, answerLoss, PREDICTED, predictSamples, type Prediction } from '../eval/evaluate.js'
import { Features } from '../session/features.js'
import { firstNotFinite } from '../session/finite.js'
import { Loader } from '../session/loader.js'
import { deviceMemory, memory } from '../tensor/runtime.js'
import { Average } from './average.js'
import { batchesOf } from './batches.js'
import { BadSteps } from './bad-steps.js'
import type { TrainConfig } from './config.js'
import type { StepEvent, TrainOptions, TrainResult, Validation } from './events.js'
import { AdamW } from './optimizer.js'
import { bitsOf, identityOf, shareState } from './parallel.js'
import { checkClips, checkTexts, type Samples } from './prepare.js'
import { StepProfile } from './profile.js'
import { RunReport } from './report.js'
import { NoFolder, RunFolder, type Output } from './run-folder.js'
import { RunState } from './run-state.js'
import { rateFactor } from './schedule.js'
import { Trainer } from './trainer.js'
import { Watch } from './watch.js'

export type * from './events.js'

/**
 * Trains an adapter as `config` says and writes to `config.output`: `last/` and `best/` (adapters), logs. A run
 * that ends early saves its state in `last/`.
 *
 * @throws InputError for anything wrong with configuration, model or data, before the first step; when
 *   `train.maxBadSteps` steps in a row were not finite; and when not one step of the run was
 */
export async function train(config: TrainConfig, options: TrainOptions = {}): Promise<TrainResult> {
  const { ranks = alone, signal } = options
  try {
    return await trained(config, options, ranks)
  } catch (error) {
    await ranks.failed(error, signal?.aborted)
    throw error
  }
}

async function trained(config: TrainConfig, options: TrainOptions, ranks: Ranks): Promise<TrainResult> {
  const { batch } = config.train
  if (ranks.size > batch)
    throw new InputError(
      `train.batch: expected at least a sample for each of ${ranks.size} ranks, but got ${batch}; start at most ${batch} ranks, or raise train.batch.`,
    )
  const { train, val } = config.data
  const samples = { train: await readManifest(train), validation: val === undefined ? [] : await readManifest(val) }
  const { device, precision, weights, onLoad } = options
  const model = options.model ?? (await openModel(config.model, { device, precision, weights, onLoad }))
  try {
    if (ranks.size > 1) await ranks.requireSame(await identityOf(config, samples, model.checkpoint))
    const { seed } = config.train
    const { model: image } = model.checkpoint
    const adapter = new Adapter(image.config, config.adapter, {
      seed,
      device: image.device,
      masks: await readMasks(config.adapter, '.', { queries: image.config.numQueryTokens }),
    })
    try {
      return await new Run(config, options, ranks, model, adapter, samples).run()
    } finally {
      adapter.dispose()
    }
  } finally {
    if (!options.model) model.dispose()
  }
}

class Run {
  private readonly state: RunState
  private readonly features: Features
  private readonly optimizer: AdamW
  private readonly average: Average | undefined
  private readonly trainer: Trainer
  private readonly folder: Output
  private readonly badSteps: BadSteps
  private readonly report: RunReport
  private readonly profile: StepProfile | undefined
  private readonly notice: (sentence: string) => void
  /** What the run waits for, for the watchdog's message. */
  private at = 'the start'
  private watch: Watch | undefined
  /** Batches by epoch: of the one that runs, and of those that are read ahead. */
  private readonly planned = new Map<number, Sample[][][]>()
  /** Of the epoch's steps that this process took: their seconds, and those that they waited for data. */
  private times = { seconds: 0, waited: 0 }

  constructor(
    private readonly config: TrainConfig,
    private readonly options: TrainOptions,
    private readonly ranks: Ranks,
    private readonly model: Model,
    private readonly adapter: Adapter,
    private samples: Samples,
  ) {
    const { data, train: t } = config
    const { checkpoint } = model
    this.notice = options.onNotice?.bind(options) ?? ((sentence) => console.error(`training: ${sentence}`))
    this.state = new RunState(t.metric)
    this.features = new Features(checkpoint, {
      frames: adapter.config.frames,
      sampling: data.sampling,
      timeout: data.timeout,
      cache: data.cache,
      verify: options.verify,
      onNotice: this.notice,
    })
    const lr =
      typeof t.lr === 'number'
        ? t.lr
        : Object.fromEntries(Object.entries(t.lr).filter((e): e is [string, number] => e[1] !== undefined))
    this.optimizer = new AdamW(
      adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
      { lr, betas: t.betas, eps: t.eps, weightDecay: t.weightDecay, clip: t.clip },
    )
    if (t.ema > 0) this.average = new Average(adapter, t.ema)
    const { state, optimizer, average } = this
    const { graphs } = options
    this.trainer = new Trainer(checkpoint, adapter, this.features, optimizer, { graphs, recompute: t.recompute, ranks })
    const saved = { checkpoint, adapter, optimizer, average, samples, state, ranks: ranks.size }
    this.folder = ranks.first ? new RunFolder(config, saved, this.notice) : new NoFolder(config)
    this.badSteps = new BadSteps(checkpoint, adapter, this.features)
    this.report = new RunReport(config, { checkpoint, adapter, features: this.features }, this.notice, ranks.first)
    if (options.onProfile) this.profile = new StepProfile((p) => options.onProfile!(p))
  }

  async run(): Promise<TrainResult> {
    try {
      return await this.begin()
    } finally {
      await this.folder.close()
      this.trainer.dispose()
      this.optimizer.dispose()
      this.average?.dispose()
    }
  }

  private async begin(): Promise<TrainResult> {
    const {
      options: { graphs, signal, resume = false, extend = false, rescale = false },
      ranks,
      samples,
      adapter,
      model,
    } = this
    await this.folder.open({ resume, extend, rescale })
    const { optimizer, average, state } = this
    await shareState(ranks, { adapter, optimizer, average, state })
    checkTexts(model.checkpoint, adapter.config, samples)
    const counts = countGroups(adapter.trained())
    this.options.onStart?.({ counts, samples: samples.train.length, steps: this.steps, model, adapter })
    const watch = new Watch(() => this.at)
    this.watch = watch
    try {
      await this.prepare(watch)
      await this.report.begin(this.left, resume !== false)
      await this.epochs()
      const result = await this.result()
      this.at = 'the report'
      await this.report.finish(this.left, { graphs, signal, onAnswer: () => watch.ended() })
      return result
    } catch (error) {
      await ranks.failed(error, signal?.aborted)
      const stopped = signal?.aborted === true || error instanceof RankStopped
      const rescued = stopped || ranks.sound(error) ? await this.folder.rescued(error, stopped) : error
      if (this.state.step > 0) await this.report.write()
      throw rescued
    } finally {
      watch.stop()
    }
  }

  /** Optimiser steps of an epoch. */
  private get perEpoch(): number {
    const { batch, accumulation } = this.config.train
    return Math.ceil(Math.ceil(this.samples.train.length / batch) / accumulation)
  }
  /** Optimiser steps of the whole run. */
  private get steps(): number {
    return this.perEpoch * this.config.train.epochs
  }

  /** Looks at all clips. A resumed run leaves out the samples that it left out before. */
  private async prepare(watch: Watch): Promise<void> {
    const { state, samples, ranks } = this
    const done = (ready: number, total: number): void => {
      watch.ended()
      this.options.onFeatures?.(ready, total)
    }
    const { left } = this
    const usable = new Set([...left.train, ...left.validation])
    const before = new Set([...samples.train, ...samples.validation].filter((sample) => !usable.has(sample)))
    const lost: string[] = []
    const skipped = ({ id }: Sample, reason: string): void => {
      lost.push(id)
      if (!state.skipped.includes(id)) this.announce(`sample ${JSON.stringify(id)} is left out: ${reason}`)
    }
    this.samples = await checkClips(
      this.features,
      samples,
      { at: (what) => (this.at = what), done },
      { most: this.config.train.maxSkipped, before, skipped },
      this.options.signal,
      ranks,
    )
    const other = lost.find((id) => !state.skipped.includes(id)) ?? state.skipped.find((id) => !lost.includes(id))
    if (state.step > 0 && other !== undefined)
      throw new InputError(
        `data: the saved run ${lost.includes(other) ? 'used' : 'left out'} the sample ${JSON.stringify(other)}, whose clip ${lost.includes(other) ? 'cannot be used now' : 'can be used now'}; restore the file to resume, or start a new run in another folder.`,
      )
    state.skipped = lost
  }

  private async epochs(): Promise<void> {
    const { state } = this
    const { epochs, patience } = this.config.train
    const early = (): boolean => patience > 0 && state.sinceBest >= patience
    const { ahead, signal } = this.options
    const loader = new Loader(this.features, this.toCome(), { bytes: ahead, signal, onClip: () => this.watch?.ended() })
    try {
      while (state.epoch < epochs && !early()) await this.epoch(state.epoch + 1, loader, early)
    } finally {
      await loader.stop()
    }
  }

  /** The samples of the run's steps from here on. */
  private *toCome(): Generator<readonly Sample[]> {
    const { epoch: done, position } = this.state
    for (let epoch = done + 1; epoch <= this.config.train.epochs; epoch++)
      for (const microBatches of this.batches(epoch).slice(epoch === done + 1 ? position : 0))
        yield this.mine(microBatches).flat()
  }

  /** What this rank computes of a step. Shares do not change when a sample is left out. */
  private mine(planned: readonly (readonly Sample[])[]): Sample[][] {
    return planned.map((samples) => this.usable(this.ranks.share(samples), 'train'))
  }

  /** An epoch's samples by step and micro-batch, those included that a step found to be unusable. */
  private batches(epoch: number): Sample[][][] {
    const { planned, samples, config, model, adapter } = this
    const known = planned.get(epoch) ?? batchesOf(samples.train, config.train, epoch, model.checkpoint, adapter.config)
    planned.set(epoch, known)
    return known
  }

  private usable(samples: readonly Sample[], split: keyof Samples): Sample[] {
    const lost = new Set(this.state.lost[split])
    return samples.filter(({ id }) => !lost.has(id))
  }

  /** The samples that are not left out. */
  private get left(): Samples {
    const { train, validation } = this.samples
    return { train: this.usable(train, 'train'), validation: this.usable(validation, 'validation') }
  }

  /**
   * Leaves out, from now on, all samples with the clip of one, since it cannot be used. @throws InputError where more
   * would be left out than may be, or none is left
   */
  private leaveOut(message: string, key: string): void {
    const { state, samples, config } = this
    const found = (['train', 'validation'] as const).flatMap((split) =>
      this.usable(samples[split], split)
        .filter((sample) => clipKey(sample) === key)
        .map(({ id }) => ({ split, id })),
    )
    const reason = message.replace(/\.$/, '')
    const { maxSkipped } = config.train
    const all = state.skipped.length + state.lost.train.length + state.lost.validation.length + found.length
    if (all > maxSkipped)
      throw new InputError(
        `${reason}; without it ${all} samples would be left out, and train.maxSkipped is ${maxSkipped}: repair the clip or allow more (mtransllama check-data finds all such clips).`,
      )
    for (const { split, id } of found) {
      state.lost[split].push(id)
      this.announce(`sample ${JSON.stringify(id)} is left out: ${message}`)
    }
    const { left } = this
    for (const split of ['train', 'validation'] as const)
      if (samples[split].length && !left[split].length)
        throw new InputError(
          `data: no ${split === 'train' ? 'sample' : 'validation sample'} is left, since no clip can be used.`,
        )
  }

  /** Leaves out what some rank found to be unusable, on all ranks. */
  private async leaveOutLost(lost: ReadonlyMap<Sample, InputError>, split: keyof Samples): Promise<void> {
    const { state, samples, ranks } = this
    const found = await ranks.gather([...lost].map(([{ id }, { message }]) => ({ id, message })))
    for (const { id, message } of found.flat())
      if (!state.lost[split].includes(id)) this.leaveOut(message, clipKey(samples[split].find((s) => s.id === id)!))
  }

  /** Says, once for all ranks, what each of them found. */
  private announce(sentence: string): void {
    if (this.ranks.first) this.notice(sentence)
  }

  /** Throws an InputError where no step was finite, or nothing was saved. */
  private async result(): Promise<TrainResult> {
    const { state, folder, badSteps } = this
    if (this.optimizer.steps === 0)
      throw new InputError(
        `training: none of the ${state.step} steps was finite, the last because of ${badSteps.reason}, so nothing was learned; ${badSteps.remedy}.`,
      )
    await folder.checkSaved()
    const { epochs, epoch, lost } = state
    const skipped = [...state.skipped, ...lost.train, ...lost.validation]
    return { epochs, early: epoch < this.config.train.epochs, skipped, best: folder.best, last: folder.last }
  }

  private async epoch(epoch: number, loader: Loader, early: () => boolean): Promise<void> {
    const { state } = this
    const { evalEvery, saveEvery } = this.config.train
    const order = this.batches(epoch)
    this.times = { seconds: 0, waited: 0 }
    const todo = order.slice(state.position)
    const within = (): boolean => state.position < order.length
    try {
      for (const [i, microBatches] of todo.entries()) {
        // A run that was stopped during a validation repeats it when it resumes.
        if (due(state.step, evalEvery) && state.position > 0 && state.validated < state.step) await this.validate(epoch)
        if (early()) return await this.folder.savePoint()
        this.options.signal?.throwIfAborted()
        this.profile?.before(i, todo.length)
        await this.step(epoch, loader, microBatches)
        await this.profile?.after(i)
        if (due(state.step, evalEvery) && within()) await this.validate(epoch)
        if (due(state.step, saveEvery) && within()) await this.folder.savePoint()
      }
    } finally {
      await this.profile?.stop()
    }
    this.planned.delete(epoch)
    await this.finish(epoch)
  }

  private async step(epoch: number, loader: Loader, planned: readonly (readonly Sample[])[]): Promise<void> {
    const { state, badSteps, optimizer, steps, ranks } = this
    const { train: t } = this.config
    this.at = `step ${state.step + 1} of ${steps}`
    const factor = rateFactor(state.step, steps, t.warmup, t.schedule)
    const begin = performance.now()
    const loaded = await loader.next()
    await this.leaveOutLost(loaded.lost, 'train')
    const left = planned.filter((samples) => this.usable(samples, 'train').length)
    const microBatches = left.map((samples) => this.usable(samples, 'train'))
    if (!microBatches.length) return state.passed()
    const [before, arrived] = [optimizer.steps, loader.arrived]
    const stepped = await this.trainer.step(microBatches, factor, this.mine(left))
    const taken = ranks.first ? await badSteps.explained(stepped, microBatches) : stepped
    if (optimizer.steps > before) this.average?.update(optimizer.steps)
    const seconds = (performance.now() - begin) / 1000
    const result = { ...taken, waited: taken.waited + loaded.waited }
    this.times.seconds += seconds
    this.times.waited += result.waited
    this.watch?.ended()
    const z = state.stepped(result)
    const event: StepEvent = {
      ...result,
      epoch,
      step: state.step,
      steps,
      factor,
      lr:
        factor *
        (typeof optimizer.options.lr === 'number' ? optimizer.options.lr : Object.values(optimizer.options.lr)[0]!),
      seconds,
      tokensPerSecond: result.tokens / seconds,
      waiting: result.waited / seconds,
      ahead: loader.arrived - arrived,
      memory: this.adapter.device === 'cpu' ? memory().bytes : deviceMemory(this.adapter.device).bytes,
      ...(z !== undefined && { spike: z, samples: microBatches.flat().map((s) => s.id) }),
    }
    await this.folder.log({ kind: 'step', ...event })
    this.options.onStep?.(event)
    if (state.bad >= t.maxBadSteps)
      throw new InputError(
        `training: ${state.bad} steps in a row were not finite, the last because of ${badSteps.reason}; ${badSteps.remedy}.`,
      )
  }

  /** Validates within an epoch. */
  private async validate(epoch: number): Promise<void> {
    const { state } = this
    const event = await this.judged((about) => state.checked({ epoch, step: state.step, ...about }))
    await this.folder.log({ kind: 'validation', ...event })
    this.options.onValidation?.(event)
  }

  /** Ends an epoch: validates it, unless none of its steps was finite, and saves it. */
  private async finish(epoch: number): Promise<void> {
    const { ranks, adapter } = this
    if (ranks.size > 1) await ranks.requireSame({ [`trained tensors of epoch ${epoch}`]: await bitsOf(adapter) })
    // Complete only then: a run that is stopped during validation repeats it when it resumes.
    const event = await this.judged((about) => this.state.finished({ epoch, ...about }))
    const { seconds, waited } = this.times
    const waiting = seconds > 0 && { waiting: waited / seconds }
    await this.folder.log({ kind: 'epoch', step: this.state.step, ...event, ...waiting })
    await this.folder.savePoint()
    this.options.onEpoch?.(event)
  }

  /** Validates the adapter, or its average where there is one, which is taken for the best where `take` says so. */
  private judged<E extends { best: boolean }>(take: (about: Validation & { loss: number }) => E): Promise<E> {
    const judge = async (): Promise<E> => {
      const loss = this.state.meanLoss
      const notFinite = await firstNotFinite(this.adapter.parameters)
      const usable = notFinite === undefined && Number.isFinite(loss)
      const scored = usable ? await this.validated() : undefined
      const routers = usable && (await this.report.routers(this.left, this.options.signal))
      const event = take({ loss, ...(notFinite !== undefined && { notFinite }), ...scored })
      const { step, epoch, position } = this.state
      if (routers) await this.folder.log({ kind: 'routers', step, epoch: epoch + Number(position > 0), ...routers })
      if (event.best) await this.folder.takeBest(event)
      return event
    }
    return this.average ? this.average.during(judge) : judge()
  }

  /** Shares of right answers on the validation samples, where there are any, and their loss where it is asked for. */
  private async validated(): Promise<Validation | undefined> {
    const {
      options: { graphs, signal, ahead },
      ranks,
      adapter,
      features,
      model: { checkpoint },
    } = this
    const { validation } = this.left
    if (!validation.length) return undefined
    this.at = `the validation after step ${this.state.step}`
    const mine: Prediction[] = []
    const groups = ranks.shares(validation, PREDICTED)
    const loader = new Loader(features, groups, { bytes: ahead, signal, onClip: () => this.watch?.ended() })
    try {
      for (const group of groups) {
        await this.leaveOutLost((await loader.next()).lost, 'validation')
        const samples = this.usable(group, 'validation')
        for await (const p of predictSamples(checkpoint, features, samples, { adapter, graphs, signal })) {
          mine.push(p)
          this.watch?.ended()
        }
      }
    } finally {
      await loader.stop()
    }
    const { overall, tasks } = accuracy((await ranks.gather(mine)).flat())
    return {
      accuracy: overall.accuracy,
      tasks: Object.fromEntries(Object.entries(tasks).map(([task, { accuracy }]) => [task, accuracy])),
      ...(this.config.train.metric === 'valLoss' && {
        valLoss: await answerLoss(checkpoint, features, this.usable(validation, 'validation'), {
          adapter,
          signal,
          ranks,
        }),
      }),
    }
  }
}

const due = (step: number, every: number): boolean => every > 0 && step > 0 && step % every === 0
