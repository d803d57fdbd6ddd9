import { invalid } from '../errors.js'
import { native } from '../native.js'
import { recording } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    patchify(pixels: act, patch: int, y: actOut): void
  }
}

/**
 * Images [B,C,H,W] as rows of patches [B,(H/p)(W/p),C·p·p], in the order of a flattened convolution weight; float32 or
 * bfloat16. Pixels are never trained: there is no gradient, and it throws where one would be recorded.
 */
export function patchify(a: Tensor, patch: number): Tensor {
  const pixels = contiguous(a)
  const [b, c, h, w] = pixels.shape as [number, number, number, number]
  if (pixels.rank !== 4 || h % patch || w % patch)
    throw invalid('pixels', `shape [B,C,H,W] with a height and width that ${patch} divides`, `[${pixels.shape}]`)
  if (recording([pixels]))
    throw invalid('patchify', 'pixels that require no gradient', 'some that do', 'use noGrad(), or detach() them')
  const y = empty([b, (h / patch) * (w / patch), c * patch * patch], pixels.dtype)
  native().ops.patchify(pixels.handle, patch, y.handle)
  return y
}
