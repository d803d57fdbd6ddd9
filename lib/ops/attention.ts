import { invalid } from '../errors.js'
import { native, type NativeTensor } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { type Columns, ColumnArguments, columnsIn, columnsOf, shapeOf, viewOf } from './columns.js'
import { contiguous, zeros } from './copy.js'
import { expand } from './views.js'

declare module '../native.js' {
  interface Ops {
    attention_forward(
      q: act,
      k: act,
      v: act,
      keyMask: tensor | null,
      masks: tensor | null,
      alpha: tensor | null,
      bias: tensor | null,
      mode: int,
      causal: bool,
      scale: float,
      y: actOut,
      lse: out,
    ): void
    attention_backward(
      dy: act,
      q: act,
      k: act,
      v: act,
      keyMask: tensor | null,
      masks: tensor | null,
      alpha: tensor | null,
      bias: tensor | null,
      mode: int,
      causal: bool,
      scale: float,
      lse: tensor,
      dq: actOut | null,
      dk: actOut | null,
      dv: actOut | null,
      dalpha: out | null,
    ): void
  }
}

const modes = { off: 0, score: 1, attention: 2 } as const

/** What {@link attention} computes beside q, k and v. */
export interface AttentionOptions {
  /** Number of heads; divides the width. */
  heads: number
  /**
   * The dimension that is attended over. Default: the one before the last. The channel swap is this number
   * (docs/model.md#channel-swap).
   */
  over?: number | undefined
  /** uint8, 1 = token, 0 = padding; broadcast to [...batch, keys]. */
  keyMask?: Tensor | undefined
  /** How masks route attention (docs/model.md#modes). Default: off. */
  mode?: keyof typeof modes | undefined
  /** uint8 bit sets [queries, keys], bit j = M_j. */
  masks?: Tensor | undefined
  /** The weight of each mask, [...batch, p]. */
  alpha?: Tensor | undefined
  /** Query i sees keys up to i + keys − queries. */
  causal?: boolean | undefined
  /** Factor of q·kᵀ. Default: 1/√d. */
  scale?: number | undefined
  /**
   * A bias of each distance, [heads, queries + keys − 1] float32: element k − i + queries − 1 of its head is added to
   * the score of query i and key k. With mode off alone. It is frozen: it gets no gradient.
   */
  bias?: Tensor | undefined
}

/**
 * softmax(scale·q·kᵀ + bias)·v per head, with masks and routing (docs/model.md#modes). q, k and v have three or four
 * dimensions and are float32 or bfloat16. The last dimension holds the heads side by side; `over` is attended; the
 * others are batch, of equal sizes in all three. q [B,T,L,h·d] with `over` 2 is attention in space, with `over` 1 in
 * time. Columns of a packed tensor are read in place, and their gradients are written side by side. Returns a
 * contiguous tensor of q's shape and dtype.
 */
