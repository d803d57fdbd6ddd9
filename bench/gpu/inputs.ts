/**
 * Inputs by name: the first set is drawn by the generator that bench/peers has too (seed of the item's id, a stream for
 * each name), the others are copies of it elsewhere in memory, so that rotation over them finds no warm cache.
 */
import { native } from '../../lib/native.js'
import { cast, copy, write } from '../../lib/ops/copy.js'
import type { Device } from '../../lib/tensor/device.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { empty, tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { type DType, itemSize, type TypedArray } from '../../lib/tensor/dtype.js'
import { sizeOf } from '../../lib/shape.js'

/** FNV-1a: the seed of an item. */
export function seedOf(id: string): number {
  let h = 2166136261
  for (const c of Buffer.from(id)) h = Math.imul(h ^ c, 16777619)
  return h >>> 0
}

/** Most numbers that are drawn; a larger tensor repeats them. bench/peers/common.py does the same. */
const most = 2 ** 22

/** Random numbers in a tensor of `shape`, by seed and stream. `draw` fills a tensor of a row of them. */
export function drawn(shape: readonly number[], device: Device, draw: (row: Tensor) => void): Tensor {
  const n = sizeOf(shape)
  if (n <= most) {
    const y = empty(shape, 'float32', device)
    draw(y)
    return y
  }
  const [row, y, full] = [empty([most], 'float32', device), empty(shape, 'float32', device), Math.floor(n / most)]
  draw(row)
  write(y.view([full, most]), row.view([full, most], [0, 1]))
  if (n % most) write(y.view([n % most], [1], full * most), row.view([n % most]))
  return y
}

/** The streams of names; bench/peers/common.py has the same list. */
export const streams = [
  'x',
  'q',
  'k',
  'v',
  'dy',
  'alpha',
  'w',
  'w1',
  'w2',
  'w3',
  'w4',
  'w5',
  'w6',
  'a',
  'b',
  'a2',
  'b2',
  'bias',
  'up',
] as const
export type Name = (typeof streams)[number]

export class Inputs {
  readonly #first = new Map<string, Tensor>()
  readonly #made: Tensor[] = []
  /** Bytes of one set. */
  bytes = 0
  #set = 0

  constructor(
    readonly id: string,
    readonly device: Device,
  ) {}

  /** Begins another set. */
  next(): void {
    this.#set++
  }
  #once(name: string, make: () => Tensor): Tensor {
    const first = this.#first.get(name)
    const t = scope(() => keep(first ? copy(first) : make()))
    this.#made.push(t)
    if (!first) {
      this.#first.set(name, t)
      this.bytes += t.size * itemSize(t.dtype)
    }
    return t
  }

  /** Normal numbers. */
  normal(name: Name, shape: readonly number[], std = 1, dtype: DType = 'bfloat16'): Tensor {
    return this.#once(name, () => {
      const y = drawn(shape, this.device, (row) =>
        native().ops.random_normal(seedOf(this.id), streams.indexOf(name), 0, std, row.handle),
      )
      return dtype === 'float32' ? y : cast(y, dtype)
    })
  }
  /** Uniform in [low, high), float32. */
  uniform(name: Name, shape: readonly number[], low: number, high: number): Tensor {
    return this.#once(name, () =>
      drawn(shape, this.device, (row) =>
        native().ops.random_uniform(seedOf(this.id), streams.indexOf(name), low, high, row.handle),
      ),
    )
  }
  given(name: string, data: TypedArray, shape: readonly number[], dtype: DType): Tensor {
    return this.#once(name, () => tensor(data, shape, dtype, this.device))
  }
  /** Memory for a result; the name is documentation. */
  output(_name: string, shape: readonly number[], dtype: DType = 'bfloat16'): Tensor {
    const t = keep(empty(shape, dtype, this.device))
    this.#made.push(t)
    if (this.#set === 0) this.bytes += t.size * itemSize(dtype)
    return t
  }
  dispose(): void {
    for (const t of this.#made) t.dispose()
  }
}
