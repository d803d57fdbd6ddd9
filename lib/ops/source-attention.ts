import { invalid } from '../errors.js'
import { native } from '../native.js'
import { recording } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    source_attention(
      q: act,
      source: act,
      wk: tensor,
      wv: tensor,
      bias: tensor | null,
      a: tensor | null,
      b: tensor | null,
      scaling: float,
      heads: int,
      y: actOut,
    ): void
  }
}

/** What {@link sourceAttention} computes beside queries, source and weights. */
export interface SourceAttentionOptions {
  /** Number of heads; divides the width. */
  heads: number
  /** Added to the values; a bias of the keys would change nothing. [h·d]. */
  bias?: Tensor | undefined
  /** A low-rank change of the values' weight, W_v + scaling·B A: A [r,in], B [h·d,r]. */
  lora?: { A: Tensor; B: Tensor; scaling: number } | undefined
}

/**
 * softmax(q·kᵀ/√d)·v per head with k = E W_kᵀ and v = E W_vᵀ + b: what `attention` gives on keys and values that are
 * projected from a source, without forming these on the CPU. q [...,n,h·d] and E [...,K,in] float32 or bfloat16, W_k
 * and W_v [h·d,in] float32, bfloat16 or float16. There is no gradient: throws where one would be recorded.
 */
export function sourceAttention(
  query: Tensor,
  source: Tensor,
  key: Tensor,
  value: Tensor,
  o: SourceAttentionOptions,
): Tensor {
  const given = [query, source, key, value, o.bias, o.lora?.A, o.lora?.B].map((t) => t && contiguous(t))
  if (recording(given.filter((t) => t !== undefined)))
    throw invalid(
      'sourceAttention',
      'no argument that requires a gradient',
      'one that does',
      'use attention() on projected keys and values, or noGrad()',
    )
  const [q, e, wk, wv, bias, a, b] = given
  const y = empty(q!.shape, q!.dtype)
  native().ops.source_attention(
    q!.handle,
    e!.handle,
    wk!.handle,
    wv!.handle,
    bias?.handle ?? null,
    a?.handle ?? null,
    b?.handle ?? null,
    o.lora?.scaling ?? 0,
    o.heads,
    y.handle,
  )
  return y
}
