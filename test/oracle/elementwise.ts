// Operators that look at one number at a time (or at two of the same place).
import { type NdArray, map, zip } from './array.js'

export { add } from './array.js'

/** erf, to about 1e-15: its all-positive series up to 2, one minus the continued fraction of erfc beyond. */
export function erf(x: number): number {
  const a = Math.abs(x)
  if (a > 2) return Math.sign(x) * (1 - erfcTail(a))
  // erf(x) = 2/sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (1 * 3 * ... * (2n+1))
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}

/** 1 - erf(x), without the cancellation where x is large. */
export function erfc(x: number): number {
  return x > 2 ? erfcTail(x) : 1 - erf(x)
}

/** erfc(x) = exp(-x^2)/sqrt(pi) / (x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))), x >= 2. */
function erfcTail(x: number): number {
  if (x > 27) return 0
  let f = x
  for (let n = 100; n >= 1; n--) f = x + n / 2 / f
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / f
}

/** Exact GELU: x/2 (1 + erf(x/sqrt2)). */
export const gelu = (a: NdArray): NdArray => map(a, (x) => 0.5 * x * erfc(-x * Math.SQRT1_2))

/** Its approximation by tanh. */
export const geluTanh = (a: NdArray): NdArray =>
  map(a, (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))))

export const relu = (a: NdArray): NdArray => map(a, (x) => Math.max(x, 0))

/** silu(gate) * up */
export const siluMul = (gate: NdArray, up: NdArray): NdArray => zip(gate, up, (g, u) => (g / (1 + Math.exp(-g))) * u)
