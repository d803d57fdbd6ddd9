/** Sums and means over a dimension. */
import { invalid } from '../errors.js'
import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { sizeOf } from '../shape.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    reduce_forward(x: act, dim: int, factor: float, y: actOut): void
    reduce_backward(dy: act, dim: int, factor: float, dx: actOut): void
  }
}

function reduced(a: Tensor, dim: number, factor: number): Tensor {
  const x = contiguous(a)
  const d = dim < 0 ? x.rank + dim : dim
  const y = empty(
    x.shape.filter((_, i) => i !== d),
    x.dtype,
  )
  native().ops.reduce_forward(x.handle, d, factor, y.handle)
  return record('reduce', y, [x], (dy) => {
    const dx = empty(x.shape, x.dtype)
    native().ops.reduce_backward(contiguous(dy).handle, d, factor, dx.handle)
    return [dx]
  })
}

/** Sum over dimension `dim`, which is removed; float32 or bfloat16. */
export function sumDim(x: Tensor, dim: number): Tensor {
  return reduced(x, dim, 1)
}

/** Mean over dimension `dim`, which is removed; float32 or bfloat16. */
export function mean(x: Tensor, dim: number): Tensor {
  const n = x.dim(dim)
  if (n === 0) throw invalid('mean', 'at least one element to average', `shape [${x.shape}]`)
  return reduced(x, dim, 1 / n)
}

/** Sum over the leading dimensions that `shape` lacks: the backward of a broadcast. No gradient flows through it. */
export function sumLeading(x: Tensor, shape: readonly number[]): Tensor {
  const flat = contiguous(x).view([x.size / Math.max(1, sizeOf(shape)), sizeOf(shape)])
  return sumDim(flat, 0).view(shape)
}
