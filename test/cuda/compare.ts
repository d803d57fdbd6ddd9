// Tolerances of a device's results, against the CPU twin's and against float64: docs/model.md#numerics.
import type { Result } from '../ops/support.js'
import { widen } from '../ops/support.js'

/** `apart`: between the bfloat16 results of both twins, which round the same sums, formed in different orders. */
export const limits = {
  float32: { forward: 1e-5, gradient: 1e-4 },
  bfloat16: { forward: 2e-2, gradient: 5e-2 },
  apart: 6e-3,
}

/**
 * The tolerance between a bfloat16 result and the CPU's. A single number may be a sum that cancels, and there are no
 * others whose norm its rounding error could be related to: for it the limit of docs/model.md#numerics holds.
 */
export const narrowLimit = ({ size, gradient }: Distance): number =>
  size > 1 ? limits.apart : gradient ? limits.bfloat16.gradient : limits.bfloat16.forward

const norm = (x: Float64Array): number => Math.sqrt(x.reduce((s, v) => s + v * v, 0))
const numbers = ({ outputs, gradients }: Result): [string, Float64Array][] => [
  ...outputs.map((t, i): [string, Float64Array] => [`output ${i}`, widen(t.dataBlocking(), t.dtype)]),
  ...Object.entries(gradients).map(([n, t]): [string, Float64Array] => [
    `gradient of ${n}`,
    widen(t.dataBlocking(), t.dtype),
  ]),
]

export interface Distance {
  what: string
  gradient: boolean
  error: number
  size: number
}

/**
 * ‖mine − theirs‖/‖theirs‖ of every output and gradient. A gradient whose norm is below `share` of the largest one's is
 * rounding error beside it: its difference is related to that share.
 */
export function distances(mine: Result, theirs: Result, share: number): Distance[] {
  const expected = numbers(theirs)
  const largest = Math.max(...expected.filter(([n]) => n.startsWith('gradient')).map(([, x]) => norm(x)), 0)
  return numbers(mine).map(([what, x], i) => {
    const y = expected[i]![1]
    const gradient = what.startsWith('gradient')
    return {
      what,
      gradient,
      size: x.length,
      error: norm(x.map((v, k) => v - y[k]!)) / (Math.max(norm(y), gradient ? share * largest : 0) || 1),
    }
  })
}
