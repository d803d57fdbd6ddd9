/**
 * Resizing as PIL and torchvision define it, since checkpoints were trained behind them: separable filters, stretched
 * where the picture shrinks (antialiasing); first columns, then rows, each cut to 0 … 255.
 *
 *     out[x] = Σ_i w_x[i] · in[i],  w_x[i] = f((i + ½ − c_x) / t) / Σ_i,  c_x = (x + ½) s,  s = in/out,  t = max(1, s)
 *
 * over the i with c_x − r·t − ½ ≤ i < c_x + r·t + ½, where f is 0 beyond r. In float64, rounded once at the end: within
 * 0.5 of that definition. PIL rounds between the two passes as well, so that its bytes differ by at most 1.
 */

const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x))
/** Cubic convolution with a = −1/2 (Keys, 1981). */
function cubic(x: number): number {
  const a = Math.abs(x)
  if (a < 1) return (1.5 * a - 2.5) * a * a + 1
  return a < 2 ? ((-0.5 * a + 2.5) * a - 4) * a + 2 : 0
}

/** Filters f, and the distance r from which on they are 0. */
const FILTERS = {
  linear: { radius: 1, f: (x: number): number => Math.max(0, 1 - Math.abs(x)) },
  cubic: { radius: 2, f: cubic },
  lanczos3: { radius: 3, f: (x: number): number => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
}
/** A filter by its name; `nearest` takes the pixel under the middle. */
export type Filter = keyof typeof FILTERS | 'nearest'

/** For each output: the first input, how many, and where their weights begin. */
interface Taps {
  first: Int32Array
  count: Int32Array
  begin: Int32Array
  weights: Float64Array
}

function taps(from: number, to: number, filter: Filter): Taps {
  const scale = from / to
  const [first, count, begin] = [new Int32Array(to), new Int32Array(to), new Int32Array(to)]
  const weights: number[] = []
  for (let x = 0; x < to; x++) {
    const centre = (x + 0.5) * scale
    begin[x] = weights.length
    if (filter === 'nearest') {
      first[x] = Math.min(from - 1, Math.floor(centre))
      weights.push(1)
      count[x] = 1
      continue
    }
    const { radius, f } = FILTERS[filter]
    const stretch = Math.max(1, scale)
    const low = Math.max(0, Math.trunc(centre - radius * stretch + 0.5))
    const high = Math.min(from, Math.trunc(centre + radius * stretch + 0.5))
    const w = Array.from({ length: high - low }, (_, i) => f((i + low - centre + 0.5) * (1 / stretch)))
    const sum = w.reduce((a, b) => a + b, 0)
    for (const x of w) weights.push(x / sum)
    first[x] = low
    count[x] = high - low
  }
  return { first, count, begin, weights: Float64Array.from(weights) }
}

const cut = (x: number): number => Math.min(255, Math.max(0, x))

/** RGB of 8 bits, row by row, in another size. */
export function resample(
  data: Uint8Array,
  from: { width: number; height: number },
  to: { width: number; height: number },
  filter: Filter,
): Uint8Array {
  const rows = from.width === to.width ? data : columns(data, from, to.width, filter)
  return lines(rows, from.height, to, filter)
}

/** Every line to another width. */
function columns(
  data: Uint8Array,
  from: { width: number; height: number },
  width: number,
  filter: Filter,
): Float64Array {
  const { first, count, begin, weights } = taps(from.width, width, filter)
  const out = new Float64Array(3 * width * from.height)
  for (let y = 0, to = 0; y < from.height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      let [r, g, b] = [0, 0, 0]
      let at = 3 * (y * from.width + first[x]!)
      for (let i = begin[x]!, end = i + count[x]!; i < end; i++, at += 3) {
        const w = weights[i]!
        r += w * data[at]!
        g += w * data[at + 1]!
        b += w * data[at + 2]!
      }
      out[to] = cut(r)
      out[to + 1] = cut(g)
      out[to + 2] = cut(b)
    }
  }
  return out
}

/** Every column to another height, rounded. */
function lines(
  data: Uint8Array | Float64Array,
  rows: number,
  to: { width: number; height: number },
  filter: Filter,
): Uint8Array {
  const { first, count, begin, weights } = taps(rows, to.height, rows === to.height ? 'nearest' : filter)
  const line = 3 * to.width
  const out = new Uint8Array(line * to.height)
  const sums = new Float64Array(line)
  for (let y = 0; y < to.height; y++) {
    sums.fill(0)
    for (let i = 0; i < count[y]!; i++) {
      const w = weights[begin[y]! + i]!
      const at = (first[y]! + i) * line
      for (let x = 0; x < line; x++) sums[x]! += w * data[at + x]!
    }
    for (let x = 0; x < line; x++) out[y * line + x] = Math.floor(cut(sums[x]!) + 0.5)
  }
  return out
}
