/**
 * A run's logs: `metrics.jsonl`, `metrics.csv` and TensorBoard's event files, each of the same entries. When a run is
 * resumed, entries of steps that are taken again are removed. A log that cannot be written does not end the run.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { InputError } from '../errors.js'
import { AppendFile } from '../files/append.js'
import { writeFileAtomic } from '../files/atomic.js'
import { ROUTERS } from '../report/records.js'
import type { LogKind } from './config.js'
import { eventFileName, scalarRecord, startRecord, versionRecord } from './tensorboard.js'

/** An entry: `kind` is `step`, `validation` or `epoch`; what else there is are its numbers and texts. */
export interface LogEntry {
  kind: string
  /** Optimiser steps so far. */
  step: number
  epoch: number
  [more: string]: unknown
}

/** Where a run is resumed: entries after these stay out. */
export interface LogPlace {
  step: number
  epoch: number
}

const COLUMNS = [
  'time',
  'kind',
  'epoch',
  'step',
  'loss',
  'tokens',
  'norm',
  'lr',
  'seconds',
  'tokensPerSecond',
  'padding',
  'memory',
  'waiting',
  'accuracy',
  'valLoss',
  'best',
  'bad',
] as const

/** The scalars of an entry, by TensorBoard's tag. */
function scalars(entry: LogEntry): Record<string, number> {
  const at = { step: 'train', validation: 'validation', epoch: 'epoch' }[entry.kind] ?? entry.kind
  const found: Record<string, number> = {}
  const add = (name: string, value: unknown): void => {
    if (typeof value === 'number' && !['step', 'steps', 'epoch'].includes(name)) found[`${at}/${name}`] = value
    else if (typeof value === 'object' && value !== null && !Array.isArray(value))
      for (const [inner, v] of Object.entries(value)) add(`${name}/${inner}`, v)
  }
  for (const [name, value] of Object.entries(entry)) add(name, value)
  return found
}

function csvLine(entry: Record<string, unknown>): string {
  const cell = (value: unknown): string => {
    if (value === undefined || value === null) return ''
    const text = typeof value === 'object' ? JSON.stringify(value) : String(value)
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
  }
  return `${COLUMNS.map((name) => cell(entry[name])).join(',')}\n`
}

/** An entry as bytes of a log; undefined where it does not belong into that log. */
type Encode = (entry: LogEntry, seconds: number) => string | Uint8Array | undefined

interface Log {
  file: AppendFile
  encode: Encode
}

const lineOf = (entry: LogEntry): string => `${JSON.stringify(entry)}\n`
const others =
  (encode: Encode): Encode =>
  (entry, seconds) =>
    entry.kind === 'routers' ? undefined : encode(entry, seconds)

export class RunLog {
  private constructor(
    private readonly files: readonly Log[],
    /** Called once for each time that a log stops being writable. */
    private readonly failed: (message: string) => void,
  ) {}
  private failing = false

  /**
   * Opens the logs of a run's folder.
   *
   * @param kinds those of the configuration; `routers` is a file of its own for entries of that kind
   * @param resume the place at which a run is resumed; absent: the logs are begun anew
   */
  static async open(
    folder: string,
    kinds: readonly (LogKind | 'routers')[],
    resume: LogPlace | undefined,
    failed: (message: string) => void,
  ): Promise<RunLog> {
    const files: Log[] = []
    const add = async (
      path: string,
      encode: Encode,
      first: (string | Uint8Array)[] = [],
      fresh = resume === undefined,
    ): Promise<void> => {
      const file = await AppendFile.open(path, { fresh: fresh || !existsSync(path) })
      files.push({ file, encode })
      for (const record of first) await file.append(record)
    }
    if (kinds.includes('jsonl')) {
      const path = join(folder, 'metrics.jsonl')
      if (resume) await keepLines(path, (line) => kept(JSON.parse(line) as LogEntry, resume))
      await add(path, others(lineOf))
    }
    if (kinds.includes('routers')) {
      const path = join(folder, ROUTERS)
      if (resume) await keepLines(path, (line) => kept(JSON.parse(line) as LogEntry, resume))
      await add(path, (entry) => (entry.kind === 'routers' ? lineOf(entry) : undefined))
    }
    if (kinds.includes('csv')) {
      const path = join(folder, 'metrics.csv')
      const head = `${COLUMNS.join(',')}\n`
      const known = resume && (await keepLines(path, (line) => keptCsv(line, resume)))
      await add(path, others(csvLine), known ? [] : [head])
    }
    if (kinds.includes('tensorboard')) {
      const now = Date.now() / 1000
      const path = join(folder, await eventFileName(folder, now))
      await add(
        path,
        others((entry, seconds) => scalarRecord(seconds, entry.step, scalars(entry))),
        [versionRecord(now), startRecord(now, resume ? resume.step + 1 : 0)],
        true,
      )
    }
    return new RunLog(files, failed)
  }

  /** Appends an entry, with the time. What cannot be written is kept, and written with the next entry. */
  async write(entry: LogEntry): Promise<void> {
    const now = new Date()
    const stamped = { ...entry, time: now.toISOString() }
    await this.each(async ({ file, encode }) => {
      const record = encode(stamped, now.getTime() / 1000)
      if (record !== undefined) await file.append(record)
    })
  }

  /** Makes all entries durable: a saved state is not ahead of its log. */
  async sync(): Promise<void> {
    await this.each(async ({ file }) => {
      await file.flush()
      await file.sync()
    })
  }

  /** Closes the files. Throws an InputError where entries could not be written. */
  async close(): Promise<void> {
    await this.each(({ file }) => file.flush())
    const behind = this.files.filter(({ file }) => file.behind || file.lost > 0).map(({ file }) => file.path)
    for (const { file } of this.files) await file.close().catch(() => {})
    if (behind.length)
      throw new InputError(`${behind.join(', ')}: the last entries could not be written, so the log is incomplete.`)
  }

  private async each(act: (log: Log) => Promise<void>): Promise<void> {
    let failure: { path: string; error: Error } | undefined
    for (const file of this.files)
      await act(file).catch((error: Error) => void (failure ??= { path: file.file.path, error }))
    if (failure && !this.failing)
      this.failed(
        `${failure.path}: the log cannot be written (${(failure.error as NodeJS.ErrnoException).code ?? failure.error.message}); training goes on, and the entries are written once that is possible.`,
      )
    this.failing = failure !== undefined
  }
}

const kept = ({ kind, step, epoch }: LogEntry, at: LogPlace): boolean =>
  kind === 'epoch' ? epoch <= at.epoch : step <= at.step

function keptCsv(line: string, at: LogPlace): boolean {
  const [, kind, epoch, step] = line.split(',')
  if (kind === 'kind') return true
  return kept({ kind: kind!, epoch: Number(epoch), step: Number(step) }, at)
}

/**
 * Removes the lines that `keep` refuses or fails on, and a last one that was cut. Whether there was such a file with a
 * line.
 */
async function keepLines(path: string, keep: (line: string) => boolean): Promise<boolean> {
  if (!existsSync(path)) return false
  const text = await readFile(path, 'utf8')
  const lines = text.split('\n').slice(0, -1)
  const right = lines.filter((line) => {
    try {
      return keep(line)
    } catch {
      return false // cut by a power loss, or not ours
    }
  })
  const after = right.map((line) => `${line}\n`).join('')
  if (after !== text) await writeFileAtomic(path, after)
  return right.length > 0
}
