/**
 * The interface to the native addon: finds and loads it at first use, and types its functions. This file must stay
 * directly in `lib`, one level below the package root.
 */
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { arch, constrainedMemory, platform, versions } from 'node:process'
import { fileURLToPath } from 'node:url'
import { cause, MISSING, refusal, system, type System } from './addon.js'

/** A tensor on the native side. Opaque; made by `create`, `upload`, `view` and `mapped` alone. */
export interface NativeTensor {
  readonly native: unique symbol
}
/**
 * Roles of arguments, as the C++ signatures have them: `act` may be float32, or bfloat16 together with all others of
 * the call.
 */
export type tensor = NativeTensor
export type out = NativeTensor
export type inout = NativeTensor
export type act = NativeTensor
export type actOut = NativeTensor
export type actInOut = NativeTensor
export type tensors = readonly NativeTensor[]
export type inouts = readonly NativeTensor[]
export type floats = readonly number[]
export type float = number
export type int = number
export type bool = boolean

/**
 * The operators: every call checks its arguments, takes its place in the queue and returns. Each file of lib/ops
 * declares its own here, beside the calls; a test compares them with the addon.
 */
// biome-ignore lint/suspicious/noEmptyInterface: lib/ops fills it
export interface Ops {}

/** Counters of the whole process; `bytes` counts tensors alive, `peak` what was really allocated at one time. */
export interface Memory {
  bytes: number
  peak: number
  cached: number
  tensors: number
  /** Frozen weights in the layout of the CPU's kernels, kept beside the weights themselves. */
  packed: number
  /** Bytes of files that tensors lie in; the system keeps of them in memory what it has room for. */
  mapped: number
  /** Bytes of CPU tensors that are reported to the garbage collector, and the number of reports so far. */
  external: number
  reports: number
  limit: number
}

/**
 * Counters of a CUDA device, of the whole process: what is allocated now, the most at one time, what the device has.
 */
export interface DeviceMemory {
  bytes: number
  peak: number
  limit: number
}

/** What a rehearsed computation would take at one time: in use, and with the freed blocks that are kept. */
export interface Rehearsed {
  peak: number
  resident: number
}

/** A CUDA device as the driver describes it, or why it cannot be used. */
export type NativeDevice =
  | { name: string; capability: string; multiprocessors: number; memory: number; free: number }
  | { failure: string }

/** What the addon can run on: whether it holds CUDA kernels, for which architectures, and why there is no device. */
export interface NativeDevices {
  built: boolean
  emulated: boolean
  architectures: string
  reason: string
  devices: NativeDevice[]
  /**
   * Of the emulated addon alone: calls into the runtime since the process began. `launches` of kernels, `copies` and
   * `fills`, eager or captured; `mallocs`, `frees`; `graphs` made, `nodes` in all of them, `replays`; and launches by
   * source file, as in `ops/layernorm.cu`. Counts what the queue has executed: wait for it first.
   */
  counts?: Record<string, number>
  products: { by: 'own' | 'cublaslt'; reason: string }
  /** The instructions that CPU kernels use, and whether some multiply bfloat16. */
  cpu: { isa: 'avx512' | 'avx2' | 'neon' | 'portable'; bfloat16: boolean }
}

/** A captured CUDA graph. */
export interface NativeGraph {
  readonly graph: unique symbol
}

/** A recording of operators, with a start and an end in the queue. */
export interface NativeRecord {
  readonly record: unique symbol
}

/** The events of a recording, in queue order; each array has one number per event. */
export interface NativeEvents {
  /** Operator names, and for each event the index of its name. */
  operators: string[]
  operator: Int32Array
  /** Device's number, -1 for the CPU. */
  device: Int32Array
  /** Nanoseconds from the start of the recording, and nanoseconds that the operator took. */
  start: Float64Array
  duration: Float64Array
  /** Bytes. */
  read: Float64Array
  written: Float64Array
  /** Events that were dropped, and nanoseconds from the start of the recording to its end. */
  dropped: number
  elapsed: number
}

/** What measures a machine, for benchmarks and tests. */
export interface Instruments {
  /** A rate that this machine reaches, in operations or bytes per second, on the threads of the CPU backend. */
  ceiling(what: 'float32' | 'bfloat16' | 'read' | 'readSmallPages' | 'copy'): number
  /** Which lane of a device's tensor cores holds which element, as measured and as the PTX manual says. */
  fragments(device: number): { found: number[]; expected: number[] }
}