export function attention(
  query: Tensor | Columns,
  key: Tensor | Columns,
  value: Tensor | Columns,
  o: AttentionOptions,
): Tensor {
  const given = [query, key, value].map(columnsOf)
  const [shape, keyShape, valueShape] = given.map(shapeOf) as [number[], number[], number[]]
  const [rank, width] = [shape.length, shape.at(-1)!]
  const over = o.over ?? rank - 2
  if ((rank !== 3 && rank !== 4) || keyShape.length !== rank || valueShape.length !== rank)
    throw invalid('attention', 'q, k and v of three or four dimensions', [shape, keyShape, valueShape])
  if (!Number.isInteger(over) || over < 0 || over > rank - 2)
    throw invalid('over', `a dimension of [${shape}] before the last`, o.over)
  if (!(Number.isInteger(o.heads) && o.heads >= 1) || width % o.heads !== 0)
    throw invalid('heads', `a divisor of the width ${width}`, o.heads)
  const mode = modes[o.mode ?? 'off']
  if (mode === undefined) throw invalid('mode', 'off, score or attention', o.mode)
  if (mode && !(o.masks && o.alpha))
    throw invalid('attention', `masks and alpha in mode ${o.mode}`, { masks: o.masks?.shape, alpha: o.alpha?.shape })
  if (o.bias?.requiresGrad)
    throw invalid('bias', 'a tensor that needs no gradient', o.bias.label ?? o.bias.shape, 'call detach() first')
  const factor = o.scale ?? 1 / Math.sqrt(width / o.heads)
  if (!Number.isFinite(factor)) throw invalid('scale', 'a finite number', factor)
  const batch = shape.filter((_, i) => i !== over && i !== rank - 1)
  const keys = keyShape[over]!
  // `expand` is an operator: its backward sums the gradient over the repeated dimensions.
  const alpha = mode ? repeated(o.alpha!, [...batch, o.alpha!.dim(-1)]) : undefined
  const read = columnsIn(given, (t) => (t.strides.at(-1) === 1 || t.dim(-1) === 1 ? t : contiguous(t)))
  const sources = new ColumnArguments(read)

  /** Runs an operator on views that live as long as the call. */
  const call = (
    f: (rows: (t: Tensor) => Tensor, keyMask: Tensor | undefined, weights: Tensor | undefined) => void,
  ): void => {
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

  const y = empty(shape, read[0]!.of.dtype)
  /** q, k and v by head, as operators see them. */
  const arranged = (rows: (t: Tensor) => Tensor, views: Tensor[]) =>
    views.map((t) => rows(t).handle) as [NativeTensor, NativeTensor, NativeTensor]
  const seen = (): Tensor[] => read.map((c) => viewOf(c))
  const [b0, b1] = [batch[0]!, batch[1] ?? 1]
  const lse = empty([b0, b1, o.heads, shape[over]!, mode === 2 ? alpha!.dim(-1) : 1])
  const masks = mode ? o.masks!.handle : null
  const views = seen()
  call((rows, keyMask, weights) =>
    native().ops.attention_forward(
      ...arranged(rows, views),
      keyMask?.handle ?? null,
      masks,
      weights?.handle ?? null,
      o.bias?.handle ?? null,
      mode,
      o.causal === true,
      factor,
      rows(y).handle,
      lse.handle,
    ),
  )
  for (const t of views) t.dispose()
  record('attention', y, alpha ? [...sources.inputs, alpha] : sources.inputs, (dy, needs) => {
    const d = contiguous(dy)
    const { inputs, columns } = sources.gradients(needs, (t) => zeros(t.shape, t.dtype, t.device))
    const dalpha = needs[sources.inputs.length] ? empty(alpha!.shape) : undefined
    const views = seen()
    call((rows, keyMask, weights) => {
      const into = (t: Tensor | undefined) => (t ? rows(t).handle : null)
      const dweights = dalpha?.view([b0, b1, alpha!.dim(-1)])
      native().ops.attention_backward(
        rows(d).handle,
        ...arranged(rows, views),
        keyMask?.handle ?? null,
        o.masks && mode ? o.masks.handle : null,
        weights?.handle ?? null,
        o.bias?.handle ?? null,
        mode,
        o.causal === true,
        factor,
        lse.handle,
        into(columns[0]),
        into(columns[1]),
        into(columns[2]),
        dweights?.handle ?? null,
      )
      dweights?.dispose()
    })
    for (const t of [...views, ...columns]) t?.dispose()
    return [...inputs, dalpha]
  })
  if (!y.requiresGrad) lse.dispose()
  return y
}

/** [...batch with the attended dimension somewhere, h·d] as [b0, b1, n, h, d]. */
function perHead(t: Tensor, over: number, heads: number): Tensor {
  const rest = t.shape.map((_, i) => i).filter((i) => i !== over && i !== t.rank - 1)
  const d = t.dim(-1) / heads
  const order = [rest[0]!, rest[1], over]
  return t.view(
    [...order.map((i) => (i === undefined ? 1 : t.shape[i]!)), heads, d],
    [...order.map((i) => (i === undefined ? 0 : t.strides[i]!)), d, 1],
  )
}

/** `alpha` in the shape of the batch. */
function repeated(alpha: Tensor, shape: readonly number[]): Tensor {
  return `${alpha.shape}` === `${shape}` ? alpha : expand(alpha, shape)
}

/** `t` as [b0, b1, n] by strides of 0 where it is smaller than `shape`, [b0, n] or [b0, b1, n]. */
function broadcast(t: Tensor, name: string, shape: readonly number[]): Tensor {
  const lead = shape.length - t.rank
  if (lead < 0 || t.shape.some((n, i) => n !== shape[lead + i] && n !== 1))
    throw invalid(name, `a shape that repeats to [${shape}]`, `[${t.shape}]`)
  const strides = shape.map((n, i) => (i < lead || (t.shape[i - lead] === 1 && n !== 1) ? 0 : t.strides[i - lead]!))
  return shape.length === 3 ? t.view(shape, strides) : t.view([shape[0]!, 1, shape[1]!], [strides[0]!, 0, strides[1]!])
}
