/** Functions that several commands share. */
import { performance } from 'node:perf_hooks'
import cliProgress from 'cli-progress'
import type { Command } from 'commander'
import { TIMEOUT } from '../data/frames.js'
import { invalid } from '../errors.js'
import { findModel } from '../files/hub.js'
import { WEIGHTS, type WeightsChoice } from '../session/budget.js'
import type { Checkpoint, LoadOptions } from '../session/checkpoint.js'
import type { Precision } from '../tensor/dtype.js'
import { chooseDevice, type Device, type DeviceChoice } from '../tensor/device.js'
import { memory } from '../tensor/runtime.js'
import { readTrainConfig, type TrainConfig } from '../train/config.js'

/** The options of every command that computes. */
export interface Computes {
  device: string
  precision: string
  graphs: boolean
  weights: string
}

/** Adds them to a command. */
export const computes = (command: Command): Command =>
  command
    .option('--device <device>', 'auto, cpu, cuda or cuda:NUMBER', 'auto')
    .option(
      '--precision <dtype>',
      'what activations are stored in: float32, bfloat16 (matrices too then), or auto: as matrices are held, where the processor or the GPU multiplies it',
      'auto',
    )
    .option(
      '--weights <form>',
      `how frozen matrices are held: ${WEIGHTS.join(', ')}; auto: as stored, but bfloat16 where float32 would take more than a third of the memory`,
      'auto',
    )
    .option('--no-graphs', 'on a GPU, launch operators one by one instead of as a graph')

/** Where a model of the hub comes from. */
export interface FromHub {
  revision?: string
  offline?: boolean
}

/** Adds its options to a command. */
export const fromHub = (command: Command): Command =>
  command
    .option('--revision <name>', 'branch, tag or commit of a model of the hub (default: main)')
    .option('--offline', 'take models of the hub from the cache alone (default: where HF_HUB_OFFLINE is set)')

/** A bar of bytes, in GB, that appears at the first report. */
export class Progress {
  #bar: Bar | undefined
  constructor(readonly what: string) {}
  readonly onProgress = (bytes: number, total: number): void => {
    const gigabytes = (n: number): number => Number((n / 1e9).toFixed(2))
    this.#bar ??= new Bar(this.what, gigabytes(total), 'GB')
    this.#bar.update(gigabytes(bytes))
  }
  stop(): void {
    this.#bar?.stop()
  }
  [Symbol.dispose](): void {
    this.stop()
  }
}

/** The folder of a model: of that name, or in the cache of the hub's; with a bar while it is being loaded. */
export async function located(name: string, { revision, offline }: FromHub): Promise<string> {
  using progress = new Progress(name)
  const { onProgress } = progress
  const { signal, done } = interruptible('stopping; what was loaded is kept')
  try {
    const { folder, note } = await findModel(name, { revision, offline, signal, onProgress })
    if (note) console.error(`mtransllama: note: ${note}`)
    return folder
  } finally {
    done()
  }
}

/** A training's configuration, whose model is {@link located}. */
export async function configured(path: string, from: FromHub): Promise<TrainConfig> {
  const config = await readTrainConfig(path)
  return { ...config, model: await located(config.model, from) }
}

/** The options of every command that opens a model and reads clips for it. */
export interface Opens extends Computes, FromHub {
  model: string
  adapter?: string
  timeout: string
}

/** Adds them to a command. */
export const opens = (command: Command): Command =>
  fromHub(computes(command))
    .requiredOption('--model <dir>', 'image model: a folder in the Hugging Face layout, or OWNER/NAME of the hub')
    .option('--adapter <dir>', 'trained adapter; without one the image model answers')
    .option('--timeout <seconds>', 'longest time to read one clip', String(TIMEOUT))

/** The number in an option's text; undefined where the option is not given. */
export function number(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const n = Number(text)
  if (text.trim() === '' || Number.isNaN(n)) throw invalid(name, 'a number', text)
  return n
}

/** The whole number of at least 1 in an option's text. */
export function count(name: string, text: string): number {
  const n = Number(text)
  if (!Number.isInteger(n) || n < 1) throw invalid(name, 'a whole number of at least 1', text)
  return n
}

/** The whole number of at least 0 in an option's text. */
export function whole(name: string, text: string): number {
  if (!/^\d+$/.test(text)) throw invalid(name, 'a whole number of at least 0', text)
  return Number(text)
}

/** The number between 0 and 1 in an option's text. */
export function fraction(name: string, text: string): number {
  const n = Number(text)
  if (!(n > 0 && n < 1)) throw invalid(name, 'a number between 0 and 1', text)
  return n
}

/** The time in seconds in an option's text. */
export function seconds(name: string, text: string): number {
  const n = Number(text)
  if (!(n > 0)) throw invalid(name, 'seconds above 0', text)
  return n
}

