/** Reads golden cases: safetensors files whose metadata hold the case's own configuration. */
import { readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { InputError } from '../errors.js'
import type { Device } from '../tensor/device.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { readEntry, readHeader, toFloat32, type SafetensorsHeader } from '../files/safetensors.js'

/** A reference array, in float64: every dtype of the goldens fits. */
export interface Reference {
  shape: number[]
  data: Float64Array
}

export class GoldenCase {
  private constructor(
    readonly name: string,
    readonly folder: string,
    // biome-ignore lint/suspicious/noExplicitAny: each kind of case reads its own keys of foreign JSON
    readonly config: Record<string, any>,
    private readonly header: SafetensorsHeader,
    private readonly arrays: Map<string, Reference>,
    /** The device of its tensors. */
    readonly device: Device,
  ) {}

  static async read(folder: string, file: string, device: Device): Promise<GoldenCase> {
    const header = await readHeader(join(folder, 'cases', file))
    let config: GoldenCase['config']
    try {
      config = JSON.parse(header.metadata.config ?? 'null')
    } catch {
      config = {}
    }
    if (typeof config?.kind !== 'string')
      throw new InputError(
        `${file}: a golden case says its configuration in the metadata key "config"; this file does not.`,
      )
    const arrays = new Map<string, Reference>()
    for (const [name, { dtype, shape }] of header.entries)
      arrays.set(name, { shape, data: widen(dtype, await readEntry(header, name)) })
    return new GoldenCase(basename(file, '.safetensors'), folder, config, header, arrays, device)
  }

  /** Every name that begins with `prefix`. */
  names(prefix = ''): string[] {
    return [...this.header.entries.keys()].filter((n) => n.startsWith(prefix))
  }
  has(name: string): boolean {
    return this.arrays.has(name)
  }
  get(name: string): Reference {
    const a = this.arrays.get(name)
    if (!a) throw new InputError(`${this.name}: expected a tensor named ${name}, but the case has none.`)
    return a
  }
  /** As a tensor: float32, int32 for integers, uint8 for bytes. */
  tensor(name: string): Tensor {
    const { shape, data } = this.get(name)
    const { dtype } = this.header.entries.get(name)!
    const [values, type] =
      dtype === 'U8'
        ? [Uint8Array.from(data), 'uint8' as const]
        : dtype.startsWith('I')
          ? [Int32Array.from(data), 'int32' as const]
          : [Float32Array.from(data), 'float32' as const]
    return tensor(values, shape, type, this.device)
  }
}

function widen(dtype: string, bytes: Uint8Array<ArrayBuffer>): Float64Array {
  switch (dtype) {
    case 'F64':
      return new Float64Array(bytes.buffer)
    case 'F32':
    case 'F16':
    case 'BF16':
      return Float64Array.from(toFloat32(dtype, bytes))
    case 'I64':
      return Float64Array.from(new BigInt64Array(bytes.buffer), Number)
    case 'I32':
      return Float64Array.from(new Int32Array(bytes.buffer))
    case 'U8':
    case 'BOOL':
      return Float64Array.from(bytes)
    default:
      throw new InputError(`golden: expected F64, F32, F16, BF16, I64, I32 or U8, but got ${dtype}.`)
  }
}

/** Files of cases in a golden folder, in order of name. */
export async function caseFiles(folder: string): Promise<string[]> {
  try {
    return (await readdir(join(folder, 'cases'))).filter((f) => f.endsWith('.safetensors')).sort()
  } catch {
    throw new InputError(
      `${folder}: expected a golden folder, with checkpoints and a folder "cases" beside each other.`,
    )
  }
}

/** ‖a − b‖/‖b‖, or ‖a‖ where the reference is zero. */
export function relativeError(actual: ArrayLike<number>, reference: ArrayLike<number>): number {
  if (actual.length !== reference.length) return Infinity
  let difference = 0
  let size = 0
  for (let i = 0; i < reference.length; i++) {
    difference += (actual[i]! - reference[i]!) ** 2
    size += reference[i]! ** 2
  }
  const error = Math.sqrt(difference) / (Math.sqrt(size) || 1)
  return Number.isNaN(error) ? Infinity : error
}

/** The result of a case: its largest errors, and everything past a limit. */
export class Score {
  forward = 0
  gradient = 0
  update = 0
  readonly faults: string[] = []

  /** Limits of docs/model.md#numerics; displacement of parameters after AdamW steps as the goldens' index says. */
  static readonly limits = { forward: 1e-5, gradient: 1e-4, update: 3e-2 } as const

  note(kind: 'forward' | 'gradient' | 'update', what: string, error: number): void {
    this[kind] = Math.max(this[kind], error)
    if (!(error <= Score.limits[kind]))
      this.faults.push(`${what}: relative error ${error.toExponential(2)} past ${Score.limits[kind]}`)
  }
  async compare(kind: 'forward' | 'gradient', c: GoldenCase, name: string, actual: Tensor): Promise<void> {
    this.note(kind, name, relativeError(Float64Array.from((await actual.data()) as Float32Array), c.get(name).data))
  }
}
