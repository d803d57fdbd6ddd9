import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

/** LayerNorm over the last dimension D with the biased variance: x [...,D] float32 or bfloat16, weight and bias [D] float32. */
export function layerNorm(a: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const x = contiguous(a)
  weight = contiguous(weight)
  bias = contiguous(bias)
  const rows = [x.size / (x.shape.at(-1) || 1)]
  const [y, mean, rstd] = [empty(x.shape, x.dtype), empty(rows), empty(rows)]
  native().ops.layernorm_forward(x.handle, weight.handle, bias.handle, eps, y.handle, mean.handle, rstd.handle)
  return record(y, [x, weight, bias], (dy, needs, [residual]) => {
    const [dx, dw, db] = [x, weight, bias].map((t, i) => (needs[i] ? empty(t.shape, t.dtype) : undefined))
    native().ops.layernorm_backward(dy.handle, x.handle, weight.handle, mean.handle, rstd.handle, residual?.handle ?? null, dx?.handle ?? null, dw?.handle ?? null, db?.handle ?? null)
    return [dx, dw, db]
  }, [0])
}
