import { invalid } from '../errors.js'
import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'
import { expand } from './views.js'

const modes = { off: 0, score: 1, attention: 2 } as const

export interface AttentionOptions {
  heads: number
  /** The dimension that is attended over; the one before the last by default. The channel swap is this number. */
  over?: number | undefined
  /** uint8, 1 = token, 0 = padding; broadcastable to [...batch, keys]. */
  keyMask?: Tensor | undefined
  /** How masks route attention (SPEC §5). Default: off. */
  mode?: keyof typeof modes | undefined
  /** uint8 bit sets [queries, keys], bit j = M_j. */
  masks?: Tensor | undefined
  /** The weight of each mask, [...batch, p]. */
  alpha?: Tensor | undefined
  /** Query i sees keys up to i + keys − queries. */
  causal?: boolean | undefined
}

/**
 * softmax(q·kᵀ/√d)·v per head. The last dimension of q, k and v holds the heads side by side, `over` is attended, what is
 * left is batch, one or two dimensions of equal sizes in all three: q [B,T,L,h·d] with over 2 is attention in space, with
 * over 1 in time. Slices of a packed tensor are read where they are. Returns a contiguous tensor in the layout of q.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, o: AttentionOptions): Tensor {
  const over = o.over ?? q.rank - 2
  if ((q.rank !== 3 && q.rank !== 4) || k.rank !== q.rank || v.rank !== q.rank) throw invalid('attention', 'q, k and v of three or four dimensions', [q.shape, k.shape, v.shape])
  if (!Number.isInteger(over) || over < 0 || over > q.rank - 2) throw invalid('over', `a dimension of [${q.shape}] before the last`, o.over)
  if (!(Number.isInteger(o.heads) && o.heads >= 1) || q.dim(-1) % o.heads !== 0) throw invalid('heads', `a divisor of the width ${q.dim(-1)}`, o.heads)
  const mode = modes[o.mode ?? 'off']
  if (mode === undefined) throw invalid('mode', 'off, score or attention', o.mode)
  if (mode && !(o.masks && o.alpha)) throw invalid('attention', `masks and alpha in mode ${o.mode}`, { masks: o.masks?.shape, alpha: o.alpha?.shape })
  const batch = q.shape.filter((_, i) => i !== over && i !== q.rank - 1)
  const keys = k.dim(over)
  // Repeated by an operator, so that its gradient is summed where it was repeated.
  const alpha = mode ? repeated(o.alpha!, [...batch, o.alpha!.dim(-1)]) : undefined
  const [a, b, c] = [q, k, v].map((t) => (t.strides.at(-1) === 1 || t.dim(-1) === 1 ? t : contiguous(t))) as [Tensor, Tensor, Tensor]

  /** Runs an operator on views that live as long as the call. */
  const call = (f: (rows: (t: Tensor) => Tensor, keyMask: Tensor | undefined, weights: Tensor | undefined) => void): void => {
    const views: Tensor[] = []
    const lend = (t: Tensor): Tensor => (views.push(t), t)
    try {
      f(
        (t) => lend(perHead(t, over, o.heads)),
        o.keyMask && lend(broadcast(o.keyMask, 'keyMask', [...batch, keys])),
        alpha && lend(broadcast(alpha, 'alpha', alpha.shape)),
      )
    } finally {
      for (const t of views) t.dispose()
    }
  }

  const y = empty(q.shape, q.dtype)
  const [b0, b1] = [batch[0]!, batch[1] ?? 1]
  const lse = empty([b0, b1, o.heads, q.dim(over), mode === 2 ? alpha!.dim(-1) : 1])
  const masks = mode ? o.masks!.handle : null
  call((rows, keyMask, weights) =>
    native().ops.attention_forward(rows(a).handle, rows(b).handle, rows(c).handle, keyMask?.handle ?? null, masks, weights?.handle ?? null, mode, o.causal === true, rows(y).handle, lse.handle),
  )
  record(y, alpha ? [a, b, c, alpha] : [a, b, c], (dy, needs) => {
    const d = contiguous(dy)
    const [dq, dk, dv] = [a, b, c].map((t, i) => (needs[i] ? empty(t.shape, t.dtype) : undefined))
    const dalpha = needs[3] ? empty(alpha!.shape) : undefined
    call((rows, keyMask, weights) => {
      const into = (t: Tensor | undefined) => (t ? rows(t).handle : null)
      const dweights = dalpha?.view([b0, b1, alpha!.dim(-1)])
      native().ops.attention_backward(
        rows(d).handle, rows(a).handle, rows(b).handle, rows(c).handle, keyMask?.handle ?? null, o.masks && mode ? o.masks.handle : null, weights?.handle ?? null,
        mode, o.causal === true, lse.handle, into(dq), into(dk), into(dv), dweights?.handle ?? null,
      )
      dweights?.dispose()
    })
    return [dq, dk, dv, dalpha]
  })
  if (!y.requiresGrad) lse.dispose()
  return y
}

/** [...batch with the attended dimension somewhere, h·d] as [b0, b1, n, h, d]. */
function perHead(t: Tensor, over: number, heads: number): Tensor {
  const rest = t.shape.map((_, i) => i).filter((i) => i !== over && i !== t.rank - 1)
  const d = t.dim(-1) / heads
  const order = [rest[0]!, rest[1], over]
  return t.view([...order.map((i) => (i === undefined ? 1 : t.shape[i]!)), heads, d], [...order.map((i) => (i === undefined ? 0 : t.strides[i]!)), d, 1])
}

/** `alpha` in the shape of the batch. */
function repeated(alpha: Tensor, shape: readonly number[]): Tensor {
  return `${alpha.shape}` === `${shape}` ? alpha : expand(alpha, shape)
}

/** `t` as [b0, b1, n] by strides of 0 where it is smaller than `shape`, [b0, n] or [b0, b1, n]. */
function broadcast(t: Tensor, name: string, shape: readonly number[]): Tensor {
  const lead = shape.length - t.rank
  if (lead < 0 || t.shape.some((n, i) => n !== shape[lead + i] && n !== 1)) throw invalid(name, `a shape that repeats to [${shape}]`, `[${t.shape}]`)
  const strides = shape.map((n, i) => (i < lead || (t.shape[i - lead] === 1 && n !== 1) ? 0 : t.strides[i - lead]!))
  return shape.length === 3 ? t.view(shape, strides) : t.view([shape[0]!, 1, shape[1]!], [strides[0]!, 0, strides[1]!])
}
