/** Elementwise arithmetic and activations. Shapes, dtypes and layout are checked natively: TypeError. */
import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { sumLeading } from './reduce.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    add(a: act, b: act, scale: float, y: actOut): void
    scale(x: act, factor: float, y: actOut): void
    multiply(a: act, b: act, y: actOut): void
    gelu_forward(x: act, y: actOut): void
    gelu_backward(dy: act, x: act, dx: actOut): void
    gelu_tanh_forward(x: act, y: actOut): void
    gelu_tanh_backward(dy: act, x: act, dx: actOut): void
    relu_forward(x: act, y: actOut): void
    relu_backward(dy: act, x: act, dx: actOut): void
    gate_forward(a: act, b: act, g: tensor, y: actOut): void
    gate_backward(dy: act, a: act, b: act, g: tensor, da: actOut, db: actOut, dg: out | null): void
  }
}

/**
 * a + scale·b, float32 or bfloat16. `b` has the shape of `a`, or that of its last dimensions and is broadcast over the
 * others.
 */
export function add(a: Tensor, b: Tensor, scale = 1): Tensor {
  const [x, z] = [contiguous(a), contiguous(b)]
  const y = empty(x.shape, x.dtype)
  native().ops.add(x.handle, z.handle, scale, y.handle)
  return record('add', y, [x, z], (dy, [needsA, needsB]) => {
    let db: Tensor | undefined
    if (needsB) {
      db = z.rank === x.rank ? dy : sumLeading(dy, z.shape)
      if (scale !== 1) db = times(db, scale)
    }
    return [needsA ? dy : undefined, db]
  })
}

function times(x: Tensor, factor: number): Tensor {
  const y = empty(x.shape, x.dtype)
  native().ops.scale(x.handle, factor, y.handle)
  return y
}

/** factor·x, float32 or bfloat16. */
export function scale(a: Tensor, factor: number): Tensor {
  const x = contiguous(a)
  return record('scale', times(x, factor), [x], (dy) => [times(dy, factor)])
}

/** a∘b, elementwise, of one shape; float32 or bfloat16. */
export function multiply(a: Tensor, b: Tensor): Tensor {
  const [x, z] = [contiguous(a), contiguous(b)]
  const product = (p: Tensor, q: Tensor): Tensor => {
    const y = empty(p.shape, p.dtype)
    native().ops.multiply(p.handle, q.handle, y.handle)
    return y
  }
  return record('multiply', product(x, z), [x, z], (dy, needs) => [
    needs[0] ? product(dy, z) : undefined,
    needs[1] ? product(dy, x) : undefined,
  ])
}

/** The exact GELU, x/2·(1 + erf(x/√2)), float32 or bfloat16. */
export function gelu(a: Tensor): Tensor {
  const x = contiguous(a)
  const y = empty(x.shape, x.dtype)
  native().ops.gelu_forward(x.handle, y.handle)
  return record('gelu', y, [x], (dy) => {
    const dx = empty(x.shape, x.dtype)
    native().ops.gelu_backward(dy.handle, x.handle, dx.handle)
    return [dx]
  })
}

/** GELU's approximation x/2·(1 + tanh(√(2/π)(x + 0.044715 x³))), float32 or bfloat16. */
export function geluTanh(a: Tensor): Tensor {
  const x = contiguous(a)
  const y = empty(x.shape, x.dtype)
  native().ops.gelu_tanh_forward(x.handle, y.handle)
  return record('geluTanh', y, [x], (dy) => {
    const dx = empty(x.shape, x.dtype)
    native().ops.gelu_tanh_backward(dy.handle, x.handle, dx.handle)
    return [dx]
  })
}

/** max(x, 0), float32 or bfloat16; NaN in, NaN out. */
export function relu(a: Tensor): Tensor {
  const x = contiguous(a)
  const y = empty(x.shape, x.dtype)
  native().ops.relu_forward(x.handle, y.handle)
  return record('relu', y, [x], (dy) => {
    const dx = empty(x.shape, x.dtype)
    native().ops.relu_backward(dy.handle, x.handle, dx.handle)
    return [dx]
  })
}

/** a + tanh(g)·(b − a), g a tensor of one number: the gated residual of docs/model.md#temporal-residual. */
export function gate(a: Tensor, b: Tensor, g: Tensor): Tensor {
  const [x, z] = [contiguous(a), contiguous(b)]
  const y = empty(x.shape, x.dtype)
  native().ops.gate_forward(x.handle, z.handle, g.handle, y.handle)
  return record('gate', y, [x, z, g], (dy, needs) => {
    const [da, db] = [empty(x.shape, x.dtype), empty(x.shape, x.dtype)]
    const dg = needs[2] ? empty([1]) : undefined
    native().ops.gate_backward(dy.handle, x.handle, z.handle, g.handle, da.handle, db.handle, dg?.handle ?? null)
    return [da, db, dg]
  })
}
