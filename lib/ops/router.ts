import { invalid } from '../errors.js'
import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    router_forward(x: act, w1: tensor, b1: tensor, w2: tensor, b2: tensor, alpha: out, pooled: out, hidden: out): void
    router_backward(
      dalpha: tensor,
      alpha: tensor,
      pooled: tensor,
      hidden: tensor,
      w1: tensor,
      w2: tensor,
      count: int,
      residual: act | null,
      dx: actOut | null,
      dw1: out,
      db1: out,
      dw2: out,
      db2: out,
    ): void
  }
}

/** The two layers of a router: w1 [H,D], b1 [H], w2 [p,H], b2 [p], all float32. */
export interface RouterWeights {
  w1: Tensor
  b1: Tensor
  w2: Tensor
  b2: Tensor
}

/**
 * The weight of each mask, α = softmax(w2·relu(w1·mean(x) + b1) + b2) (docs/model.md#router). The mean is over
 * dimension `over` of x [a,b,n,D] or [a,n,D], or over its `first` elements alone; w1 [H,D], b1 [H], w2 [p,H], b2 [p].
 * Returns [...batch,p] float32.
 */
export function router(input: Tensor, weights: RouterWeights, over: number, first?: number): Tensor {
  if (input.rank !== 3 && input.rank !== 4)
    throw invalid('router', 'x of three or four dimensions', `shape [${input.shape}]`)
  if (!Number.isInteger(over) || over < 0 || over > input.rank - 2)
    throw invalid('over', `a dimension of [${input.shape}] before the last`, over)
  const x = input.strides.at(-1) === 1 || input.dim(-1) === 1 ? input : contiguous(input)
  const [w1, b1, w2, b2] = [weights.w1, weights.b1, weights.w2, weights.b2].map(contiguous) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ]
  const batch = x.shape.filter((_, i) => i !== over && i !== x.rank - 1)
  const [m0, m1] = [batch[0]!, batch[1] ?? 1]
  /** [b0, b1, n, D] with the pooled dimension third. */
  const rows = (t: Tensor, n = t.dim(over)): Tensor => {
    const rest = t.shape.map((_, i) => i).filter((i) => i !== over && i !== t.rank - 1)
    return t.view(
      [m0, m1, n, t.dim(-1)],
      [t.strides[rest[0]!]!, rest[1] === undefined ? 0 : t.strides[rest[1]]!, t.strides[over]!, t.strides.at(-1)!],
    )
  }
  const [alpha, pooled, hidden] = [empty([m0, m1, b2.size]), empty([m0, m1, x.dim(-1)]), empty([m0, m1, b1.size])]
  const count = first ?? x.dim(over)
  if (!(Number.isInteger(count) && count >= 1 && count <= x.dim(over)))
    throw invalid('first', `1 to ${x.dim(over)}`, count)
  const seen = rows(x, count)
  native().ops.router_forward(
    seen.handle,
    w1.handle,
    b1.handle,
    w2.handle,
    b2.handle,
    alpha.handle,
    pooled.handle,
    hidden.handle,
  )
  seen.dispose()
  return record(
    'router',
    alpha.view([...batch, b2.size]),
    [x, w1, b1, w2, b2],
    (dy, needs, [residual]) => {
      const dalpha = contiguous(dy).view(alpha.shape)
      const dx = needs[0] ? empty(x.shape, x.dtype) : undefined
      const [dw1, db1, dw2, db2] = [w1, b1, w2, b2].map((t) => empty(t.shape)) as [Tensor, Tensor, Tensor, Tensor]
      const [before, into] = [dx && residual && rows(residual), dx && rows(dx)]
      native().ops.router_backward(
        dalpha.handle,
        alpha.handle,
        pooled.handle,
        hidden.handle,
        w1.handle,
        w2.handle,
        count,
        before?.handle ?? null,
        into?.handle ?? null,
        dw1.handle,
        db1.handle,
        dw2.handle,
        db2.handle,
      )
      before?.dispose()
      into?.dispose()
      return [dx, dw1, db1, dw2, db2]
    },
    [0],
  )
}
