/** Views and joins of tensors. Reshape, narrow, split, permute and expand copy nothing; their backward passes do. */
import { invalid } from '../errors.js'
import { native } from '../native.js'
import { record, recordAll } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { sizeOf } from '../shape.js'
import { contiguous, write, zeros } from './copy.js'
import { sumLeading, sumDim } from './reduce.js'

declare module '../native.js' {
  interface Ops {
    swap(x: act, y: actOut): void
  }
}

const axis = (x: Tensor, dim: number): number => {
  const d = dim < 0 ? x.rank + dim : dim
  if (!Number.isInteger(d) || d < 0 || d >= x.rank) throw invalid('dim', `a dimension of shape [${x.shape}]`, dim)
  return d
}
const replaced = (shape: readonly number[], d: number, n: number): number[] => shape.map((s, i) => (i === d ? n : s))

/**
 * The elements in row-major order, in another shape of the same size; one dimension may be −1. Copies only where `x` is
 * not contiguous. Backward: dx is dy in the shape of x.
 */
export function reshape(a: Tensor, shape: readonly number[]): Tensor {
  const x = contiguous(a)
  const known = sizeOf(shape.filter((n) => n !== -1))
  const dims = shape.map((n) => (n === -1 ? x.size / known : n))
  if (sizeOf(dims) !== x.size || dims.some((n) => !Number.isInteger(n) || n < 0))
    throw invalid('reshape', `${x.size} elements, as shape [${x.shape}] has`, `[${shape}]`)
  return record('reshape', x.view(dims), [x], (dy) => [contiguous(dy).view(x.shape)])
}

/** Elements `start` to `start + length` of dimension `dim`, no copy. Backward: dx is dy in its place, 0 elsewhere. */
export function narrow(x: Tensor, dim: number, start: number, length: number): Tensor {
  const d = axis(x, dim)
  if (!(start >= 0 && length >= 0 && start + length <= x.shape[d]!))
    throw invalid('narrow', `a range inside dimension ${d} of [${x.shape}]`, [start, start + length])
  const at = (t: Tensor): Tensor => t.view(replaced(t.shape, d, length), t.strides, start * t.strides[d]!)
  return record('narrow', at(x), [x], (dy) => {
    const dx = zeros(x.shape, x.dtype, x.device)
    write(at(dx), dy)
    return [dx]
  })
}

/**
 * Splits dimension `dim` into pieces of the given sizes, which add up to it. The backward joins the pieces' gradients.
 */
export function split(x: Tensor, sizes: readonly number[], dim: number): Tensor[] {
  const d = axis(x, dim)
  if (sizeOf([sizes.reduce((a, b) => a + b, 0)]) !== x.shape[d])
    throw invalid('split', `sizes that add up to ${x.shape[d]}`, sizes)
  let start = 0
  const parts = sizes.map((n) => {
    const part = x.view(replaced(x.shape, d, n), x.strides, start * x.strides[d]!)
    start += n
    return part
  })
  return recordAll('split', parts, [x], (dys) => [joined(dys, d)])
}

function joined(parts: readonly Tensor[], d: number): Tensor {
  const first = parts[0]!
  const total = parts.reduce((n, t) => n + t.shape[d]!, 0)
  const y = empty(replaced(first.shape, d, total), first.dtype)
  let start = 0
  for (const part of parts) {
    const target = y.view(part.shape, y.strides, start * y.strides[d]!)
    write(target, part)
    target.dispose()
    start += part.shape[d]!
  }
  return y
}

/**
 * Joins tensors along `dim`; all other dimensions are equal. Always a copy. Backward: the gradient of a part is its
 * slice of dy.
 */
export function concat(parts: readonly Tensor[], dim: number): Tensor {
  const first = parts[0]
  if (!first) throw invalid('concat', 'at least one tensor', parts)
  const d = axis(first, dim)
  for (const t of parts) {
    if (t.rank !== first.rank || t.shape.some((n, i) => i !== d && n !== first.shape[i]))
      throw invalid('concat', `shapes like [${first.shape}] but for dimension ${d}`, `[${t.shape}]`)
  }
  return record('concat', joined(parts, d), [...parts], (dy) => {
    let start = 0
    return parts.map((t) => {
      const dt = dy.view(t.shape, dy.strides, start * dy.strides[d]!)
      start += t.shape[d]!
      return contiguous(dt)
    })
  })
}

/** The dimensions in another order, by strides. Backward: dx is dy in the former order. */
export function permute(x: Tensor, order: readonly number[]): Tensor {
  if (order.length !== x.rank || new Set(order).size !== x.rank || order.some((d) => !(d >= 0 && d < x.rank)))
    throw invalid('permute', `each dimension of [${x.shape}] once`, order)
  const y = x.view(
    order.map((d) => x.shape[d]!),
    order.map((d) => x.strides[d]!),
  )
  return record('permute', y, [x], (dy) => {
    const back = order.map((_, d) => order.indexOf(d))
    return [
      contiguous(
        dy.view(
          back.map((d) => dy.shape[d]!),
          back.map((d) => dy.strides[d]!),
        ),
      ),
    ]
  })
}

/**
 * Repeats dimensions of size 1, and leading ones that `x` does not have, to `shape` by strides of 0. Backward: dx is dy
 * summed over what was repeated.
 */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  const lead = shape.length - x.rank
  if (lead < 0 || x.shape.some((n, i) => n !== shape[lead + i] && n !== 1))
    throw invalid('expand', `a shape that [${x.shape}] can be repeated to`, `[${shape}]`)
  const y = x.view(
    shape,
    shape.map((n, i) => (i < lead || (x.shape[i - lead] === 1 && n !== 1) ? 0 : x.strides[i - lead]!)),
  )
  return record('expand', y, [x], (dy) => {
    let g = contiguous(dy)
    for (let i = 0; i < x.rank; i++) {
      if (x.shape[i] === 1 && shape[lead + i] !== 1) {
        const summed = sumDim(g, lead + i)
        g = summed.view([...summed.shape.slice(0, lead + i), 1, ...summed.shape.slice(lead + i)])
      }
    }
    return [lead ? sumLeading(g, x.shape) : g]
  })
}

/**
 * The channel swap as a copy, [B,T,L,D] to [B,L,T,D]. The model swaps by strides instead; this stands here so that the
 * difference can be measured. Backward: dx is dy swapped back.
 */
export function swap(a: Tensor): Tensor {
  const x = contiguous(a)
  const turn = (t: Tensor): Tensor => {
    if (t.rank !== 4) throw invalid('swap', 'shape [B,T,L,D]', `[${t.shape}]`)
    const y = empty([t.shape[0]!, t.shape[2]!, t.shape[1]!, t.shape[3]!], t.dtype)
    native().ops.swap(t.handle, y.handle)
    return y
  }
  return record('swap', turn(x), [x], (dy) => [turn(dy)])
}
