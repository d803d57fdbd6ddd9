// Cross-entropy and the optimiser.
import { type NdArray, norm } from './array.js'

/**
 * -log softmax(logits)[label], summed over the rows whose label is not -100, or their mean. logits [rows, V], labels
 * [rows].
 */
export function crossEntropy(logits: NdArray, labels: ArrayLike<number>, reduction: 'mean' | 'sum' = 'mean'): number {
  const n = logits.shape.at(-1)!
  let sum = 0
  let count = 0
  for (let r = 0; r < labels.length; r++) {
    if (labels[r] === -100) continue
    const row = logits.data.subarray(r * n, (r + 1) * n)
    const top = row.reduce((a, b) => Math.max(a, b), -Infinity)
    sum += top + Math.log(row.reduce((s, x) => s + Math.exp(x - top), 0)) - row[labels[r]!]!
    count++
  }
  return reduction === 'sum' ? sum : sum / count
}

export interface AdamWOptions {
  lr: number
  betas: readonly [number, number]
  eps: number
  weightDecay: number
}
export interface Moments {
  step: number
  average: Float64Array
  square: Float64Array
}

export const moments = (n: number): Moments => ({ step: 0, average: new Float64Array(n), square: new Float64Array(n) })

/** One step of AdamW with decoupled decay, in place: w -= lr * decay * w, then w -= lr * m' / (sqrt(v') + eps). */
export function adamw(weight: Float64Array, gradient: ArrayLike<number>, state: Moments, options: AdamWOptions): void {
  const {
    lr,
    betas: [b1, b2],
    eps,
    weightDecay,
  } = options
  const step = ++state.step
  for (let i = 0; i < weight.length; i++) {
    const g = gradient[i]!
    const m = (state.average[i] = b1 * state.average[i]! + (1 - b1) * g)
    const v = (state.square[i] = b2 * state.square[i]! + (1 - b2) * g * g)
    weight[i]! -= lr * weightDecay * weight[i]!
    weight[i]! -= (lr * (m / (1 - b1 ** step))) / (Math.sqrt(v / (1 - b2 ** step)) + eps)
  }
}

/** Scales all gradients together by min(1, max / (norm + 1e-6)), in place; returns the norm from before. */
export function clip(gradients: readonly Float64Array[], max: number): number {
  const total = norm(gradients.map((g) => norm(g)))
  const factor = Math.min(1, max / (total + 1e-6))
  for (const g of gradients) for (let i = 0; i < g.length; i++) g[i]! *= factor
  return total
}
