/**
 * Blocks over given weights: linear, norms, feed-forward, attention. This folder imports `ops` and `tensor`; it knows
 * no checkpoint and no model.
 */
import { linear, linearGelu } from '../ops/gemm.js'
import { layerNorm } from '../ops/layernorm.js'
import { lora } from '../ops/lora.js'
import type { Tensor } from '../tensor/tensor.js'

/** y = x Wᵀ + b: weight [out,in], bias [out]. */
export interface Linear {
  weight: Tensor
  bias: Tensor | undefined
}

/** A low-rank change of a linear layer: W + scaling·B A, A [r,in], B [out,r]. */
export interface LoRA {
  A: Tensor
  B: Tensor
  scaling: number
}

/** LayerNorm with its eps. */
export interface Norm {
  weight: Tensor
  bias: Tensor
  eps: number
}

/** x [...,in] to [...,out], with the LoRA fused in where there is one (SPEC §4). */
export function project(layer: Linear, x: Tensor, change?: LoRA): Tensor {
  return change ? lora(x, layer.weight, layer.bias, change.A, change.B, change.scaling) : linear(x, layer.weight, layer.bias)
}

/** onto + x Wᵀ + b: what a block adds to what it was given. */
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

/** BERT's feed-forward block, post-norm: LayerNorm(x + W₂ gelu(W₁ x)). */
export interface FeedForward {
  inner: Linear
  outer: Linear
  norm: Norm
}

export function feedForward(weights: FeedForward, x: Tensor): Tensor {
  return normalise(weights.norm, projectOnto(x, weights.outer, projectGelu(weights.inner, x)))
}
