/** Copies and conversions. */
import { native } from '../native.js'
import type { Device } from '../tensor/device.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import type { DType } from '../tensor/dtype.js'

declare module '../native.js' {
  interface Ops {
    copy(x: tensor, y: out): void
    fill(value: float, y: actOut): void
  }
}

function copied(x: Tensor, dtype: DType = x.dtype): Tensor {
  const y = empty(x.shape, dtype)
  native().ops.copy(x.handle, y.handle)
  return y
}

/** The same elements in row-major order: `x` itself where it is contiguous, else a copy. Backward: dx = dy. */
export function contiguous(x: Tensor): Tensor {
  return x.isContiguous ? x : record('contiguous', copied(x), [x], (dy) => [dy])
}

/** A contiguous copy. Backward: dx = dy. */
export function copy(x: Tensor): Tensor {
  return record('copy', copied(x), [x], (dy) => [dy])
}

/**
 * The elements converted to `dtype`: between float types, and from integers to int32, int64 or float32. The gradient
 * has the dtype of `x`, float32 where `x` is float16.
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (dtype === x.dtype) return x
  return record('cast', copied(x, dtype), [x], (dy) => [
    x.dtype === 'bfloat16' || x.dtype === 'float32' ? cast(dy, x.dtype) : dy,
  ])
}

/** Copies `x` to `target`, a tensor or view of the same shape. No gradient flows. */
export function write(target: Tensor, x: Tensor): void {
  native().ops.copy(x.handle, target.handle)
}

/** Fills `target`, a tensor or view, with one value. No gradient flows. */
export function fill(target: Tensor, value: number): void {
  native().ops.fill(value, target.handle)
}

/** A tensor filled with one value. */
export function full(
  shape: readonly number[],
  value: number,
  dtype: DType = 'float32',
  device: Device = 'cpu',
): Tensor {
  const y = empty(shape, dtype, device)
  fill(y, value)
  return y
}

/** A tensor of zeros. */
export function zeros(shape: readonly number[], dtype: DType = 'float32', device: Device = 'cpu'): Tensor {
  return full(shape, 0, dtype, device)
}
