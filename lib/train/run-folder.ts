/** What a run writes: its logs, its adapters and its state, also where it ends early or the disk is full. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { Adapter } from '../adapter/adapter.js'
import { ADAPTER_FOLDER, adapterFiles, type AdapterMeta } from '../adapter/save.js'
import type { Sample } from '../data/manifest.js'
import { InputError, invalid } from '../errors.js'
import { replaceFolder, type FolderFile } from '../files/folder.js'
import { lock } from '../files/lock.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { firstNotFinite } from '../session/finite.js'
import type { Average } from './average.js'
import { defaultTrain, type TrainConfig } from './config.js'
import { RunLog, type LogEntry } from './log.js'
import type { AdamW } from './optimizer.js'
import type { Samples } from './prepare.js'
import type { RunState } from './run-state.js'
import { checkOutput, hasState, keepSave, loadState, saveState, savesOf, type RunData } from './state.js'

/** What of a run is saved and restored. */
export interface Saved {
  checkpoint: Checkpoint
  adapter: Adapter
  optimizer: AdamW
  average: Average | undefined
  samples: Samples
  state: RunState
  /** Processes that compute it. */
  ranks: number
}

/** How a run begins. */
export interface Begin {
  /** Resumes the last save, or the one of this name. */
  resume: boolean | string
  extend: boolean
  /** Whether as many ranks as before need not compute it. */
  rescale: boolean
}

/** What a run writes to: its folder, or nothing. */
export type Output = Pick<
  RunFolder,
  'last' | 'best' | 'open' | 'log' | 'takeBest' | 'savePoint' | 'rescued' | 'checkSaved' | 'close'
>

/** The output of ranks other than the first, which writes for all. */
export class NoFolder implements Output {
  readonly last: string
  readonly best: string
  constructor({ output }: TrainConfig) {
    this.last = join(output, 'last')
    this.best = join(output, 'best')
  }
  async open(): Promise<void> {}
  async log(): Promise<void> {}
  async takeBest(): Promise<void> {}
  async savePoint(): Promise<void> {}
  async rescued(error: unknown): Promise<unknown> {
    return error
  }
  async checkSaved(): Promise<void> {}
  async close(): Promise<void> {}
}

/** The output folder of a run. */
export class RunFolder {
  readonly last: string
  readonly best: string
  private logs: RunLog | undefined
  private unlock: (() => Promise<void>) | undefined
  /** Optimiser steps that are saved in `last/`; the steps of the run at that save, where this process made one. */
  private saved = 0
  private savedAt: number | undefined
  /** The best adapter, while it is not on the disk. */
  private newBest: FolderFile[] | undefined
  /** Why the last save failed. */
  private failure: InputError | undefined

  /** @param notice hears of failures that do not end the run */
  constructor(
    private readonly config: TrainConfig,
    private readonly run: Saved,
    private readonly notice: (sentence: string) => void,
  ) {
    this.last = join(config.output, 'last')
    this.best = join(config.output, 'best')
  }

  /** Makes the folder, or restores the run that it holds. Throws an InputError where that is not possible. */
  async open({ resume, extend, rescale }: Begin): Promise<void> {
    const { output, train } = this.config
    const { state } = this.run
    if (resume === false && (await hasState(output)))
      throw new InputError(`output: ${output} holds a run already; go on with it (--resume), or choose another folder.`)
    if (extend && resume === false) throw invalid('extend', 'resume with it', new Error('none'))
    if (rescale && resume === false) throw invalid('rescale', 'resume with it', new Error('none'))
    try {
      if (resume === false) await mkdir(output, { recursive: true })
    } catch (error) {
      throw invalid('output', 'a folder that can be written', error, `choose another than ${output}`)
    }
    if (existsSync(output)) await this.lock()
    try {
      if (resume !== false) await this.restore(resume === true ? 'last' : resume, extend, rescale)
      await checkOutput(output)
      const place = resume === false ? undefined : { step: state.step, epoch: state.epoch }
      this.logs = await RunLog.open(
        output,
        [...train.log, ...(train.report ? ['routers' as const] : [])],
        place,
        this.notice,
      )
    } catch (error) {
      await this.close()
      throw error instanceof InputError
        ? error
        : invalid('output', 'a folder that can be written', error, `choose another than ${output}`)
    }
  }

  private async lock(): Promise<void> {
    const { output } = this.config
    this.unlock = await lock(join(output, 'run.lock'), `output: ${output}`).catch((error: unknown) => {
      if (error instanceof InputError) throw error
      throw invalid('output', 'a folder that can be written', error, `choose another than ${output}`)
    })
  }

  /** Closes the logs. */
  async close(): Promise<void> {
    const { logs, unlock } = this
    this.logs = this.unlock = undefined
    await logs?.close().catch((error: Error) => this.notice(error.message))
    await unlock?.()
  }

  /** Appends an entry to the logs. */
  async log(entry: LogEntry): Promise<void> {
    await this.logs?.write(entry)
  }

