/**
 * The policy for memory, in one place: what the machine has, in which form weights are held, and whether they stay in
 * their files. A frozen matrix of 16 bits lies in memory once: mapped from its file until a pack replaces it, or, where
 * the weights are a large part of the memory, loaded once as it is and never packed.
 */
import { availableMemory } from 'node:process'
import { invalid } from '../errors.js'
import { native } from '../native.js'
import { devices, type Device } from '../tensor/device.js'
import { bytesOf, type DType, type Precision } from '../tensor/dtype.js'
import type { FloatDtype, PlannedTensor } from '../checkpoint/plan.js'
import { DTYPE_BYTES } from '../files/safetensors.js'
import { sizeOf } from '../shape.js'

/** In which form frozen matrices are held: as the files store them, or converted while they are read. */
export const WEIGHTS = ['auto', 'stored', 'bfloat16', 'int8', 'nf4'] as const
export type WeightsChoice = (typeof WEIGHTS)[number]

export const DTYPES: Record<FloatDtype, DType> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }

/** Weights that take more than this part of the memory are loaded once, as they are, and float32 becomes bfloat16. */
const LARGE = 1 / 3

/** Bytes that this process may use, and of them those that are free now. */
export interface Memory {
  limit: number
  available: number
}

/** Of the machine, its container and MT_MEMORY_LIMIT whichever is least; or of a CUDA device. */
export function memoryOf(device: Device): Memory {
  if (device !== 'cpu') {
    const found = devices().cuda.devices.find((d) => d.device === device)
    return { limit: found?.memory ?? 0, available: found?.free ?? 0 }
  }
  const { limit, bytes } = native().memory()
  return { limit, available: Math.min(availableMemory(), Math.max(0, limit - bytes)) }
}

/** What a policy knows of a tensor. */
export type Held = Pick<PlannedTensor, 'name' | 'shape' | 'dtype' | 'kind'>

/** What a policy is asked about. */
export interface WeightsQuestion {
  entries: readonly Held[]
  device: Device
  weights?: WeightsChoice | undefined
  precision?: Precision | 'auto' | undefined
  /** Bytes of memory: of the device by default. */
  memory?: number | undefined
}

/** How the weights of a checkpoint are held. */
export interface WeightsPolicy {
  /** As stored, or what matrices are converted to. */
  form: Exclude<WeightsChoice, 'auto'>
  precision: Precision
  /** Why in that precision: half a sentence. */
  because: string
  /** The dtype that a tensor is held in. */
  dtypeOf(tensor: Held): DType
  /** Bytes that it takes, without packs. */
  bytesOf(tensor: Held): number
  /** Whether it stays in its mapped file; else it is read into memory. */
  isMapped(tensor: Held): boolean
  /** Whether kernels read matrices as they are and derive no packs of them. */
  asItIs: boolean
  /** Whether the system need not keep what was read from the files. */
  forget: boolean
  /** What was chosen for the memory's sake, and why. */
  notes: string[]
}

/**
 * Matrices that operators read in 16 bit as well: weights of linear layers and token tables. Everything else is small
 * and widened to float32; widening is exact.
 */
export function isMatrix({ name, shape }: { name: string; shape: readonly number[] }): boolean {
  return shape.length === 2 && name.endsWith('.weight') && !/position|relative/.test(name)
}

/**
 * Matrices that int8 and nf4 quantise (docs/weights.md): of the layers of vision tower and language model, as others
 * do. Token tables, the output matrix, the Q-Former and the projection behind it stay as they are.
 */
export function isQuantizable(t: { name: string; shape: readonly number[] }): boolean {
  return isMatrix(t) && /^(vision_model|language_model)\..*\.(layers|block)\.\d+\./.test(t.name)
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`

/** Decides how weights are held and in which precision the model computes. */
export function weightsPolicy(question: WeightsQuestion): WeightsPolicy {
  const { entries, device, weights = 'auto', precision: asked = 'float32' } = question
  if (!WEIGHTS.includes(weights)) throw invalid('weights', WEIGHTS.join(', '), weights)
  const memory = question.memory ?? memoryOf(device).limit
  const matrices = entries.filter(isMatrix)
  const bytesAs = (tensors: readonly Held[], dtype: (t: Held) => DType): number =>
    tensors.reduce((n, t) => n + bytesOf(dtype(t), t.shape), 0)
  const stored = (t: Held): DType => DTYPES[t.dtype]

  const wide = matrices.filter((t) => t.dtype === 'F32')
  const wideBytes = bytesAs(wide, stored)
  const large = wideBytes > LARGE * memory
  const quantized = weights === 'int8' || weights === 'nf4' ? weights : undefined
  const narrows = weights === 'bfloat16' || (weights !== 'stored' && large)
  const notes: string[] = []
  if (weights !== 'bfloat16' && narrows) {
    const taken = quantized
      ? `those that ${quantized} leaves as they are are taken as bfloat16`
      : 'they are taken as bfloat16 (--weights stored keeps them)'
    notes.push(
      `the float32 weights are ${gigabytes(wideBytes)}, more than a third of ${gigabytes(memory)} of memory, so ${taken}`,
    )
  }
  const held = (t: Held): DType => (narrows && t.dtype === 'F32' ? 'bfloat16' : stored(t))

  const { precision, because } = precisionFor(asked, matrices.map(held), device)
  const dtypeOf = (t: Held): DType => {
    if (!isMatrix(t)) return 'float32'
    if (quantized && isQuantizable(t)) return quantized
    return precision === 'bfloat16' ? 'bfloat16' : held(t)
  }
  const bytes = bytesAs(entries, dtypeOf)
  const converts = matrices.some((t) => dtypeOf(t) !== stored(t))
  const files = entries.reduce((n, t) => n + sizeOf(t.shape) * DTYPE_BYTES[t.dtype], 0)
  const asItIs = device === 'cpu' && bytes > LARGE * memory
  return {
    form: quantized ?? (narrows && wide.length ? 'bfloat16' : 'stored'),
    precision,
    because,
    dtypeOf,
    bytesOf: (t) => bytesAs([t], dtypeOf),
    isMapped: (t) => device === 'cpu' && !asItIs && !converts && t.kind === 'stored',
    asItIs,
    forget: asItIs && files + bytes > memory,
    notes,
  }
}

/** What activations are stored in where that is left open: bfloat16 where matrices and instructions are. */
function precisionFor(
  asked: Precision | 'auto',
  matrices: readonly DType[],
  device: Device,
): { precision: Precision; because: string } {
  if (asked !== 'auto') {
    if (asked !== 'float32' && asked !== 'bfloat16') throw invalid('precision', 'auto, float32 or bfloat16', asked)
    return { precision: asked, because: 'as asked' }
  }
  if (!matrices.length || matrices.includes('float32')) return { precision: 'float32', because: 'as the weights are' }
  if (device === 'cpu') {
    if (matrices.includes('float16')) return { precision: 'float32', because: 'the weights are float16' }
    return native().devices().cpu.bfloat16
      ? { precision: 'bfloat16', because: 'as the weights are, and the processor multiplies it' }
      : { precision: 'float32', because: 'the processor does not multiply bfloat16' }
  }
  const found = devices().cuda.devices.find((d) => d.device === device)
  // One that is not there is planned for as one of today.
  return !found || Number(found.capability) >= 8
    ? { precision: 'bfloat16', because: 'as the weights are, and the device multiplies it' }
    : { precision: 'float32', because: 'the device does not multiply bfloat16' }
}
