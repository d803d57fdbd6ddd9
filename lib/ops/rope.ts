import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    rope_forward(x: act, positions: tensor, theta: float, turned: int, inverse: bool, y: actOut): void
  }
}

/**
 * Rotary position embedding in LLaMA's half-split form: x [B,n,h,d] float32 or bfloat16, d even, positions [B,n] int32.
 * The first `turned` heads are rotated (default: all); the others are copied.
 */
export function rope(a: Tensor, positions: Tensor, theta: number, turned = a.dim(2)): Tensor {
  // Strides before the last are read as they are.
  const x = a.strides.at(-1) === 1 ? a : contiguous(a)
  positions = contiguous(positions)
  const turn = (t: Tensor, inverse: boolean): Tensor => {
    const y = empty(t.shape, t.dtype)
    native().ops.rope_forward(t.handle, positions.handle, theta, turned, inverse, y.handle)
    return y
  }
  return record('rope', turn(x, false), [x], (dy) => [turn(dy, true)])
}
