/** BERT's attention block over any dimension of its input: the Q-Former's attention in space and in time. */
import { attention } from '../ops/attention.js'
import { type Columns, columnsOf } from '../ops/columns.js'
import { cast, contiguous } from '../ops/copy.js'
import { mean } from '../ops/reduce.js'
import { router } from '../ops/router.js'
import { sourceAttention } from '../ops/source-attention.js'
import { concat, expand, narrow, reshape } from '../ops/views.js'
import { recording } from '../tensor/tape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { normalise, project, projectAll, projectOnto, type Linear, type LoRA, type Norm } from './layers.js'

export interface AttentionWeights {
  query: Linear
  key: Linear
  value: Linear
  /**
   * The layers of one input as one, where their weights are adjacent in memory: query, key and value, or key and value
   * of a cross-attention.
   */
  packed?: Linear | undefined
  dense: Linear
  norm: Norm
  heads: number
}

/** The two-layer network that weights masks: w1 [H,D], b1 [H], w2 [p,H], b2 [p] (docs/model.md#router). */
export interface Router {
  w1: Tensor
  b1: Tensor
  w2: Tensor
  b2: Tensor
}

export interface Routing {
  router: Router
  mode: 'attention' | 'score'
  /** uint8 bit sets [n,n], bit j = M_j. */
  masks: Tensor
}

export interface Attend {
  /**
   * The dimension of x that is attended over; the others, but for the last, are batch: the channel swap is this number.
   */
  over: number
  /** Keys and values from here instead of from x: [...batch, K, in]. */
  kv?: Tensor | undefined
  /** uint8, 1 = token, broadcastable to [...batch, keys]. */
  keyMask?: Tensor | undefined
  lora?: { q: LoRA; v: LoRA } | undefined
  routing?: Routing | undefined
  /** How many of the first elements of `over` the router pools: the query tokens. Default: all. */
  pooled?: number | undefined
  /** Called with the router's output, α [...batch, p]. */
  observeAlpha?: ((alpha: Tensor) => void) | undefined
}

/**
 * LayerNorm(x + Dense(attention(x))), x [a,b,n,D]. With the same weights it is called once over space and once over
 * time.
 */
export function attend(weights: AttentionWeights, input: Tensor, o: Attend): Tensor {
  return normalise(weights.norm, attendSum(weights, input, o))
}

/** The input of {@link attend}'s LayerNorm: x + Dense(attention(x)). */
export function attendSum(weights: AttentionWeights, input: Tensor, o: Attend): Tensor {
  const { query, key, value, packed, dense, heads } = weights
  const x = contiguous(input)
  let [q, k, v]: Columns[] = []
  if (o.kv) {
    const source = contiguous(o.kv)
    const own = project(query, x, o.lora?.q)
    if (absorbs(weights, own, source, o))
      return projectOnto(
        x,
        dense,
        sourceAttention(own, source, key.weight, value.weight, { heads, bias: value.bias, lora: o.lora?.v }),
      )
    q = columnsOf(own)
    ;[k, v] = projectAll({ parts: [key, value], packed }, source, [undefined, o.lora?.v])
  } else {
    ;[q, k, v] = projectAll({ parts: [query, key, value], packed }, x, [o.lora?.q, undefined, o.lora?.v])
  }
  let alpha: Tensor | undefined
  if (o.routing) {
    alpha = router(x, o.routing.router, o.over, o.pooled)
    o.observeAlpha?.(alpha)
  }
  const mixed = attention(q!, k!, v!, {
    heads,
    over: o.over,
    keyMask: o.keyMask,
    mode: o.routing?.mode ?? 'off',
    masks: o.routing?.masks,
    alpha,
  })
  return projectOnto(x, dense, mixed)
}

/**
 * Whether the weights of keys and values should be absorbed into queries and output: nothing is recorded (with
 * gradients that costs more), and with few queries and a wide source it takes fewer operations.
 */
function absorbs(
  { key, value, heads }: AttentionWeights,
  q: Tensor,
  source: Tensor,
  { kv, over, keyMask, routing, lora }: Attend,
): boolean {
  if (!kv || over !== q.rank - 2 || keyMask || routing || q.dtype !== 'float32') return false
  const [n, width, keys, from] = [q.dim(-2), q.dim(-1), source.dim(-2), source.dim(-1)]
  if (n * width * from + n * heads * keys * from >= keys * from * width + n * keys * width) return false
  return !recording([
    q,
    source,
    key.weight,
    value.weight,
    ...[key.bias, value.bias, lora?.v.A, lora?.v.B].filter((t) => t !== undefined),
  ])
}

/**
 * What {@link attend} looks at in its own input: the weights of all elements of `over`, routed as there, the mean over
 * heads. x [a,b,n,D] gives float32 [a,b,n,m] with m the size of `over`; each row sums to 1. Without gradient.
 */
export function attentionWeights({ query, key, heads }: AttentionWeights, input: Tensor, o: Attend): Tensor {
  const x = contiguous(input)
  const [q, k] = [project(query, x, o.lora?.q), project(key, x)]
  const alpha = o.routing && router(x, o.routing.router, o.over, o.pooled)
  const [size, width, last] = [x.dim(o.over), x.dim(-1), x.rank - 1]
  const d = width / heads
  const parts: Tensor[] = []
  for (let first = 0; first < size; first += d) {
    // Element i has the value 1 in column i − first of each head, so that column of the output is the weight of i.
    const ones = new Float32Array(size * width)
    for (let i = first; i < Math.min(size, first + d); i++)
      for (let h = 0; h < heads; h++) ones[i * width + h * d + i - first] = 1
    const shape = x.shape.map((n, i) => (i === o.over || i === last ? n : 1))
    const v = contiguous(expand(cast(tensor(ones, shape, 'float32', x.device), q.dtype as 'float32'), x.shape))
    const seen = attention(q, k, v, {
      heads,
      over: o.over,
      keyMask: o.keyMask,
      mode: o.routing?.mode ?? 'off',
      masks: o.routing?.masks,
      alpha,
    })
    const byHead = reshape(cast(seen, 'float32'), [x.size / width, heads, d])
    const weights = reshape(mean(byHead, 1), [...x.shape.slice(0, -1), d])
    parts.push(narrow(weights, last, 0, Math.min(d, size - first)))
  }
  return concat(parts, last)
}
