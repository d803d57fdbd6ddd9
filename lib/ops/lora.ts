import { invalid } from '../errors.js'
import { native } from '../native.js'
import { record, recordAll } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    lora_forward(
      x: act,
      w: tensor,
      bias: tensor | null,
      a: tensor,
      b: tensor,
      scaling: float,
      y: actOut,
      shrunk: out,
    ): void
    lora_backward(
      dy: act,
      x: act,
      shrunk: tensor,
      w: tensor,
      a: tensor,
      b: tensor,
      scaling: float,
      residual: act | null,
      dx: actOut | null,
      da: out,
      db: out,
    ): void
    lora_pack(
      a1: tensor,
      b1: tensor,
      first1: int,
      a2: tensor | null,
      b2: tensor | null,
      first2: int,
      a: out,
      b: out,
    ): void
    lora_unpack(db: tensor, first1: int, first2: int, db1: out, db2: out | null): void
  }
}

/**
 * A frozen linear layer with a low-rank update that is trained (docs/model.md#lora): y = x Wᵀ + b + scaling·(x Aᵀ) Bᵀ.
 * x [...,in] float32 or bfloat16 and y like it, weight [out,in] float32, bfloat16 or float16, bias [out], A [r,in], B
 * [out,r]. Weight and bias are frozen.
 */
export function lora(
  input: Tensor,
  weight: Tensor,
  offset: Tensor | undefined,
  A: Tensor,
  B: Tensor,
  scaling: number,
): Tensor {
  if (weight.requiresGrad || offset?.requiresGrad)
    throw invalid(
      'lora',
      'a frozen weight and bias',
      'one that requires a gradient',
      'use linear() for what is trained',
    )
  const [x, w, bias, a, b] = [
    contiguous(input),
    contiguous(weight),
    offset && contiguous(offset),
    contiguous(A),
    contiguous(B),
  ]
  const lead = x.shape.slice(0, -1)
  const [y, shrunk] = [empty([...lead, w.dim(0)], x.dtype), empty([...lead, a.dim(0)])]
  native().ops.lora_forward(
    x.handle,
    w.handle,
    bias?.handle ?? null,
    a.handle,
    b.handle,
    scaling,
    y.handle,
    shrunk.handle,
  )
  return record(
    'lora',
    y,
    [x, a, b],
    (dy, [needsX], [residual]) => {
      const dx = needsX ? empty(x.shape, x.dtype) : undefined
      const [da, db] = [empty(a.shape), empty(b.shape)]
      native().ops.lora_backward(
        dy.handle,
        x.handle,
        shrunk.handle,
        w.handle,
        a.handle,
        b.handle,
        scaling,
        residual?.handle ?? null,
        dx?.handle ?? null,
        da.handle,
        db.handle,
      )
      return [dx, da, db]
    },
    [0],
  )
}

/** One low-rank update of some rows of a weight: A [r,in], B [out,r], of rows `first` on. */
export interface Update {
  A: Tensor
  B: Tensor
  first: number
}

/**
 * One or two low-rank updates of row ranges of a weight [rows,in] as one update of the whole, for {@link lora}: A
 * [Σr,in], B [rows,Σr], 0 in all other rows.
 */
export function loraPack(given: readonly Update[], rows: number): { A: Tensor; B: Tensor } {
  const [one, two] = given.map(({ A, B, first }) => ({ A: contiguous(A), B: contiguous(B), first }))
  if (!one || given.length > 2) throw invalid('loraPack', 'one or two updates', given.length)
  const ranks = [one, two].map((u) => u?.A.dim(0) ?? 0)
  const rank = ranks[0]! + ranks[1]!
  const [A, B] = [empty([rank, one.A.dim(1)]), empty([rows, rank])]
  native().ops.lora_pack(
    one.A.handle,
    one.B.handle,
    one.first,
    two?.A.handle ?? null,
    two?.B.handle ?? null,
    two?.first ?? 0,
    A.handle,
    B.handle,
  )
  recordAll('loraPack', [A, B], two ? [one.A, one.B, two.A, two.B] : [one.A, one.B], ([dA, dB]) => {
    const [db1, db2] = [empty(one.B.shape), two && empty(two.B.shape)]
    native().ops.lora_unpack(dB!.handle, one.first, two?.first ?? 0, db1.handle, db2?.handle ?? null)
    const dAOf = (u: Update, start: number): Tensor => dA!.view(u.A.shape, dA!.strides, start * dA!.dim(1))
    return two ? [dAOf(one, 0), db1, dAOf(two, ranks[0]!), db2] : [dAOf(one, 0), db1]
  })
  return { A, B }
}
