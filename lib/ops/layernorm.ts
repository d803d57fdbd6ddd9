import { invalid } from '../errors.js'
import { native } from '../native.js'
import { record, recordAll } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
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
  }
}

/**
 * LayerNorm over the last dimension, (x − mean)/√(var + eps)∘weight + bias with the biased variance: x [...,D] float32
 * or bfloat16, weight and bias [D] float32. Returns x's shape and dtype.
 */
export function layerNorm(a: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const x = contiguous(a)
  weight = contiguous(weight)
  bias = contiguous(bias)
  const rows = [x.size / (x.shape.at(-1) || 1)]
  const [y, mean, rstd] = [empty(x.shape, x.dtype), empty(rows), empty(rows)]
  native().ops.layernorm_forward(x.handle, weight.handle, bias.handle, eps, y.handle, null, mean.handle, rstd.handle)
  return record(
    'layerNorm',
    y,
    [x, weight, bias],
    (dy, needs, [residual]) => {
      const [dx, dw, db] = [x, weight, bias].map((t, i) => (needs[i] ? empty(t.shape, t.dtype) : undefined))
      native().ops.layernorm_backward(
        dy.handle,
        null,
        x.handle,
        weight.handle,
        mean.handle,
        rstd.handle,
        residual?.handle ?? null,
        dx?.handle ?? null,
        dw?.handle ?? null,
        db?.handle ?? null,
      )
      return [dx, dw, db]
    },
    [0],
  )
}

/** {@link layerNorm} of x [...,n,D], split in two: the first rows [...,first,D] and the others, each contiguous. */
export function layerNormSplit(a: Tensor, weight: Tensor, bias: Tensor, eps: number, first: number): [Tensor, Tensor] {
  const x = contiguous(a)
  weight = contiguous(weight)
  bias = contiguous(bias)
  const n = x.dim(-2)
  if (!(Number.isInteger(first) && first >= 0 && first <= n)) throw invalid('first', `0 to ${n} rows`, first)
  const rows = [x.size / (x.dim(-1) || 1)]
  const [head, tail] = [first, n - first].map((m) => empty([...x.shape.slice(0, -2), m, x.dim(-1)], x.dtype)) as [
    Tensor,
    Tensor,
  ]
  const [mean, rstd] = [empty(rows), empty(rows)]
  native().ops.layernorm_forward(
    x.handle,
    weight.handle,
    bias.handle,
    eps,
    head.handle,
    tail.handle,
    mean.handle,
    rstd.handle,
  )
  recordAll(
    'layerNormSplit',
    [head, tail],
    [x, weight, bias],
    ([dhead, dtail], needs, [residual]) => {
      const [dx, dw, db] = [x, weight, bias].map((t, i) => (needs[i] ? empty(t.shape, t.dtype) : undefined))
      native().ops.layernorm_backward(
        dhead!.handle,
        dtail!.handle,
        x.handle,
        weight.handle,
        mean.handle,
        rstd.handle,
        residual?.handle ?? null,
        dx?.handle ?? null,
        dw?.handle ?? null,
        db?.handle ?? null,
      )
      return [dx, dw, db]
    },
    [0],
  )
  return [head, tail]
}

/** One part of {@link layerNormJoin}: its input, weight and bias. */
export interface NormOf {
  x: Tensor
  weight: Tensor
  bias: Tensor
  eps: number
}

/** {@link layerNorm} of several x [...,n_i,D], concatenated to one tensor [...,Σn_i,D]. */
export function layerNormJoin(given: readonly NormOf[]): Tensor {
  const parts = given.map(({ x, weight, bias, eps }) => ({
    x: contiguous(x),
    weight: contiguous(weight),
    bias: contiguous(bias),
    eps,
  }))
  const first = parts[0]?.x
  if (!first) throw invalid('layerNormJoin', 'at least one part', given.length)
  const total = parts.reduce((n, { x }) => n + x.dim(-2), 0)
  const y = empty([...first.shape.slice(0, -2), total, first.dim(-1)], first.dtype)
  /** The rows of part i in a tensor like y. */
  const partOf = (t: Tensor, i: number): Tensor => {
    const before = parts.slice(0, i).reduce((n, { x }) => n + x.dim(-2), 0)
    return t.view(parts[i]!.x.shape, t.strides, before * t.strides.at(-2)!)
  }
  const saved = parts.map(({ x, weight, bias, eps }, i) => {
    const rows = [x.size / (x.dim(-1) || 1)]
    const [mean, rstd, target] = [empty(rows), empty(rows), partOf(y, i)]
    native().ops.layernorm_forward(
      x.handle,
      weight.handle,
      bias.handle,
      eps,
      target.handle,
      null,
      mean.handle,
      rstd.handle,
    )
    target.dispose()
    return { mean, rstd }
  })
  return record(
    'layerNormJoin',
    y,
    parts.flatMap(({ x, weight, bias }) => [x, weight, bias]),
    (dy, needs, residuals) =>
      parts.flatMap(({ x, weight, bias }, i) => {
        const [dx, dw, db] = [x, weight, bias].map((t, k) => (needs[3 * i + k] ? empty(t.shape, t.dtype) : undefined))
        const slope = partOf(dy, i)
        native().ops.layernorm_backward(
          slope.handle,
          null,
          x.handle,
          weight.handle,
          saved[i]!.mean.handle,
          saved[i]!.rstd.handle,
          residuals[3 * i]?.handle ?? null,
          dx?.handle ?? null,
          dw?.handle ?? null,
          db?.handle ?? null,
        )
        slope.dispose()
        return [dx, dw, db]
      }),
    parts.map((_, i) => 3 * i),
  )
}
