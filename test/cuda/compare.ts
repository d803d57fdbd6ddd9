// How far a device's results may be from the CPU twin's and from float64: docs/model.md#numerics.
import type { Result } from '../ops/support.js'
import { widen } from '../ops/support.js'

/** `apart`: bfloat16 results of both twins, which round the same sums, in whatever order they were formed. */
export const limits = {
  float32: { forward: 1e-5, gradient: 1e-4 },
  bfloat16: { forward: 2e-2, gradient: 5e-2 },
  apart: 6e-3,
}

/**
 * How far a bfloat16 result may be from the CPU's. A single number is a sum that may cancel, with no norm over others
 * to hold rounding against: for it the limit of docs/model.md#numerics.
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
 * ‖mine − theirs‖/‖theirs‖ of every output and gradient. A gradient below `share` of the largest is mere rounding to it
 * and is held against that share.
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
