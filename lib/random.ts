/** Numbers that follow from a seed alone, for orders of samples, splits and resampling; tensors have `ops/random`. */

/** A stream of numbers in [0, 1) that depends on `seed` and `stream` alone (mulberry32). */
export function randomStream(seed: number, stream: number): () => number {
  let state = (Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(stream + 1, 0x85ebca6b)) >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A permutation of 0 … n−1 that depends on seed and stream (an epoch, say) alone. */
export function shuffled(n: number, seed: number, stream: number): number[] {
  const order = Array.from({ length: n }, (_, i) => i)
  const random = randomStream(seed, stream)
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[order[i], order[j]] = [order[j]!, order[i]!]
  }
  return order
}
