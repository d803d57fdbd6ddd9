import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    rmsnorm_forward(x: act, weight: tensor, eps: float, y: actOut, rstd: out): void
    rmsnorm_backward(
      dy: act,
      x: act,
      weight: tensor,
      rstd: tensor,
      residual: act | null,
      dx: actOut | null,
      dweight: out | null,
    ): void
  }
}

/**
 * RMSNorm over the last dimension, x/√(mean(x²) + eps)∘weight: x [...,D] float32 or bfloat16, weight [D] float32.
 * Returns x's shape and dtype.
 */
export function rmsNorm(a: Tensor, weight: Tensor, eps: number): Tensor {
  const x = contiguous(a)
  weight = contiguous(weight)
  const [y, rstd] = [empty(x.shape, x.dtype), empty([x.size / (x.shape.at(-1) || 1)])]
  native().ops.rmsnorm_forward(x.handle, weight.handle, eps, y.handle, rstd.handle)
  return record(
    'rmsNorm',
    y,
    [x, weight],
    (dy, needs, [residual]) => {
      const [dx, dw] = [x, weight].map((t, i) => (needs[i] ? empty(t.shape, t.dtype) : undefined))
      native().ops.rmsnorm_backward(
        dy.handle,
        x.handle,
        weight.handle,
        rstd.handle,
        residual?.handle ?? null,
        dx?.handle ?? null,
        dw?.handle ?? null,
      )
      return [dx, dw]
    },
    [0],
  )
}
