/** Blocks over given weights: linear, norms, feed-forward. */
import { type Columns, columnsOf } from '../ops/columns.js'
import { linear, linearGelu } from '../ops/linear.js'
import { layerNorm, layerNormJoin, layerNormSplit } from '../ops/layernorm.js'
import { lora, loraPack } from '../ops/lora.js'
import type { Tensor } from '../tensor/tensor.js'

/** y = x Wᵀ + b: weight [out,in], bias [out]. */
export interface Linear {
  weight: Tensor
  bias: Tensor | undefined
}

/** A low-rank update of a linear layer: W + scaling·B A, A [r,in], B [out,r]. */
export interface LoRA {
  A: Tensor
  B: Tensor
  scaling: number
}

/** Linear layers of one input. `packed` is all of them as one layer, where their weights are adjacent in memory. */
export interface Pack {
  parts: readonly Linear[]
  packed?: Linear | undefined
}

/** LayerNorm with its eps. */
export interface Norm {
  weight: Tensor
  bias: Tensor
  eps: number
}

/** x [...,in] to [...,out], with the LoRA fused in where there is one (docs/model.md#lora). */
export function project(layer: Linear, x: Tensor, change?: LoRA): Tensor {
  return change
    ? lora(x, layer.weight, layer.bias, change.A, change.B, change.scaling)
    : linear(x, layer.weight, layer.bias)
}

/**
 * x [...,in] to the output of each layer. Where the layers are one, these are columns of one tensor, with LoRA fused
 * in.
 */
export function projectAll({ parts, packed }: Pack, x: Tensor, changes: readonly (LoRA | undefined)[] = []): Columns[] {
  const given = changes.filter((c) => c !== undefined)
  if (!packed || given.length > 2 || given.some((c) => c.scaling !== given[0]!.scaling))
    return parts.map((layer, i) => columnsOf(project(layer, x, changes[i])))
  const widths = parts.map((layer) => layer.weight.dim(0))
  const starts = widths.map((_, i) => widths.slice(0, i).reduce((a, b) => a + b, 0))
  const updates = starts.flatMap((first, i) => {
    const c = changes[i]
    return c ? [{ A: c.A, B: c.B, first }] : []
  })
  const of = project(packed, x, given[0] && { ...loraPack(updates, packed.weight.dim(0)), scaling: given[0].scaling })
  return widths.map((width, i) => ({ of, start: starts[i]!, width }))
}

/** onto + x Wᵀ + b: a projection with its residual. */
export function projectOnto(onto: Tensor, layer: Linear, x: Tensor): Tensor {
  return linear(x, layer.weight, layer.bias, { residual: onto })
}

/** gelu(x Wᵀ + b). */
export function projectGelu(layer: Linear, x: Tensor): Tensor {
  return linearGelu(x, layer.weight, layer.bias)
}

export function normalise(norm: Norm, x: Tensor): Tensor {
  return layerNorm(x, norm.weight, norm.bias, norm.eps)
}

/** {@link normalise} of x [...,n,D], split into its first rows and the others. */
export function normaliseSplit(norm: Norm, x: Tensor, first: number): [Tensor, Tensor] {
  return layerNormSplit(x, norm.weight, norm.bias, norm.eps, first)
}

/** {@link normalise} of several x [...,n_i,D], concatenated. */
export function normaliseJoin(parts: readonly { norm: Norm; x: Tensor }[]): Tensor {
  return layerNormJoin(parts.map(({ norm, x }) => ({ x, ...norm })))
}

/** BERT's feed-forward block, post-norm: LayerNorm(x + W₂ gelu(W₁ x)). */
export interface FeedForward {
  inner: Linear
  outer: Linear
  norm: Norm
}

export function feedForward(weights: FeedForward, x: Tensor): Tensor {
  return normalise(weights.norm, feedForwardSum(weights, x))
}

/** The input of {@link feedForward}'s LayerNorm: x + W₂ gelu(W₁ x). */
export function feedForwardSum(weights: FeedForward, x: Tensor): Tensor {
  return projectOnto(x, weights.outer, projectGelu(weights.inner, x))
}