/** What {@link chosen} resolves the options to. */
export interface Chosen extends Pick<LoadOptions, 'onLoad'> {
  device: Device
  precision: Precision | 'auto'
  weights: WeightsChoice
  graphs: boolean
  /**
   * Prints the device with the reason, a precision other than float32 that was chosen, and what was decided or assumed
   * for the model, to the error stream; to be called once everything else was checked.
   */
  say(checkpoint: Pick<Checkpoint, 'notes' | 'precisionReason' | 'model'>): void
}

/** Resolves the options of {@link computes}; `onLoad` shows a bar while weights are read. */
export function chosen({ device, precision, weights, graphs }: Computes): Chosen {
  if (precision !== 'auto' && precision !== 'float32' && precision !== 'bfloat16')
    throw invalid('--precision', 'float32 or bfloat16', precision, 'auto chooses one of them')
  if (!(WEIGHTS as readonly string[]).includes(weights)) throw invalid('--weights', WEIGHTS.join(', '), weights)
  const choice = chooseDevice(device as DeviceChoice)
  let bar: Bar | undefined
  return {
    device: choice.device,
    precision,
    graphs,
    weights: weights as WeightsChoice,
    onLoad(bytes, total) {
      const gigabytes = (n: number): number => Number((n / 1e9).toFixed(1))
      bar ??= new Bar('weights', gigabytes(total), 'GB')
      bar.update(gigabytes(bytes))
      if (bytes >= total) bar.stop()
    },
    say({ notes, precisionReason, model }) {
      console.error(`mtransllama: computing on ${choice.device} (${choice.reason})`)
      if (precision === 'auto' && model.precision !== 'float32')
        console.error(`mtransllama: in ${model.precision}, ${precisionReason}`)
      for (const note of notes) console.error(`mtransllama: note: ${note}`)
    },
  }
}

/** The signals that stop a command, and its exit code then: 128 and the signal's number. */
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129, SIGUSR2: 140 } as const

/**
 * A signal that Ctrl-C, SIGTERM, SIGHUP or SIGUSR2 aborts, the last of which mpirun passes on; a second one ends the
 * process at once. Call `done` at the end.
 *
 * @param what what the command then does, for the message
 * @param says whether this process prints that
 */
export function interruptible(what = 'stopping', says = true): { signal: AbortSignal; done(): void } {
  const controller = new AbortController()
  const stop = (name: keyof typeof SIGNALS): void => {
    if (controller.signal.aborted) process.exit(SIGNALS[name])
    // A terminal that hung up takes no more output; that must not end what is being saved.
    if (name === 'SIGHUP') for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
    if (says) console.error(`\nmtransllama: ${what}; press Ctrl-C again to end at once.`)
    controller.abort(new Interrupted(SIGNALS[name]))
  }
  const names = Object.keys(SIGNALS) as (keyof typeof SIGNALS)[]
  for (const name of names) process.on(name, stop)
  return {
    signal: controller.signal,
    done() {
      for (const name of names) process.off(name, stop)
    },
  }
}

/** The error of an aborted command. */
export class Interrupted extends Error {
  override name = 'AbortError'
  constructor(readonly code: number) {
    super('stopped by the user')
  }
}

/** A progress bar on the terminal's error stream; silent where there is no terminal. */
export class Bar {
  readonly #bar: cliProgress.SingleBar
  readonly #start = performance.now()
  constructor(what: string, total: number, details = '') {
    this.#bar = new cliProgress.SingleBar(
      {
        format: `${what} {bar} {value}/{total} | {eta_formatted} left${details ? ` | ${details}` : ''}`,
        stream: process.stderr,
        hideCursor: true,
        etaBuffer: 50,
        barsize: 24,
      },
      cliProgress.Presets.shades_classic,
    )
    this.#bar.start(total, 0, Object.fromEntries([...details.matchAll(/\{(\w+)\}/g)].map((m) => [m[1]!, '-'])))
  }
  get seconds(): number {
    return (performance.now() - this.#start) / 1000
  }
  /** @param total where it was not known at the start */
  update(value: number, payload: Record<string, string> = {}, total?: number): void {
    if (total !== undefined) this.#bar.setTotal(total)
    this.#bar.update(value, payload)
  }
  stop(): void {
    this.#bar.stop()
  }
}

/** `0.640` as `64.0 %`. */
export const percent = (x: number): string => `${(100 * x).toFixed(1)} %`

/** A probability under chance, as text. */
export const chance = (p: number): string => (p < 0.001 ? '<0.001' : p.toFixed(3))

/** Native memory in use, as text. */
export const memoryText = (): string => `${(memory().bytes / 2 ** 20).toFixed(0)} MiB`
