/** Copies and conversions. */
import { native } from '../native.js'
import type { Device } from '../tensor/device.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor, type DType } from '../tensor/tensor.js'

function copied(x: Tensor, dtype: DType = x.dtype): Tensor {
  const y = empty(x.shape, dtype)
  native().ops.copy(x.handle, y.handle)
  return y
}

/** The same elements in row-major order: `x` itself if it is so already, else a copy. */
export function contiguous(x: Tensor): Tensor {
  return x.isContiguous ? x : record(copied(x), [x], (dy) => [dy])
}

/** A copy of its own memory, contiguous. */
export function copy(x: Tensor): Tensor {
  return record(copied(x), [x], (dy) => [dy])
}

/**
 * The elements as another dtype: between the float types, and from integers to int32, int64 or float32. The gradient
 * has the dtype of what it belongs to, float32 for a float16 input.
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (dtype === x.dtype) return x
  return record(copied(x, dtype), [x], (dy) => [
    x.dtype === 'bfloat16' || x.dtype === 'float32' ? cast(dy, x.dtype) : dy,
  ])
}

/** Writes `x` over `target`, a tensor or a view of one, of the same shape. No gradient flows. */
export function write(target: Tensor, x: Tensor): void {
  native().ops.copy(x.handle, target.handle)
}

/** Writes one value over all of `target`, a tensor or a view of one. No gradient flows. */
export function fill(target: Tensor, value: number): void {
  native().ops.fill(value, target.handle)
}

/** A tensor of one value. */
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
