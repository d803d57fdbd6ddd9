import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

/** y = x Wᵀ + b: x [...,in] float32 or bfloat16 and y like it, weight [out,in] float32, bfloat16 or float16, bias [out]. Frozen arguments cost no gradient. */
export function linear(a: Tensor, weight: Tensor, offset?: Tensor): Tensor {
  const [x, w, bias] = [contiguous(a), contiguous(weight), offset && contiguous(offset)]
  const y = empty([...x.shape.slice(0, -1), w.dim(0)], x.dtype)
  native().ops.gemm_forward(x.handle, w.handle, bias?.handle ?? null, y.handle)
  return record(y, bias ? [x, w, bias] : [x, w], (dy, [needsX, needsW, needsBias]) => {
    const dx = needsX ? empty(x.shape, x.dtype) : undefined
    const dw = needsW ? empty(w.shape) : undefined
    const dbias = needsBias ? empty(bias!.shape) : undefined
    if (dx) native().ops.gemm_backward_input(dy.handle, w.handle, dx.handle)
    if (dw ?? dbias) native().ops.gemm_backward_weight(dy.handle, x.handle, dw?.handle ?? null, dbias?.handle ?? null)
    return [dx, dw, dbias]
  })
}
