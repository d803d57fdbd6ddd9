import { native } from '../native.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    argmax(x: act, y: out): void
  }
}

/**
 * The index of the largest element of each row, the first of equals: x [R,V] float32 or bfloat16, result [R] int32; −1
 * where an element of the row is not finite. No gradient flows.
 */
export function argmax(x: Tensor): Tensor {
  const y = empty([x.dim(0)], 'int32')
  native().ops.argmax(contiguous(x).handle, y.handle)
  return y
}
