import { native } from '../native.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

/**
 * Where the largest number of each row stands, of equals the first: x [R,V] float32 or bfloat16 to [R] int32; −1 where
 * a number of the row is not finite.
 */
export function argmax(x: Tensor): Tensor {
  const y = empty([x.dim(0)], 'int32')
  native().ops.argmax(contiguous(x).handle, y.handle)
  return y
}
