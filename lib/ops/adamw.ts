import { native } from '../native.js'
import type { Tensor } from '../tensor/tensor.js'

/** What AdamW needs to know of one parameter at one step. */
export interface AdamWStep {
  lr: number
  betas: readonly [number, number]
  eps: number
  weightDecay: number
  /** Counted from 1. */
  step: number
  /** One float32 number that the gradient is multiplied by, as clipping does. */
  scale?: Tensor
}

/** One step of AdamW with decoupled weight decay, in place on `param` and the moments `m` and `v`. */
export function adamw(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, s: AdamWStep): void {
  native().ops.adamw(param.handle, grad.handle, m.handle, v.handle, s.scale?.handle ?? null, s.lr, s.betas[0], s.betas[1], s.eps, s.weightDecay, s.step)
}

/** Adds the sum of the squares of `x` to `sum`, one float32 number. */
export function addSquareSum(sum: Tensor, x: Tensor): void {
  native().ops.square_sum(x.handle, sum.handle)
}
