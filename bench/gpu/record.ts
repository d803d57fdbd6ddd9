/**
 * What the stages of bench/gpu share: arguments, the device, results that are written whole after every row. A stage ends
 * with 0, with 3 where it cannot run here (its last line says why), or with anything else where it failed.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Device, devices } from '../../lib/tensor/device.js'

export interface Row {
  id: string
  status: 'ok' | 'failed' | 'unavailable'
  reason?: string
  [key: string]: unknown
}

export interface Shapes {
  items: Item[]
  quick: Item[]
}

/** One line of shapes.json. */
export interface Item {
  id: string
  kind: string
  passes?: ('forward' | 'backward')[]
  goal?: { forward?: number; backward?: number }
  [key: string]: unknown
}

/** `--name value` and `--name`. */
export function option(name: string): string | undefined {
  const at = process.argv.indexOf(`--${name}`)
  return at < 0 ? undefined : (process.argv[at + 1] ?? '')
}
export const quick = process.argv.includes('--quick')
/** When the stage should have ended: rows after that say so instead of running. */
const deadline = Date.now() + 1000 * Number(option('seconds') ?? 1e6)
export const late = (): boolean => Date.now() > deadline

export const shapes = (): Item[] => {
  const all = JSON.parse(readFileSync(fileURLToPath(new URL('shapes.json', import.meta.url)), 'utf8')) as Shapes
  return quick ? all.quick : all.items
}

export function unavailable(reason: string): never {
  console.log(reason)
  process.exit(3)
}

/** The device to measure; where there is none the stage ends. */
export function gpu(): { device: Device; emulated: boolean } {
  let found: ReturnType<typeof devices>
  try {
    found = devices()
  } catch (error) {
    unavailable((error as Error).message.split('\n').slice(0, 2).map((line) => line.trim()).join(' '))
  }
  const device = found.cuda.devices[0]?.device
  return device ? { device, emulated: found.cuda.emulated } : unavailable(found.cuda.reason)
}

/** Writes `result` to the file that --to names, whole or not at all. */
export function save(result: object): void {
  const to = option('to')
  const text = JSON.stringify(result)
  if (!to) return void console.log(text)
  writeFileSync(`${to}.part`, text)
  renameSync(`${to}.part`, to)
}

/** Runs `f` for one row; what it throws becomes the row's reason. */
export function attempt(id: string, f: () => object): Row {
  if (late()) return { id, status: 'unavailable', reason: 'no time was left' }
  try {
    return { id, status: 'ok', ...f() }
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0]!
    return { id, status: /has no CUDA twin|out of memory/.test(reason) ? 'unavailable' : 'failed', reason }
  }
}
