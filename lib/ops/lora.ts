import { invalid } from '../errors.js'
import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

/**
 * A frozen linear layer with a low-rank update that is trained (SPEC §4): y = x Wᵀ + b + scaling·(x Aᵀ) Bᵀ.
 * x [...,in] float32 or bfloat16 and y like it, weight [out,in] float32, bfloat16 or float16, bias [out], A [r,in], B [out,r]. Weight and bias are frozen.
 */
export function lora(input: Tensor, weight: Tensor, offset: Tensor | undefined, A: Tensor, B: Tensor, scaling: number): Tensor {
  if (weight.requiresGrad || offset?.requiresGrad) throw invalid('lora', 'a frozen weight and bias', 'one that requires a gradient', 'use linear() for what is trained')
  const [x, w, bias, a, b] = [contiguous(input), contiguous(weight), offset && contiguous(offset), contiguous(A), contiguous(B)]
  const lead = x.shape.slice(0, -1)
  const [y, shrunk] = [empty([...lead, w.dim(0)], x.dtype), empty([...lead, a.dim(0)])]
  native().ops.lora_forward(x.handle, w.handle, bias?.handle ?? null, a.handle, b.handle, scaling, y.handle, shrunk.handle)
  return record(y, [x, a, b], (dy, [needsX], [residual]) => {
    const dx = needsX ? empty(x.shape, x.dtype) : undefined
    const [da, db] = [empty(a.shape), empty(b.shape)]
    native().ops.lora_backward(dy.handle, x.handle, shrunk.handle, w.handle, a.handle, b.handle, scaling, residual?.handle ?? null, dx?.handle ?? null, da.handle, db.handle)
    return [dx, da, db]
  }, [0])
}
