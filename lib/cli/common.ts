/** Functions that several commands share. */
import { performance } from 'node:perf_hooks'
import cliProgress from 'cli-progress'
import type { Command } from 'commander'
import { TIMEOUT } from '../data/frames.js'
import { invalid } from '../errors.js'
import type { Precision } from '../tensor/dtype.js'
import { chooseDevice, type Device, type DeviceChoice } from '../tensor/device.js'
import { memory } from '../tensor/runtime.js'

/** The options of every command that computes. */
export interface Computes {
  device: string
  precision: string
  graphs: boolean
}

/** Adds them to a command. */
export const computes = (command: Command): Command =>
  command
    .option('--device <device>', 'auto, cpu, cuda or cuda:NUMBER', 'auto')
    .option('--precision <dtype>', 'what activations and matrices are stored in: float32 or bfloat16', 'float32')
    .option('--no-graphs', 'on a GPU, launch operators one by one instead of as a graph')

/** The options of every command that opens a model and reads clips for it. */
export interface Opens extends Computes {
  model: string
  adapter?: string
  timeout: string
}

/** Adds them to a command. */
export const opens = (command: Command): Command =>
  computes(command)
    .requiredOption('--model <dir>', 'image model in the Hugging Face layout')
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

/** The time in seconds in an option's text. */
export function seconds(name: string, text: string): number {
  const n = Number(text)
  if (!(n > 0)) throw invalid(name, 'seconds above 0', text)
  return n
}

/**
 * Resolves the options of {@link computes}. `say` prints the device with the reason, and what was assumed of the model,
 * to the error stream; call it once everything else was checked.
 */
export function chosen({ device, precision, graphs }: Computes): {
  device: Device
  precision: Precision
  graphs: boolean
  say(assumed: { notes: readonly string[] }): void
} {
  if (precision !== 'float32' && precision !== 'bfloat16')
    throw invalid('--precision', 'float32 or bfloat16', precision)
  const choice = chooseDevice(device as DeviceChoice)
  return {
    device: choice.device,
    precision,
    graphs,
    say({ notes }) {
      console.error(`mtransllama: computing on ${choice.device} (${choice.reason})`)
      for (const note of notes) console.error(`mtransllama: note: ${note}`)
    },
  }
}

/** The signals that stop a command, and its exit code then: 128 and the signal's number. */
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

/**
 * A signal that Ctrl-C, SIGTERM or SIGHUP aborts; a second one ends the process at once. Call `done` at the end.
 *
 * @param what what the command then does, for the message
 */
export function interruptible(what = 'stopping'): { signal: AbortSignal; done(): void } {
  const controller = new AbortController()
  const stop = (name: keyof typeof SIGNALS): void => {
    if (controller.signal.aborted) process.exit(SIGNALS[name])
    // A terminal that hung up takes no more output; that must not end what is being saved.
    if (name === 'SIGHUP') for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
    console.error(`\nmtransllama: ${what}; press Ctrl-C again to end at once.`)
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
  update(value: number, payload: Record<string, string> = {}): void {
    this.#bar.update(value, payload)
  }
  stop(): void {
    this.#bar.stop()
  }
}

/** `0.640` as `64.0 %`. */
export const percent = (x: number): string => `${(100 * x).toFixed(1)} %`

/** Native memory in use, as text. */
export const memoryText = (): string => `${(memory().bytes / 2 ** 20).toFixed(0)} MiB`
