// The oracle: the model in plain float64, written from docs/model.md alone, forward only. Imports nothing of lib.
// This file: an N-dimensional array is a shape and its numbers in row-major order.

export interface NdArray {
  readonly shape: readonly number[]
  readonly data: Float64Array
}

export const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1)

/** An array of the given shape; the values are copied (bigints become numbers), zeros where none are given. */
export function array(shape: readonly number[], values?: ArrayLike<number | bigint>): NdArray {
  const n = size(shape)
  if (values === undefined) return { shape: [...shape], data: new Float64Array(n) }
  if (values.length !== n) throw new Error(`shape [${shape}] holds ${n} numbers, got ${values.length}`)
  const data = new Float64Array(n)
  for (let i = 0; i < n; i++) data[i] = Number(values[i])
  return { shape: [...shape], data }
}

/** The same numbers under another shape; one axis may be -1. Shares its data. */
export function reshape(a: NdArray, shape: readonly number[]): NdArray {
  const known = shape.filter((n) => n !== -1).reduce((x, y) => x * y, 1)
  const full = shape.map((n) => (n === -1 ? a.data.length / known : n))
  if (size(full) !== a.data.length) throw new Error(`cannot read [${a.shape}] as [${shape}]`)
  return { shape: full, data: a.data }
}

export const clone = (a: NdArray): NdArray => ({ shape: [...a.shape], data: a.data.slice() })
export const map = (a: NdArray, f: (x: number) => number): NdArray => ({ shape: [...a.shape], data: a.data.map(f) })

export function zip(a: NdArray, b: NdArray, f: (x: number, y: number) => number): NdArray {
  sameShape(a, b)
  return { shape: [...a.shape], data: a.data.map((x, i) => f(x, b.data[i]!)) }
}

export const add = (a: NdArray, b: NdArray): NdArray => zip(a, b, (x, y) => x + y)
export const scale = (a: NdArray, s: number): NdArray => map(a, (x) => x * s)

/** Axes in another order: out.shape[i] = a.shape[axes[i]]. */
export function permute(a: NdArray, axes: readonly number[]): NdArray {
  const from = strides(a.shape)
  const shape = axes.map((x) => a.shape[x]!)
  const step = axes.map((x) => from[x]!)
  const out = array(shape)
  const index = shape.map(() => 0)
  let at = 0
  for (let i = 0; i < out.data.length; i++) {
    out.data[i] = a.data[at]!
    for (let x = shape.length - 1; x >= 0; x--) {
      at += step[x]!
      if (++index[x]! < shape[x]!) break
      at -= step[x]! * shape[x]!
      index[x] = 0
    }
  }
  return out
}

/** Elements from..to (exclusive) of one axis. */
export function slice(a: NdArray, axis: number, from: number, to: number): NdArray {
  const n = a.shape[axis]!
  if (from < 0 || to > n || from > to) throw new Error(`axis ${axis} of [${a.shape}] has no ${from}..${to}`)
  const outer = size(a.shape.slice(0, axis))
  const inner = size(a.shape.slice(axis + 1))
  const out = array(a.shape.map((x, i) => (i === axis ? to - from : x)))
  const run = (to - from) * inner
  for (let o = 0; o < outer; o++) out.data.set(a.data.subarray((o * n + from) * inner, (o * n + to) * inner), o * run)
  return out
}

/** Arrays one behind the other along an axis. */
export function concat(parts: readonly NdArray[], axis: number): NdArray {
  const first = parts[0]!
  const total = parts.reduce((n, p) => n + p.shape[axis]!, 0)
  const outer = size(first.shape.slice(0, axis))
  const inner = size(first.shape.slice(axis + 1))
  const out = array(first.shape.map((x, i) => (i === axis ? total : x)))
  let at = 0
  for (const p of parts) {
    p.shape.forEach((x, i) => {
      if (i !== axis && x !== first.shape[i])
        throw new Error(`cannot put [${p.shape}] behind [${first.shape}] on axis ${axis}`)
    })
    const run = p.shape[axis]! * inner
    for (let o = 0; o < outer; o++) out.data.set(p.data.subarray(o * run, (o + 1) * run), o * total * inner + at)
    at += run
  }
  return out
}

/** n copies under a new axis: [a, b] with axis 1 becomes [a, n, b]. */
export function repeat(a: NdArray, axis: number, n: number): NdArray {
  const shape = [...a.shape.slice(0, axis), 1, ...a.shape.slice(axis)]
  return concat(
    Array.from({ length: n }, () => reshape(a, shape)),
    axis,
  )
}

/** Mean over one axis, which disappears. */
export function mean(a: NdArray, axis: number): NdArray {
  const n = a.shape[axis]!
  const outer = size(a.shape.slice(0, axis))
  const inner = size(a.shape.slice(axis + 1))
  const out = array(a.shape.filter((_, i) => i !== axis))
  for (let o = 0; o < outer; o++)
    for (let i = 0; i < inner; i++) {
      let sum = 0
      for (let k = 0; k < n; k++) sum += a.data[(o * n + k) * inner + i]!
      out.data[o * inner + i] = sum / n
    }
  return out
}

export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

export const norm = (a: ArrayLike<number>): number => Math.sqrt(dot(a, a))

/** ||a - b|| / ||b||; where b is 0 everywhere, 0 if a is too and Infinity if not. NaN anywhere gives NaN. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`${a.length} numbers against ${b.length}`)
  let difference = 0
  for (let i = 0; i < a.length; i++) difference += (a[i]! - b[i]!) ** 2
  const reference = norm(b)
  if (reference === 0) return difference === 0 ? 0 : difference > 0 ? Infinity : NaN
  return Math.sqrt(difference) / reference
}

export function sameShape(a: NdArray, b: NdArray): void {
  if (a.shape.length !== b.shape.length || a.shape.some((x, i) => x !== b.shape[i]))
    throw new Error(`shapes differ: [${a.shape}] and [${b.shape}]`)
}

function strides(shape: readonly number[]): number[] {
  const out = shape.map(() => 1)
  for (let i = shape.length - 2; i >= 0; i--) out[i] = out[i + 1]! * shape[i + 1]!
  return out
}
