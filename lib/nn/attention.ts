/** BERT's attention block, over any dimension of its input: what the Q-Former is made of, in space and in time. */
import { attention } from '../ops/attention.js'
import { contiguous } from '../ops/copy.js'
import { router } from '../ops/router.js'
import type { Tensor } from '../tensor/tensor.js'
import { normalise, project, projectOnto, type Linear, type LoRA, type Norm } from './layers.js'

export interface AttentionWeights {
  query: Linear
  key: Linear
  value: Linear
  dense: Linear
  norm: Norm
  heads: number
}

/** The two-layer network that weighs masks: w1 [H,D], b1 [H], w2 [p,H], b2 [p] (SPEC §5). */
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
  /** The dimension of x that is attended over; the others, but for the last, are batch: the channel swap is this number. */
  over: number
  /** Keys and values from here instead of from x: [...batch, K, in]. */
  kv?: Tensor | undefined
  /** uint8, 1 = token, broadcastable to [...batch, keys]. */
  padding?: Tensor | undefined
  lora?: { q: LoRA; v: LoRA } | undefined
  routing?: Routing | undefined
  /** What the router pools over `over`: the query tokens. Default: all of x. */
  pooled?: Tensor | undefined
  /** Sees the router's choice, α [...batch, p]. */
  observeAlpha?: ((alpha: Tensor) => void) | undefined
}

/** LayerNorm(x + Dense(attention(x))), x [a,b,n,D]. With the same weights it is called once over space and once over time. */
export function attend(weights: AttentionWeights, input: Tensor, o: Attend): Tensor {
  const x = contiguous(input)
  const source = o.kv ? contiguous(o.kv) : x
  const q = project(weights.query, x, o.lora?.q)
  const k = project(weights.key, source)
  const v = project(weights.value, source, o.lora?.v)
  let alpha: Tensor | undefined
  if (o.routing) {
    alpha = router(o.pooled ?? x, o.routing.router, o.over)
    o.observeAlpha?.(alpha)
  }
  const mixed = attention(q, k, v, {
    heads: weights.heads, over: o.over, keyMask: o.padding, mode: o.routing?.mode ?? 'off', masks: o.routing?.masks, alpha,
  })
  return normalise(weights.norm, projectOnto(x, weights.dense, mixed))
}
