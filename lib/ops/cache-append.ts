import { native } from '../native.js'
import type { Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    cache_append(k: act, v: act, at: tensor, keys: actInOut, values: actInOut): void
  }
}

/**
 * Writes keys and values of new tokens into a cache: keys[b, at+i] = k[b, i], and the same of values. k and v [B,n,D],
 * `at` [1] int32, keys and values [B,M,D]. No gradient flows. A row outside of the cache rejects the next await.
 */
export function cacheAppend(k: Tensor, v: Tensor, at: Tensor, keys: Tensor, values: Tensor): void {
  const [a, b] = [k, v].map((t) => (t.strides.at(-1) === 1 || t.dim(-1) === 1 ? t : contiguous(t))) as [Tensor, Tensor]
  native().ops.cache_append(a.handle, b.handle, at.handle, keys.handle, values.handle)
}
