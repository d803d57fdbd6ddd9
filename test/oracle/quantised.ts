// Weights in 8 and 4 bits in float64, from their definitions: docs/weights.md, and for NF4 Dettmers et al., "QLoRA"
// (2023), appendix E, and "8-Bit Optimizers via Block-wise Quantization" (2022), §2.
import { type NdArray, array } from './array.js'
import { erfc } from './elementwise.js'

/** The number below which a normal variable lies with probability p. */
function quantile(p: number): number {
  let [low, high] = [-10, 10]
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2
    if (erfc(-middle * Math.SQRT1_2) / 2 < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}

/**
 * How NF4's levels are found: 8 quantiles above 0, 0, and 7 below, at equal distances in probability, divided by the
 * largest. Ascending.
 */
export const nf4Quantiles = ((): number[] => {
  const last = 0.9677083
  const steps = (n: number): number[] => Array.from({ length: n }, (_, i) => quantile(last + ((0.5 - last) * i) / n))
  const [above, below] = [steps(8), steps(7)]
  return [...below.map((x) => -x), 0, ...above.reverse()].map((x) => x / above.at(-1)!)
})()

/** The levels as they are published: those, rounded on their way. */
export const nf4Levels = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
]

/** The dynamic data type of 8 bits with a sign: a decimal exponent in unary, and as many bits of fraction as are left. */
export const dynamicMap = ((): number[] => {
  const values = [0, 1]
  for (let bits = 0; bits < 7; bits++)
    for (let i = 0; i < 2 ** bits; i++) {
      const fraction = 0.1 + (0.9 * (i + 0.5)) / 2 ** bits
      values.push(fraction * 10 ** (bits - 6), -fraction * 10 ** (bits - 6))
    }
  return values.sort((a, b) => a - b)
})()

/** The number of the value that is nearest, of two the lower. */
function nearest(values: readonly number[], x: number): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (Math.abs(x - values[i]!) < Math.abs(x - values[best]!)) best = i
  return best
}

/** What NF4 keeps of numbers, blocks of 64 in order, their scales quantised by 256. */
export function nf4(w: NdArray): NdArray {
  const scales: number[] = []
  const codes = new Uint8Array(w.data.length)
  for (let at = 0; at < w.data.length; at += 64) {
    const block = w.data.slice(at, at + 64)
    const most = block.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
    block.forEach((x, i) => (codes[at + i] = most ? nearest(nf4Levels, x / most) : 7))
    scales.push(most)
  }
  const mean = scales.reduce((a, b) => a + b, 0) / scales.length
  const kept: number[] = []
  for (let at = 0; at < scales.length; at += 256) {
    const group = scales.slice(at, at + 256).map((s) => s - mean)
    const most = group.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
    for (const s of group) kept.push((most ? dynamicMap[nearest(dynamicMap, s / most)]! * most : 0) + mean)
  }
  return array(
    w.shape,
    w.data.map((_, i) => nf4Levels[codes[i]!]! * kept[Math.floor(i / 64)]!),
  )
}

/** Bits of bfloat16, ties to even. */
function bfloat16(x: number): number {
  const f = new Float32Array([x])
  const bits = new Uint32Array(f.buffer)
  bits[0] = ((bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000) >>> 0
  return f[0]!
}

/** The nearest integer, of two the even one. */
function toEven(x: number): number {
  const below = Math.floor(x)
  return x - below === 0.5 ? below + (below & 1) : Math.round(x)
}

/**
 * What int8 keeps of a matrix: one column of 128, rounded up, of those with the largest |w| ÷ root mean square of the
 * row, as bfloat16; of the others 255 equal steps a row.
 */
export function int8({ shape, data }: NdArray): NdArray {
  const [rows, width] = shape as [number, number]
  const most = new Float64Array(width)
  for (let r = 0; r < rows; r++) {
    const row = data.subarray(r * width, (r + 1) * width)
    const rms = Math.sqrt(row.reduce((a, x) => a + x * x, 0) / width)
    if (rms) row.forEach((x, i) => (most[i] = Math.max(most[i]!, Math.abs(x) / rms)))
  }
  const kept = new Set([...most.keys()].sort((a, b) => most[b]! - most[a]! || a - b).slice(0, Math.ceil(width / 128)))
  const out = array(shape)
  for (let r = 0; r < rows; r++) {
    const row = data.subarray(r * width, (r + 1) * width)
    const largest = row.reduce((m, x, i) => (kept.has(i) ? m : Math.max(m, Math.abs(x))), 0)
    const unit = largest || 127
    row.forEach(
      (x, i) => (out.data[r * width + i] = kept.has(i) ? bfloat16(x) : (toEven((x * 127) / unit) * unit) / 127),
    )
  }
  return out
}

/** Whether w ÷ largest of its block lies where rounding decides which of two codes is the nearer. */
export function onBorder(w: number, largest: number): boolean {
  const x = w / largest
  return nf4Levels.slice(1).some((level, i) => Math.abs((nf4Levels[i]! + level) / 2 - x) < 1e-6)
}

export const quantised = { int8, nf4 }
