import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import type { Precision } from '../tensor/dtype.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { cast, contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    embedding_forward(ids: tensor, table: tensor, y: actOut): void
    embedding_backward(dy: act, ids: tensor, dtable: out): void
  }
}

/**
 * Rows of a table: ids int32 of any shape, table [V,D] float32, bfloat16 or float16; result [...ids,D] of `dtype`.
 * An id outside the table rejects the next await, with the id and V.
 */
export function embedding(ids: Tensor, table: Tensor, dtype: Precision = 'float32'): Tensor {
  ids = contiguous(ids)
  table = contiguous(table)
  const y = empty([...ids.shape, table.dim(1)], dtype)
  native().ops.embedding_forward(ids.handle, table.handle, y.handle)
  return record('embedding', y, [table], (dy) => {
    const dtable = empty(table.shape)
    native().ops.embedding_backward(dy.handle, ids.handle, dtable.handle)
    return [table.dtype === 'bfloat16' ? cast(dtable, 'bfloat16') : dtable]
  })
}
