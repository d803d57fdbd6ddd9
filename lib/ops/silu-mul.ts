import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { type Columns, ColumnArguments, columnsIn, columnsOf, shapeOf, viewOf } from './columns.js'
import { contiguous, zeros } from './copy.js'

declare module '../native.js' {
  interface Ops {
    silu_mul_forward(gate: act, up: act, y: actOut): void
    silu_mul_backward(dy: act, gate: act, up: act, dgate: actOut, dup: actOut): void
  }
}

/**
 * SwiGLU's product, gate·sigmoid(gate)·up, of one shape, float32 or bfloat16. Columns of a packed tensor are read in
 * place.
 */
export function siluMul(gate: Tensor | Columns, up: Tensor | Columns): Tensor {
  const read = columnsIn([gate, up].map(columnsOf), contiguous)
  const sources = new ColumnArguments(read)
  const y = empty(shapeOf(read[0]!), read[0]!.of.dtype)
  const [g, u] = read.map((c) => viewOf(c)) as [Tensor, Tensor]
  native().ops.silu_mul_forward(g.handle, u.handle, y.handle)
  record('siluMul', y, sources.inputs, (dy) => {
    const { inputs, columns } = sources.gradients(
      sources.inputs.map(() => true),
      (t) => zeros(t.shape, t.dtype, t.device),
    )
    const [dg, du] = columns as [Tensor, Tensor]
    native().ops.silu_mul_backward(dy.handle, g.handle, u.handle, dg.handle, du.handle)
    dg.dispose()
    du.dispose()
    return inputs
  })
  if (!y.requiresGrad) for (const t of [g, u]) t.dispose()
  return y
}
