/** What a run records for its report, and the report at its end. A failure of it does not end the run. */
import { existsSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import type { Adapter } from '../adapter/adapter.js'
import { countGroups } from '../adapter/parameters.js'
import { loadAdapter, programVersion, readAdapterInfo } from '../adapter/save.js'
import { readManifest } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { recordEvaluation, spread, type Answering } from '../eval/record.js'
import { meanWeights, routed, routerWeights } from '../eval/routing.js'
import { writeFileAtomic } from '../files/atomic.js'
import { writeReport } from '../report/page.js'
import { ABOUT, EVALUATION, PAGE, ROUTERS, readAbout, type About } from '../report/records.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { Features } from '../session/features.js'
import { openModel } from '../session/model.js'
import { devices } from '../tensor/device.js'
import type { LoadOptions } from '../session/checkpoint.js'
import { parseTrainConfig, plainConfig, type TrainConfig } from './config.js'
import type { Samples } from './prepare.js'

/** What a run computes with. */
export interface Computing {
  checkpoint: Checkpoint
  adapter: Adapter
  features: Features
}

/** The records and the report of a run; does nothing with `train.report: false`. */
export class RunReport {
  private readonly folder: string
  private readonly wanted: boolean

  /**
   * @param notice hears, once each, of what could not be written
   * @param writes whether this process writes the run's folder
   */
  constructor(
    private readonly config: TrainConfig,
    private readonly run: Computing,
    private readonly notice: (sentence: string) => void,
    writes = true,
  ) {
    this.folder = config.output
    this.wanted = config.train.report && writes
  }

  /** Writes what the run is, before its first step. */
  begin(samples: Samples, resumed: boolean): Promise<void> {
    return this.attempt(ABOUT, async () => {
      const before = resumed ? await readAbout(this.folder).catch(() => undefined) : undefined
      const about = await aboutRun(this.config, this.run, samples, before)
      await writeFileAtomic(join(this.folder, ABOUT), `${JSON.stringify(about, null, 2)}\n`)
    })
  }

  /** The entry about routers at a validation: the mean over up to 200 samples; undefined where there are none. */
  async routers(samples: Samples, signal: AbortSignal | undefined): Promise<object | undefined> {
    if (!routed(this.run.adapter)) return undefined
    const some = spread(shownOf(samples).samples)
    return this.attempt(ROUTERS, async () => ({
      samples: some.length,
      ...meanWeights(await routerWeights({ ...this.run, signal }, some)),
    }))
  }

  /** Writes the page, of whatever there is. */
  write(): Promise<void> {
    return this.attempt(PAGE, async () => void (await writeReport(this.folder)))
  }

  /** Records the answers of a finished run, and writes the page. */
  async finish(samples: Samples, options: Pick<Answering, 'graphs' | 'signal' | 'onAnswer'>): Promise<void> {
    const { checkpoint, features } = this.run
    await this.attempt(EVALUATION, () => record(this.folder, { checkpoint, features, ...options }, samples))
    await this.write()
  }

  private async attempt<T>(what: string, act: () => Promise<T>): Promise<T | undefined> {
    if (!this.wanted) return undefined
    try {
      return await act()
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      this.notice(`${what}: ${error.message.replace(/\.$/, '')}; the run itself is not touched by that.`)
      return undefined
    }
  }
}

/** The samples that a report shows: those of validation where there are any. */
const shownOf = ({ train, validation }: Samples): Pick<Answering, 'samples' | 'split'> =>
  validation.length ? { samples: validation, split: 'validation' } : { samples: train, split: 'training' }

/** Answers samples with the best adapter of a run's folder and with the untrained model. */
async function record(
  folder: string,
  answering: Omit<Answering, 'adapter' | 'samples' | 'split' | 'name' | 'step'>,
  samples: Samples,
): Promise<void> {
  const name = existsSync(join(folder, 'best')) ? 'best' : 'last'
  const { info } = await readAdapterInfo(join(folder, name))
  const adapter = await loadAdapter(join(folder, name), answering.checkpoint)
  try {
    const evaluation = await recordEvaluation({
      ...answering,
      adapter,
      ...shownOf(samples),
      name,
      step: typeof info?.step === 'number' ? info.step : undefined,
    })
    await writeFileAtomic(join(folder, EVALUATION), JSON.stringify(evaluation))
  } finally {
    adapter.dispose()
  }
}

/**
 * Does for a run's folder what the run does at its end: the samples are answered anew.
 *
 * @param given the run's configuration; absent: what its `run.json` says
 * @throws InputError where the model, the samples or the adapter cannot be used
 */
export async function evaluateRun(
  folder: string,
  {
    config: given,
    ...options
  }: LoadOptions & Pick<Answering, 'graphs' | 'signal' | 'onAnswer'> & { config?: TrainConfig | undefined } = {},
): Promise<void> {
  const config = given ?? parseTrainConfig((await readAbout(folder)).config, folder, join(folder, ABOUT))
  const { train, val, ...reading } = config.data
  const samples = { train: await readManifest(train), validation: val === undefined ? [] : await readManifest(val) }
  const { graphs, signal, onAnswer, ...where } = options
  const model = await openModel(config.model, where)
  try {
    const { checkpoint } = model
    const features = new Features(checkpoint, { frames: config.adapter.frames, ...reading })
    await record(folder, { checkpoint, features, graphs, signal, onAnswer }, samples)
  } finally {
    model.dispose()
  }
}

/** What a run is. @param before what was written of it when it was started, where it is resumed */
async function aboutRun(
  config: TrainConfig,
  { checkpoint, adapter }: Computing,
  { train, validation }: Samples,
  before: About | undefined,
): Promise<About> {
  const { model, form, fingerprint, visionFingerprint, folder } = checkpoint
  const now = new Date().toISOString()
  const found = devices()
  const name = found.cuda.devices.find((d) => d.device === model.device)?.name
  return {
    format: 'mtransllama-run',
    version: 1,
    started: before?.started ?? now,
    resumed: before ? [...before.resumed, now] : [],
    config: plainConfig(config),
    versions: {
      program: await programVersion(),
      node: process.version,
      platform: `${process.platform} ${process.arch}`,
    },
    computing: {
      device: name === undefined ? model.device : `${model.device}, ${name}`,
      precision: model.precision,
      weights: form,
      threads: found.cpu.threads,
    },
    model: { name: basename(resolve(folder)), family: model.config.family, fingerprint, visionFingerprint },
    samples: { training: train.length, validation: validation.length },
    trained: Object.fromEntries(countGroups(adapter.trained()).map((c) => [c.group, c.parameters])),
  }
}
