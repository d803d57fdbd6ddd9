/**
 * The interface to the native addon: finds and loads it at first use, and types its functions. This file must stay
 * directly in `lib`, one level below the package root.
 */
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { arch, platform, versions } from 'node:process'
import { fileURLToPath } from 'node:url'

/** A tensor on the native side. Opaque; made by `create`, `upload`, `view` and `mapped` alone. */
export interface NativeTensor {
  readonly native: unique symbol
}
// Roles of arguments, as the C++ signatures have them.
type tensor = NativeTensor
type out = NativeTensor
type inout = NativeTensor
// Activations: float32, or bfloat16 all of an operator's.
type act = NativeTensor
type actOut = NativeTensor
type actInOut = NativeTensor
type tensors = readonly NativeTensor[]
type inouts = readonly NativeTensor[]
type floats = readonly number[]
type float = number
type int = number
type bool = boolean

/**
 * The operators. A call checks its arguments, enters the queue and returns. A test compares these signatures with the
 * addon's.
 */
export interface Ops {
  add(a: act, b: act, scale: float, y: actOut): void
  scale(x: act, factor: float, y: actOut): void
  multiply(a: act, b: act, y: actOut): void
  gelu_forward(x: act, y: actOut): void
  gelu_backward(dy: act, x: act, dx: actOut): void
  relu_forward(x: act, y: actOut): void
  relu_backward(dy: act, x: act, dx: actOut): void
  silu_mul_forward(gate: act, up: act, y: actOut): void
  silu_mul_backward(dy: act, gate: act, up: act, dgate: actOut, dup: actOut): void
  gate_forward(a: act, b: act, g: tensor, y: actOut): void
  gate_backward(dy: act, a: act, b: act, g: tensor, da: actOut, db: actOut, dg: out | null): void
  linear_forward(x: act, w: tensor, bias: tensor | null, residual: act | null, y: actOut): void
  linear_gelu_forward(x: act, w: tensor, bias: tensor | null, z: actOut | null, y: actOut): void
  linear_backward_input(dy: act, w: tensor, residual: act | null, dx: actOut): void
  linear_backward_weight(dy: act, x: act, dw: out | null, dbias: out | null): void
  lora_forward(
    x: act,
    w: tensor,
    bias: tensor | null,
    a: tensor,
    b: tensor,
    scaling: float,
    y: actOut,
    shrunk: out,
  ): void
  lora_backward(
    dy: act,
    x: act,
    shrunk: tensor,
    w: tensor,
    a: tensor,
    b: tensor,
    scaling: float,
    residual: act | null,
    dx: actOut | null,
    da: out,
    db: out,
  ): void
  lora_pack(
    a1: tensor,
    b1: tensor,
    first1: int,
    a2: tensor | null,
    b2: tensor | null,
    first2: int,
    a: out,
    b: out,
  ): void
  lora_unpack(db: tensor, first1: int, first2: int, db1: out, db2: out | null): void
  copy(x: tensor, y: out): void
  fill(value: float, y: actOut): void
  random_uniform(seed: int, stream: int, low: float, high: float, y: out): void
  random_normal(seed: int, stream: int, mean: float, std: float, y: out): void
  swap(x: act, y: actOut): void
  layernorm_forward(
    x: act,
    weight: tensor,
    bias: tensor,
    eps: float,
    y: actOut,
    rest: actOut | null,
    mean: out,
    rstd: out,
  ): void
  layernorm_backward(
    dy: act,
    drest: act | null,
    x: act,
    weight: tensor,
    mean: tensor,
    rstd: tensor,
    residual: act | null,
    dx: actOut | null,
    dweight: out | null,
    dbias: out | null,
  ): void
  rmsnorm_forward(x: act, weight: tensor, eps: float, y: actOut, rstd: out): void
  rmsnorm_backward(
    dy: act,
    x: act,
    weight: tensor,
    rstd: tensor,
    residual: act | null,
    dx: actOut | null,
    dweight: out | null,
  ): void
  embedding_forward(ids: tensor, table: tensor, y: actOut): void
  embedding_backward(dy: act, ids: tensor, dtable: out): void
  rope_forward(x: act, positions: tensor, theta: float, turned: int, inverse: bool, y: actOut): void
  patchify_forward(pixels: act, patch: int, y: actOut): void
  patchify_backward(dy: act, patch: int, dpixels: actOut): void
  reduce_forward(x: act, dim: int, factor: float, y: actOut): void
  reduce_backward(dy: act, dim: int, factor: float, dx: actOut): void
  cross_entropy_forward(logits: act, labels: tensor, ignore: int, factor: float, loss: out, lse: out): void
  cross_entropy_backward(
    dloss: tensor,
    logits: act,
    labels: tensor,
    lse: tensor,
    ignore: int,
    factor: float,
    dlogits: actOut,
  ): void
  attention_forward(
    q: act,
    k: act,
    v: act,
    keyMask: tensor | null,
    masks: tensor | null,
    alpha: tensor | null,
    mode: int,
    causal: bool,
    y: actOut,
    lse: out,
  ): void
  attention_backward(
    dy: act,
    q: act,
    k: act,
    v: act,
    keyMask: tensor | null,
    masks: tensor | null,
    alpha: tensor | null,
    mode: int,
    causal: bool,
    lse: tensor,
    dq: actOut | null,
    dk: actOut | null,
    dv: actOut | null,
    dalpha: out | null,
  ): void
  source_attention(
    q: act,
    source: act,
    wk: tensor,
    wv: tensor,
    bias: tensor | null,
    a: tensor | null,
    b: tensor | null,
    scaling: float,
    heads: int,
    y: actOut,
  ): void
  cache_append(k: act, v: act, at: tensor, keys: actInOut, values: actInOut): void
  argmax(x: act, y: out): void
  router_forward(x: act, w1: tensor, b1: tensor, w2: tensor, b2: tensor, alpha: out, pooled: out, hidden: out): void
  router_backward(
    dalpha: tensor,
    alpha: tensor,
    pooled: tensor,
    hidden: tensor,
    w1: tensor,
    w2: tensor,
    count: int,
    residual: act | null,
    dx: actOut | null,
    dw1: out,
    db1: out,
    dw2: out,
    db2: out,
  ): void
  square_sum(x: tensor, sum: inout): void
  adamw(
    param: inout,
    grad: tensor,
    m: inout,
    v: inout,
    scale: tensor | null,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    step: int,
  ): void
  accumulate(sums: inouts, xs: tensors): void
  gradient_norm(grads: tensors, losses: tensor | null, clip: float, report: out): void
  adamw_schedule(step: int, beta1: float, beta2: float, lr: floats, decay: floats, schedule: out): void
  adamw_all(
    params: inouts,
    grads: tensors,
    m: inouts,
    v: inouts,
    rows: floats,
    report: tensor,
    schedule: tensor,
    beta1: float,
    beta2: float,
    eps: float,
  ): void
}

