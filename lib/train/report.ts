/** What a run records for its report, and the report at its end. A failure of it does not end the run. */
import { basename, join, resolve } from 'node:path'
import type { Adapter } from '../adapter/adapter.js'
import { countGroups } from '../adapter/parameters.js'
import { programVersion } from '../adapter/save.js'
import { InputError } from '../errors.js'
import { writeFileAtomic } from '../files/atomic.js'
import { writeReport } from '../report/page.js'
import { ABOUT, PAGE, readAbout, type About } from '../report/records.js'
import type { Checkpoint } from '../session/checkpoint.js'
import type { Features } from '../session/features.js'
import { devices } from '../tensor/device.js'
import { plainConfig, type TrainConfig } from './config.js'
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

  /** @param notice hears, once each, of what could not be written */
  constructor(
    private readonly config: TrainConfig,
    private readonly run: Computing,
    private readonly notice: (sentence: string) => void,
  ) {
    this.folder = config.output
    this.wanted = config.train.report
  }

  /** Writes what the run is, before its first step. */
  begin(samples: Samples, resumed: boolean): Promise<void> {
    return this.attempt(ABOUT, async () => {
      const before = resumed ? await readAbout(this.folder).catch(() => undefined) : undefined
      const about = await aboutRun(this.config, this.run, samples, before)
      await writeFileAtomic(join(this.folder, ABOUT), `${JSON.stringify(about, null, 2)}\n`)
    })
  }

  /** Writes the page, of whatever there is. */
  write(): Promise<void> {
    return this.attempt(PAGE, async () => void (await writeReport(this.folder)))
  }

  /** Ends the records of a finished run, and writes the page. */
  async finish(_samples: Samples, _signal: AbortSignal | undefined): Promise<void> {
    await this.write()
  }

  private async attempt(what: string, act: () => Promise<void>): Promise<void> {
    if (!this.wanted) return
    try {
      await act()
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      this.notice(`${what}: ${error.message.replace(/\.$/, '')}; the run itself is not touched by that.`)
    }
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
