/** What a run writes: its log, its adapters and its state, also where it ends early. */
import { existsSync } from 'node:fs'
import { appendFile, mkdir, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { Adapter } from '../adapter/adapter.js'
import type { AdapterMeta } from '../adapter/save.js'
import type { Sample } from '../data/manifest.js'
import { InputError, invalid } from '../errors.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { firstNotFinite } from '../session/finite.js'
import type { TrainConfig } from './config.js'
import type { EpochEvent } from './events.js'
import type { AdamW } from './optimizer.js'
import type { RunState } from './run-state.js'
import { checkOutput, hasState, loadState, saveBest, saveState } from './state.js'

/** What of a run is saved and restored. */
export interface Saved {
  checkpoint: Checkpoint
  adapter: Adapter
  optimizer: AdamW
  samples: readonly Sample[]
  state: RunState
}

/** The output folder of a run. */
export class RunFolder {
  readonly last: string
  readonly best: string
  private readonly metrics: string
  /** Optimiser steps that are saved in `last/`. */
  private saved = 0

  constructor(
    private readonly config: TrainConfig,
    private readonly run: Saved,
  ) {
    const at = (name: string): string => join(config.output, name)
    this.last = at('last')
    this.best = at('best')
    this.metrics = at('metrics.jsonl')
  }

  /** Makes the folder, or restores the run that it holds. Throws an InputError where that is not possible. */
  async open(resume: boolean): Promise<void> {
    const { output } = this.config
    if (resume) await this.restore()
    else if (await hasState(output))
      throw new InputError(`output: ${output} holds a run already; go on with it (--resume), or choose another folder.`)
    await checkOutput(output)
    try {
      await mkdir(output, { recursive: true })
      if (!resume) await writeFile(this.metrics, '')
    } catch (error) {
      throw invalid('output', 'a folder that can be written', error, `choose another than ${output}`)
    }
  }

  /** Appends a line to the log. */
  async log(entry: object): Promise<void> {
    try {
      await appendFile(this.metrics, `${JSON.stringify(entry)}\n`)
    } catch (error) {
      throw invalid(
        this.metrics,
        'a file that can be written',
        error,
        'free space on the disk, or choose another output',
      )
    }
  }

  /** Saves the run, and before that the adapter as the best one where the epoch is. */
  async saveEpoch(event: EpochEvent): Promise<void> {
    if (event.best) await saveBest(this.config.output, this.run.adapter, this.meta(event))
    await this.save()
  }

  /** Saves the run. A state that is not finite is not saved; the name of the trained tensor is returned. */
  private async save(): Promise<string | undefined> {
    const { adapter, optimizer, state } = this.run
    const culprit = (await hasState(this.config.output)) ? await firstNotFinite(adapter.parameters) : undefined
    if (culprit !== undefined) return culprit
    const { steps } = optimizer
    const { progress } = state
    const random = { seed: this.config.train.seed }
    await saveState(this.config.output, { adapter, optimizer, progress, random, config: this.unchanging }, this.meta())
    this.saved = steps
    return undefined
  }

  private async restore(): Promise<void> {
    const { adapter, optimizer, checkpoint, state } = this.run
    const { progress } = await loadState(this.config.output, {
      adapter,
      optimizer,
      config: this.unchanging,
      base: checkpoint,
    })
    state.restore(progress)
    this.saved = optimizer.steps
  }

  /** What ends the run, once what was learned since the last save is saved; the message says where that is. */
  async rescued(error: unknown, stopped: boolean): Promise<unknown> {
    const { steps } = this.run.optimizer
    if (steps === this.saved && !(stopped && this.run.state.step > 0)) return error
    let outcome: string
    try {
      const bad = await this.save()
      outcome =
        bad === undefined
          ? `what was learned in ${steps} steps is in ${this.last}, and --resume goes on from there`
          : `what was saved before stays, since ${bad} is not finite`
    } catch (second) {
      if ((second as Error).message === (error as Error).message) return error
      outcome = `what was learned could not be saved: ${(second as Error).message.replace(/\.$/, '')}`
    }
    if (stopped || !(error instanceof InputError)) return error
    return new InputError(`${error.message.replace(/\.$/, '')}; ${outcome}.`, { cause: error })
  }

  /** Throws an InputError where an adapter of the finished run is not there. */
  checkSaved(): void {
    const gone = [this.best, this.last].find((folder) => !existsSync(folder))
    if (gone !== undefined)
      throw new InputError(
        `training: finished, but ${gone} does not exist; it was removed during the run, or its adapter was never finite.`,
      )
  }

  private meta(info: object = {}): AdapterMeta {
    const { checkpoint, state } = this.run
    return {
      fingerprint: checkpoint.fingerprint,
      base: basename(resolve(checkpoint.folder)),
      info: { step: state.step, seed: this.config.train.seed, ...info },
    }
  }

  /** The part of the configuration that must not change between stop and resume. Folders may move. */
  private get unchanging(): object {
    const { train, adapter, data } = this.config
    return { train, adapter, sampling: data.sampling, samples: this.run.samples.map((s) => s.id) }
  }
}