/** Counters of the whole process; `bytes` counts tensors alive, `peak` what was really allocated at one time. */
export interface Memory {
  bytes: number
  peak: number
  cached: number
  tensors: number
  /** Frozen weights in the layout of the CPU's kernels, kept beside the weights themselves. */
  packed: number
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
  fragments(device: number): { found: number[]; expected: number[] }
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
  read(t: NativeTensor): Promise<ArrayBuffer>
  readBlocking(t: NativeTensor): ArrayBuffer
  release(t: NativeTensor): void
  sync(): Promise<void>
  syncBlocking(): void
  memory: { (): Memory; (device: number): DeviceMemory }
  resetPeak(device?: number): void
  threads(n?: number): number
  ceiling(what: 'float32' | 'bfloat16' | 'read' | 'readSmallPages' | 'copy'): number
  ops: Ops
  signatures: string[]
}

let loaded: Native | undefined

/** The addon, loaded on first use. Throws an error that lists what was tried and what to do. */
export function native(): Native {
  return (loaded ??= load())
}

function load(): Native {
  const require = createRequire(import.meta.url)
  const places = [process.env.MT_ADDON, '../build/Release/mtransllama.node'].filter((p): p is string => !!p)
  const failures: string[] = []
  for (const place of places) {
    const path = place.startsWith('..') ? fileURLToPath(new URL(place, import.meta.url)) : resolve(place)
    try {
      return require(path) as Native
    } catch (error) {
      failures.push(`  ${path}: ${(error as Error).message.split('\n')[0]}`)
    }
  }
  throw new Error(
    [
      `mtransllama: the native addon could not be loaded (${platform}-${arch}, Node ${versions.node}):`,
      ...failures,
      'Build it with "npm run build" in the package\'s folder; that needs a C++20 compiler, make, and cmake or python3.',
    ].join('\n'),
  )
}
