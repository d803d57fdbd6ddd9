/**
 * Inputs and weights of the benchmarks: drawn by seed, written to a safetensors file that the peers read too, and
 * loaded as a checkpoint's weights are, so that users get what is measured.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { native } from '../lib/native.js'
import { scope } from '../lib/tensor/scope.js'
import type { Device } from '../lib/tensor/device.js'
import { empty, tensor, type Tensor } from '../lib/tensor/tensor.js'
import { cast } from '../lib/ops/copy.js'
import type { Precision } from '../lib/tensor/dtype.js'
import type { Row } from './record.js'
import { isMatrix, weightsPolicy } from '../lib/session/budget.js'
import { loadWeights } from '../lib/session/weights.js'
import type { Wanted } from '../lib/models/finder.js'
import type { FloatDtype, PlannedTensor } from '../lib/checkpoint/plan.js'
import { readHeader, writeSafetensors, type TensorData } from '../lib/files/safetensors.js'

/** A float32 array with a shape. */
export interface Numbers {
  shape: number[]
  data: Float32Array
}

/** The dtypes of matrices and of activations. */
export const matrices = (dtype: Row['dtype']): Precision => (dtype === 'float32' ? 'float32' : 'bfloat16')
export const activations = (dtype: Row['dtype']): Precision => (dtype === 'bfloat16' ? 'bfloat16' : 'float32')

/** Draws numbers by seed: the same on every machine. */
export class Draw {
  #stream = 0
  constructor(readonly seed: number) {}
  normal(shape: number[], std = 1, mean = 0): Numbers {
    return scope(() => {
      const y = empty(shape, 'float32', 'cpu')
      native().ops.random_normal(this.seed, this.#stream++, mean, std, y.handle)
      return { shape, data: y.dataBlocking() as Float32Array }
    })
  }
  /** The weight and bias of a linear layer, [out,in], that keeps the size of what it multiplies. */
  linear(name: string, out: number, into: number): [string, Numbers][] {
    return [
      [`${name}.weight`, this.normal([out, into], 1 / Math.sqrt(into))],
      [`${name}.bias`, this.normal([out], 0.1)],
    ]
  }
  norm(name: string, width: number): [string, Numbers][] {
    return [
      [`${name}.weight`, this.normal([width], 0.1, 1)],
      [`${name}.bias`, this.normal([width], 0.1)],
    ]
  }
}

/** As bfloat16 bits, rounded. */
const narrowed = ({ shape, data }: Numbers): Uint16Array =>
  scope(() => cast(tensor(data, shape), 'bfloat16').dataBlocking() as Uint16Array)

/** A folder of files that is removed when the process ends. */
export class Files {
  readonly folder = mkdtempSync(join(tmpdir(), 'mtransllama-bench-'))
  #count = 0
  constructor() {
    process.once('exit', () => this.dispose())
  }

  /** Writes numbers under their names; the file's path. Unless the dtype is float32, matrices are rounded. */
  async write(numbers: Iterable<[string, Numbers]>, dtype: Row['dtype'] = 'float32'): Promise<string> {
    const path = join(this.folder, `${this.#count++}.safetensors`)
    await writeSafetensors(
      path,
      [...numbers].map(([name, n]): TensorData => {
        const narrow = matrices(dtype) === 'bfloat16' && isMatrix({ name, shape: n.shape })
        return { name, shape: n.shape, dtype: narrow ? 'BF16' : 'F32', data: narrow ? narrowed(n) : n.data }
      }),
    )
    return path
  }
  forget(path: string): void {
    rmSync(path, { force: true })
  }
  dispose(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/**
 * The tensors of a file, or those that are wanted, through the loader of checkpoints: read-only, mapped where the file
 * is large, on a device in the packs of what is expected. The caller frees them.
 */
export async function load(
  path: string,
  device: Device,
  dtype: Row['dtype'],
  { wanted = () => true, expected = [] }: { wanted?: (name: string) => boolean; expected?: Iterable<Wanted> } = {},
): Promise<Map<string, Tensor>> {
  const header = await readHeader(path)
  const packs = new Map([...expected].map(({ name, pack }) => [name, pack]))
  const entries = new Map<string, PlannedTensor>()
  for (const [name, entry] of header.entries) {
    const pack = packs.get(name)
    if (wanted(name))
      entries.set(name, {
        kind: 'stored',
        name,
        part: 'language',
        ...(pack !== undefined && { pack }),
        dtype: entry.dtype as FloatDtype,
        shape: entry.shape,
        piece: { ...entry, header, stored: name },
      })
  }
  const policy = weightsPolicy({
    entries: [...entries.values()],
    device,
    weights: 'stored',
    precision: activations(dtype),
  })
  return loadWeights({ entries }, { device, policy })
}

/** Numbers as a tensor of the scope at hand, in the dtype of activations. */
export function upload({ shape, data }: Numbers, device: Device, dtype: Row['dtype'] = 'float32'): Tensor {
  return scope(() => cast(tensor(data, shape, 'float32', device), activations(dtype)))
}

/** A tensor's numbers, whatever their dtype. */
export const numbers = (t: Tensor): Float32Array => scope(() => cast(t, 'float32').dataBlocking() as Float32Array)
