/**
 * The opponents of the benchmarks on the CPU. Each runs in a process of its own, gets its inputs and weights in one
 * safetensors file, and gives its outputs the same way, so that they can be compared before times are.
 *
 * A request is a line of JSON, and so is its answer:
 *
 *   at the start                                      {version, details} or {missing: reason}
 *   {do: 'prepare', case: PeerCase, outputs: path}    {} once the outputs are in that safetensors file
 *   {do: 'sample', id, ms}                            {wall: [...], cpu: [...]} microseconds of each call
 *   {do: 'peak', id}                                  {bytes: number | null}
 *   {do: 'forget', id}                                {}
 *
 * or {unavailable: reason}.
 */
import { rm } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { InputError, invalid } from '../../lib/errors.js'
import { readAsFloat32, readHeader } from '../../lib/files/safetensors.js'
import { Child, type Reply } from './child.js'
import { KEPT_MEMORY, pythons, torchEnvironment } from './python.js'

/** One case for a peer. Tensors and outputs of each kind: README.md beside this file. */
export interface PeerCase {
  /** Unique among the cases of a run. */
  id: string
  kind: 'core' | 'block' | 'qformer' | 'linear'
  pass: 'forward' | 'forward+backward'
  /**
   * The attention of tokens [B,T,L,D]: per frame, then over time with the same weights; or all T·L at once. Not for
   * 'linear'.
   */
  form: 'factorized' | 'joint'
  sizes: {
    B: number
    T: number
    L: number
    K: number
    heads: number
    D: number
    layers?: number
    KV?: number
    DV?: number
    rank?: number
    scaling?: number
    eps?: number
  }
  dtype: 'float32' | 'bfloat16'
  /** A safetensors file of float32. */
  tensors: string
}

export interface Peer {
  name: string
  version: string
  /** Which BLAS, how many threads, which kernels. */
  details: Record<string, string>
  /**
   * Builds the case, runs it once and gives its outputs; {unavailable} with the reason where this peer cannot do it.
   */
  prepare(c: PeerCase): Promise<{ outputs: Record<string, Float32Array> } | { unavailable: string }>
  /**
   * Microseconds of each call, for about `ms` milliseconds after a call to warm up: by the wall, or of CPU time of all
   * its threads.
   */
  sample(c: PeerCase, ms: number, clock?: 'wall' | 'cpu'): Promise<number[]>
  /**
   * Most resident bytes during a call, beyond what the process had before `prepare`: weights count. Memory of a
   * forgotten case may be reused, so ask a peer that was just opened. Undefined where it cannot be measured.
   */
  peak(c: PeerCase): Promise<number | undefined>
  forget(c: PeerCase): Promise<void>
  close(): Promise<void>
}

export interface Missing {
  name: string
  reason: string
}

const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url))

interface Candidate {
  name: string
  /** Commands that may start it; the first that works is used. */
  commands: [string, ...string[]][]
  env?: NodeJS.ProcessEnv
  advice: string
}

function candidates(threads: number): Candidate[] {
  const node = (file: string, ...args: string[]): [string, ...string[]] => [
    process.execPath,
    '--import',
    'tsx',
    here(file),
    `${threads}`,
    ...args,
  ]
  const installed = 'npm run bench:peers installs it'
  return [
    { name: 'onnxruntime', commands: [node('onnxruntime.ts')], advice: installed },
    { name: 'onnxruntime MHA', commands: [node('onnxruntime.ts', 'MHA')], advice: installed },
    { name: 'tfjs-wasm', commands: [node('tfjs.ts')], advice: installed },
    ...[[], ['compile']].map((how) => ({
      name: ['torch', ...how].join(' '),
      commands: pythons().map((python): [string, ...string[]] => [python, here('torch_cpu.py'), `${threads}`, ...how]),
      env: torchEnvironment(threads),
      advice:
        'npm run bench:peers installs it where pip has it; or say in MT_PYTHON which python3 has it (Debian: python3-torch and libopenblas0-pthread)',
    })),
  ]
}

const START_MS = 120_000
const CALL_MS = 600_000

/**
 * All peers that are there, and for each that is not, its name and why. Each computes with `threads` threads; `only`
 * names some.
 */
export async function openPeers(options: {
  threads: number
  only?: string[]
}): Promise<{ peers: Peer[]; missing: Missing[] }> {
  const { threads, only } = options
  if (!Number.isInteger(threads) || threads < 1) throw invalid('threads', 'a whole number above 0', threads)
  const all = candidates(threads)
  const unknown = only?.find((name) => !all.some((c) => c.name === name))
  if (unknown !== undefined) throw invalid('only', `names among ${all.map((c) => c.name).join(', ')}`, unknown)
  const peers: Peer[] = []
  const missing: Missing[] = []
  for (const candidate of all.filter((c) => only?.includes(c.name) ?? true)) {
    const opened = await open(candidate)
    if ('reason' in opened) missing.push(opened)
    else peers.push(opened)
  }
  return { peers, missing }
}

async function open({ name, commands, env, advice }: Candidate): Promise<Peer | Missing> {
  const reasons: string[] = []
  for (const [command, ...args] of commands) {
    const child = new Child(command, args, { ...(env ?? process.env), ...KEPT_MEMORY }, START_MS)
    const hello = await child.greeting
    if (typeof hello.version === 'string') return peer(name, hello, child)
    await child.close()
    reasons.push(hello.missing ?? hello.unavailable ?? 'it did not say its version')
  }
  return { name, reason: `${reasons.join('; ')} (${advice})` }
}

function peer(name: string, hello: Reply, child: Child): Peer {
  const ask = async (request: object, ms: number): Promise<Reply> => {
    const reply = await child.ask(request, ms)
    if (typeof reply.unavailable === 'string') throw new InputError(`${name}: ${reply.unavailable}.`)
    return reply
  }
  return {
    name,
    version: hello.version,
    details: hello.details,
    async prepare(c) {
      const path = `${c.tensors}.${name.replaceAll(' ', '-')}`
      const reply = await child.ask({ do: 'prepare', case: c, outputs: path }, CALL_MS)
      try {
        if (typeof reply.unavailable === 'string') return { unavailable: reply.unavailable }
        const header = await readHeader(path)
        const outputs: Record<string, Float32Array> = {}
        for (const key of header.entries.keys()) outputs[key] = await readAsFloat32(header, key)
        return { outputs }
      } catch (error) {
        return { unavailable: (error as Error).message }
      } finally {
        await rm(path, { force: true })
      }
    },
    sample: async ({ id }, ms, clock = 'wall') => (await ask({ do: 'sample', id, ms }, CALL_MS + ms))[clock],
    peak: async ({ id }) => (await ask({ do: 'peak', id }, CALL_MS)).bytes ?? undefined,
    forget: async ({ id }) => void (await ask({ do: 'forget', id }, CALL_MS)),
    close: () => child.close(),
  }
}
