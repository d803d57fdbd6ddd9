// Numbers by seed, the same everywhere.

export interface Random {
  /** Uniform in [0, 1). */
  uniform(): number
  /** Normal, mean 0, deviation 1. */
  normal(): number
  /** A whole number in [from, to). */
  integer(from: number, to: number): number
}

/** mulberry32, and Box-Muller over it. */
export function random(seed: number): Random {
  let state = seed >>> 0
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  return {
    uniform,
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    integer: (from, to) => from + Math.floor(uniform() * (to - from)),
  }
}
