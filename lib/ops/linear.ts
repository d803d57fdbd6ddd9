import { native } from '../native.js'
import { record, recording } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    linear_forward(x: act, w: tensor, bias: tensor | null, residual: act | null, y: actOut): void
    linear_gelu_forward(x: act, w: tensor, bias: tensor | null, z: actOut | null, y: actOut): void
    linear_backward_input(dy: act, w: tensor, residual: act | null, dx: actOut): void
    linear_backward_weight(dy: act, x: act, dw: out | null, dbias: out | null): void
  }
}

/** The needed gradients of x, W and the bias in x Wᵀ + b; `residual` is added to that of x. */
function gradients(
  dy: Tensor,
  x: Tensor,
  w: Tensor,
  bias: Tensor | undefined,
  [needsX, needsW, needsBias]: (boolean | undefined)[],
  residual: Tensor | undefined,
): (Tensor | undefined)[] {
  const dx = needsX ? empty(x.shape, x.dtype) : undefined
  const dw = needsW ? empty(w.shape) : undefined
  const dbias = needsBias ? empty(bias!.shape) : undefined
  if (dx) native().ops.linear_backward_input(dy.handle, w.handle, residual?.handle ?? null, dx.handle)
  if (dw ?? dbias) native().ops.linear_backward_weight(dy.handle, x.handle, dw?.handle ?? null, dbias?.handle ?? null)
  return [dx, dw, dbias]
}

/**
 * y = x Wᵀ + b + residual: x [...,in] float32 or bfloat16 and y like it, weight [out,in] float32, bfloat16 or float16,
 * bias [out], residual like y. Frozen arguments get no gradient and cost nothing.
 */
export function linear(
  a: Tensor,
  weight: Tensor,
  offset?: Tensor,
  { residual }: { residual?: Tensor | undefined } = {},
): Tensor {
  const [x, w, bias, r] = [
    contiguous(a),
    contiguous(weight),
    offset && contiguous(offset),
    residual && contiguous(residual),
  ]
  const y = empty([...x.shape.slice(0, -1), w.dim(0)], x.dtype)
  native().ops.linear_forward(x.handle, w.handle, bias?.handle ?? null, r?.handle ?? null, y.handle)
  return record(
    'linear',
    y,
    [x, w, ...(bias ? [bias] : []), ...(r ? [r] : [])],
    (dy, [needsX, needsW, ...rest], [given]) => {
      const [dx, dw, dbias] = gradients(dy, x, w, bias, [needsX, needsW, bias && rest[0]], given)
      return [dx, dw, ...(bias ? [dbias] : []), ...(r && rest.at(-1) ? [dy] : [])]
    },
    [0],
  )
}

/** gelu(x Wᵀ + b), the exact GELU, of the same arguments as {@link linear}. */
export function linearGelu(a: Tensor, weight: Tensor, offset?: Tensor): Tensor {
  const [x, w, bias] = [contiguous(a), contiguous(weight), offset && contiguous(offset)]
  const inputs = bias ? [x, w, bias] : [x, w]
  const y = empty([...x.shape.slice(0, -1), w.dim(0)], x.dtype)
  const z = recording(inputs) ? empty(y.shape, y.dtype) : undefined // GELU's input, which its backward reads
  native().ops.linear_gelu_forward(x.handle, w.handle, bias?.handle ?? null, z?.handle ?? null, y.handle)
  return record(
    'linearGelu',
    y,
    inputs,
    (dy, needs, [residual]) => {
      const dz = empty(z!.shape, z!.dtype)
      native().ops.gelu_backward(dy.handle, z!.handle, dz.handle)
      const found = gradients(dz, x, w, bias, needs, residual)
      dz.dispose()
      return found
    },
    [0],
  )
}