  /** Takes the adapter as it is now for the best one; the next save writes it. */
  async takeBest(info: object): Promise<void> {
    this.newBest = await adapterFiles(this.run.adapter, this.meta(info))
  }

  /**
   * Saves the run at one of its save points. A failure is said once; the run goes on, and the next save point writes
   * what this one could not.
   */
  async savePoint(): Promise<void> {
    try {
      await this.save()
      if (this.failure) this.notice(`${this.last}: saved again, with all that was learned since the last save.`)
      this.failure = undefined
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      if (!this.failure)
        this.notice(
          `${error.message.replace(/\.$/, '')}; training goes on, and the next save point tries again (free space on the disk).`,
        )
      this.failure = error
    }
  }

  /** Saves the run. A state that is not finite is not saved; the name of the trained tensor is returned. */
  private async save(): Promise<string | undefined> {
    const { output, train } = this.config
    const { adapter, optimizer, average, state } = this.run
    const culprit = (await hasState(output)) ? await firstNotFinite(adapter.parameters) : undefined
    if (this.newBest) await replaceFolder(this.best, this.newBest, ADAPTER_FOLDER)
    this.newBest = undefined
    if (culprit !== undefined) return culprit
    const { steps } = optimizer
    const at = state.step
    await this.logs?.sync()
    if (train.keepLast > 1 && this.savedAt !== undefined && this.savedAt !== at)
      await keepSave(output, this.savedAt, train.keepLast - 1).catch((error: Error) => {
        throw new InputError(`${output}: the save before could not be kept: ${error.message}.`, { cause: error })
      })
    await saveState(
      output,
      {
        adapter,
        optimizer,
        average: average?.values,
        progress: state.progress,
        random: { seed: train.seed },
        config: this.unchanging,
        data: this.data,
      },
      this.meta(),
    )
    this.saved = steps
    this.savedAt = at
    return undefined
  }

  private async restore(save: string, extend: boolean, rescale: boolean): Promise<void> {
    const { output } = this.config
    const { adapter, optimizer, average, checkpoint, state } = this.run
    const saves = await savesOf(output)
    if (save !== 'last' && !saves.includes(save))
      throw invalid('--resume', `a save of ${output}`, save, saves.length ? `there are ${saves.join(', ')}` : undefined)
    const { progress } = await loadState(
      output,
      {
        adapter,
        optimizer,
        average: average?.values,
        config: this.unchanging,
        data: this.data,
        base: checkpoint,
      },
      {
        save,
        extend,
        assumed: { train: fixed(defaultTrain()), adapter: { modality: 'both' } },
        free: ['train.maxSkipped', ...(rescale ? ['ranks'] : [])],
      },
    ).catch((error: unknown) => {
      const earlier = saves.filter((name) => name !== save)
      // A damaged save is named with those that can be used in its place.
      if (
        error instanceof InputError &&
        save === 'last' &&
        earlier.length &&
        /usable|missing|no such/.test(error.message)
      )
        throw new InputError(
          `${error.message.replace(/\.$/, '')}; earlier saves are ${earlier.join(', ')}: --resume ${earlier[0]}.`,
          { cause: error },
        )
      throw error
    })
    state.restore(progress)
    this.saved = optimizer.steps
    if (save === 'last') this.savedAt = state.step
  }

  /** What ends the run, once what was learned since the last save is saved; the message says where that is. */
  async rescued(error: unknown, stopped: boolean): Promise<unknown> {
    const { steps } = this.run.optimizer
    if (steps === this.saved && !this.newBest && !(stopped && this.run.state.step > 0)) return error
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
      if (stopped) this.notice(`${outcome}; what was saved before stays.`)
    }
    if (stopped || !(error instanceof InputError)) return error
    return new InputError(`${error.message.replace(/\.$/, '')}; ${outcome}.`, { cause: error })
  }

  /** Throws an InputError where an adapter of the finished run is not there. */
  async checkSaved(): Promise<void> {
    if (this.failure) await this.save()
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
    const { ranks } = this.run
    return { ...unchanging(this.config), ...(ranks > 1 && { ranks }) }
  }

  private get data(): RunData {
    return dataOf(this.run.samples)
  }
}

/** The part of a configuration that must not change between stop and resume, nor differ between ranks. */
export const unchanging = ({ train, adapter, data }: TrainConfig): object => ({
  train: fixed(train),
  adapter,
  sampling: data.sampling,
})

/** What the samples of a run are. */
export const dataOf = ({ train, validation }: Samples): RunData => ({
  training: train.map(hashed),
  validation: validation.map(hashed),
})

/** Without the keys that change neither what is learned nor what is chosen. */
function fixed({ saveEvery, keepLast, log, report, recompute, ...rest }: TrainConfig['train']): object {
  return rest
}

/** A sample's id, and a hash of what it says and where its clip lies; the folder of the video does not count. */
function hashed({ id, video, ...rest }: Sample): [string, string] {
  const text = JSON.stringify([basename(video), ...Object.entries(rest).sort(([a], [b]) => (a < b ? -1 : 1))])
  return [id, createHash('sha256').update(text).digest('hex').slice(0, 16)]
}
