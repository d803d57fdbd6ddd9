/** The shared part of the peers in Node.js: answers the requests of client.ts by a function per case. */
import { createInterface } from 'node:readline'
import { readFileSync, writeFileSync } from 'node:fs'
import { writeSafetensors } from '../../lib/files/safetensors.js'
import type { PeerCase } from './client.js'

export interface Output {
  shape: readonly number[]
  data: Float32Array
}

export interface Prepared {
  /** Computes everything anew. */
  run(): Promise<void> | void
  /** Outputs of the last run, by name. */
  outputs(): Record<string, Output>
  forget(): Promise<void> | void
}

export interface Opponent {
  version: string
  details: Record<string, string>
  prepare(c: PeerCase, scratch: string): Promise<Prepared>
}

/** Answers until stdin closes. A failed import makes the peer missing. */
export async function serve(open: (threads: number, ...more: string[]) => Promise<Opponent>): Promise<void> {
  const say = (reply: object): void => void process.stdout.write(`${JSON.stringify(reply)}\n`)
  console.log = console.info = console.error // a library's output must not look like a reply
  const [threads, ...more] = process.argv.slice(2)
  let opponent: Opponent
  try {
    opponent = await open(Number(threads), ...more)
  } catch (error) {
    return say({ missing: firstLine(error) })
  }
  say({ version: opponent.version, details: opponent.details })
  const cases = new Map<string, { prepared: Prepared; before: number | undefined }>()
  for await (const line of createInterface(process.stdin)) {
    try {
      say(await answer(opponent, cases, JSON.parse(line)))
    } catch (error) {
      say({ unavailable: firstLine(error) })
    }
  }
}

type Request =
  | { do: 'prepare'; case: PeerCase; outputs: string }
  | { do: 'sample'; id: string; ms: number }
  | { do: 'peak' | 'forget'; id: string }

async function answer(
  opponent: Opponent,
  cases: Map<string, { prepared: Prepared; before: number | undefined }>,
  request: Request,
): Promise<object> {
  if (request.do === 'prepare') {
    const before = resident('VmRSS')
    const prepared = await opponent.prepare(request.case, request.outputs)
    await prepared.run()
    await writeSafetensors(
      request.outputs,
      Object.entries(prepared.outputs()).map(([name, { shape, data }]) => ({ name, dtype: 'F32', shape, data })),
    )
    cases.set(request.case.id, { prepared, before })
    return {}
  }
  const { prepared, before } = cases.get(request.id)!
  if (request.do === 'sample') return await sample(prepared, request.ms)
  if (request.do === 'peak') return { bytes: await peak(prepared, before) }
  await prepared.forget()
  cases.delete(request.id)
  return {}
}

async function sample(prepared: Prepared, ms: number): Promise<{ wall: number[]; cpu: number[] }> {
  await prepared.run()
  const [wall, cpu]: [number[], number[]] = [[], []]
  const end = performance.now() + ms
  do {
    const used = process.cpuUsage()
    const start = performance.now()
    await prepared.run()
    wall.push(1e3 * (performance.now() - start))
    const { user, system } = process.cpuUsage(used)
    cpu.push(user + system)
  } while (performance.now() < end)
  return { wall, cpu }
}

/** Most resident bytes during a call beyond `before`; null where /proc does not tell. */
async function peak(prepared: Prepared, before: number | undefined): Promise<number | null> {
  try {
    writeFileSync('/proc/self/clear_refs', '5') // resets the high-water mark
  } catch {
    return null
  }
  await prepared.run()
  const most = resident('VmHWM')
  return most === undefined || before === undefined ? null : Math.max(0, most - before)
}

function resident(key: 'VmRSS' | 'VmHWM'): number | undefined {
  try {
    return 1024 * Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync('/proc/self/status', 'utf8'))![1])
  } catch {
    return undefined
  }
}

function firstLine(error: unknown): string {
  const { message, name } = error as Error
  return (message || name).trim().split('\n')[0]!.slice(0, 300)
}