/** MPI, on a thread of its own; `lib/ranks/mpi.ts` opens it. */
export interface Mpi {
  /** Opens the first of these libraries that is there. Once a process. */
  open(libraries: readonly string[]): Promise<void>
  about(): { rank: number; size: number; version: string; file: string }
  allgather(bytes: Uint8Array): Promise<ArrayBuffer>
  alltoall(bytes: Uint8Array): Promise<ArrayBuffer>
  broadcast(bytes: Uint8Array, root: number): Promise<ArrayBuffer>
  abort(code: number): void
  close(): Promise<void>
}

export interface Native {
  /**
   * `into`: a released tensor whose handle is reused. A Float64Array, and a dtype's number, are passed to native code
   * at a fraction of the cost of an array and a name.
   */
  create(
    shape: readonly number[] | Float64Array,
    dtype: string | number,
    device?: number,
    into?: NativeTensor,
  ): NativeTensor
  upload(bytes: Uint8Array, shape: readonly number[], dtype: string): NativeTensor
  view(
    base: NativeTensor,
    shape: readonly number[] | Float64Array,
    strides: readonly number[] | Float64Array,
    offset: number,
    into?: NativeTensor,
  ): NativeTensor
  freeze(t: NativeTensor): void
  transfer(t: NativeTensor, device: number): NativeTensor
  device(t: NativeTensor): number
  devices(): NativeDevices
  beginCapture(device: number, shared: boolean): void
  endCapture(device: number): NativeGraph
  replay(graph: NativeGraph): void
  graphMemory(graph: NativeGraph): number
  releaseGraph(graph: NativeGraph): void
  profileStart(most: number): void
  profileStop(): NativeRecord
  profileEvents(record: NativeRecord): NativeEvents
  map(path: string): object
  mapped(mapping: object, offset: number, shape: readonly number[], dtype: string): NativeTensor
  openFile(path: string): object
  load(
    file: object,
    offset: number,
    shape: readonly number[],
    stored: string,
    dtype: string,
    asItIs: boolean,
    forget: boolean,
  ): NativeTensor
  rehearse: { (begin: true, copies: boolean): void; (begin: false): Rehearsed }
  limitMemory(bytes: number): void
  read(t: NativeTensor): Promise<ArrayBuffer>
  readBlocking(t: NativeTensor): ArrayBuffer
  release(t: NativeTensor): void
  sync(): Promise<void>
  syncBlocking(): void
  memory: { (): Memory; (device: number): DeviceMemory }
  resetPeak(device?: number): void
  releaseCached(): void
  threads(n?: number): number
  instruments: Instruments
  mpi: Mpi
  ops: Ops
  signatures: string[]
}

/**
 * The addon's file, and what failed before it: each as "file: reason", the environment's first. That nothing was built
 * on this machine is no failure.
 */
export interface Addon {
  path: string
  failures: string[]
}

let loaded: (Addon & { native: Native }) | undefined

/** The addon, loaded on first use. Throws an error that lists what was tried and what to do. */
export function native(): Native {
  return (loaded ??= load()).native
}

/** Where the addon was found; loads it. Throws as {@link native} does. */
export function addon(): Addon {
  const { path, failures } = (loaded ??= load())
  return { path, failures }
}

/**
 * Where the addon is looked for, in this order: what MT_ADDON names, what was built on this machine, what the package
 * brought.
 */
export function addonPlaces(): string[] {
  const { MT_ADDON: given } = process.env
  return [...(given ? [resolve(given)] : []), ownBuild(), placeOf(`prebuilds/${platform}-${arch}`)]
}

const placeOf = (folder: string): string => fileURLToPath(new URL(`../${folder}/mtransllama.node`, import.meta.url))
const ownBuild = (): string => placeOf('build/Release')

/** What to do where no addon can be loaded. */
export const BUILD =
  'Build it for this machine with "npx mtransllama build"; that needs a C++20 compiler, make, and cmake or python3.'

function load(): Addon & { native: Native } {
  const require = createRequire(import.meta.url)
  const failures: string[] = []
  let found: System | undefined
  for (const path of addonPlaces()) {
    const refused = refusal(path, { platform, arch })
    if (refused !== undefined) {
      failures.push(`${path}: ${refused}`)
      continue
    }
    try {
      const native = require(path) as Native
      // A container's limit, which the addon does not see. 0: none is known.
      const most = constrainedMemory()
      if (most > 0 && Number.isSafeInteger(most)) native.limitMemory(most)
      return { native, path, failures: failures.filter((failure) => failure !== `${ownBuild()}: ${MISSING}`) }
    } catch (error) {
      failures.push(`${path}: ${cause(path, (error as Error).message, (found ??= system()))}`)
    }
  }
  throw new Error(
    [
      `mtransllama: the native addon could not be loaded (${platform}-${arch}, Node ${versions.node}):`,
      ...failures.map((failure) => `  ${failure}`),
      BUILD,
    ].join('\n'),
  )
}
