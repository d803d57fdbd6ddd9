/**
 * The shared part of the stages of bench/gpu: arguments, the device, results that are written after every row. The exit
 * code of a stage is 0, 3 where it cannot run here (its last line gives the reason), or another where it failed.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Device, devices } from '../../lib/tensor/device.js'
import { option } from './child.mjs'

export { option } from './child.mjs'

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

export const quick = process.argv.includes('--quick')
/** The deadline of the stage: later rows are reported as not run. A worker has its stage's. */
export const deadline = Number(option('deadline') ?? Date.now() + 1000 * Number(option('seconds') ?? 1e6))
export const late = (): boolean => Date.now() > deadline
export const noTime = 'no time was left'

export const shapes = (): Item[] => {
  const all = JSON.parse(readFileSync(fileURLToPath(new URL('shapes.json', import.meta.url)), 'utf8')) as Shapes
  return quick ? all.quick : all.items
}

/** Ends the stage; a worker tells the process that started it. */
export function unavailable(reason: string): never {
  if (process.send) process.send({ unavailable: reason })
  else console.log(reason)
  process.exit(3)
}

/** The device to measure; where there is none the stage ends. */
export function gpu(): { device: Device; emulated: boolean } {
  let found: ReturnType<typeof devices>
  try {
    found = devices()
  } catch (error) {
    unavailable(
      (error as Error).message
        .split('\n')
        .slice(0, 2)
        .map((line) => line.trim())
        .join(' '),
    )
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

/** Something that a library or a machine lacks, not a failure. */
const lacking = /has no CUDA twin|out of memory|^needs |MT_GEMM=cublaslt/

/** Runs `f` for one row; its error becomes the row's reason. */
export async function attempt(id: string, f: () => object | Promise<object>): Promise<Row> {
  try {
    return { id, status: 'ok', ...(await f()) }
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0]!
    return { id, status: lacking.test(reason) ? 'unavailable' : 'failed', reason }
  }
}
