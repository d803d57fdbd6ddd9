/**
 * Resizing as PIL does it, to the byte, since that is what the checkpoints were trained behind: the kernel is stretched by
 * the scale when shrinking (antialiasing), rows are done before columns, and each pass rounds to 8 bits. libvips (sharp)
 * averages boxes first and was seen to differ by up to 9 of 255 when shrinking, and by more when enlarging.
 * Imports nothing. See cache.ts for what this folder may import.
 */

/** A filter: its radius in output pixels, and its value at a distance from the centre. */
const FILTERS = {
  linear: { radius: 1, at: (x: number) => Math.max(0, 1 - Math.abs(x)) },
  cubic: { radius: 2, at: cubic },
  lanczos3: { radius: 3, at: (x: number) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
} as const

export type Resample = keyof typeof FILTERS | 'nearest'

/** Coefficients are whole numbers of 2^-22, as in PIL. */
const BITS = 22
/** Multiplications between two looks at the event loop: some milliseconds. */
const SLICE = 4_000_000

/** Interpolates by cubic convolution with a = −1/2 (Catmull-Rom). */
function cubic(x: number): number {
  x = Math.abs(x)
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x)
}

/**
 * Resizes 8-bit RGB; the aspect ratio is not kept. A large picture is worked through in slices, between which the event
 * loop turns.
 * @param data [height, width, 3]
 * @returns [toHeight, toWidth, 3]
 */
export async function resize(data: Uint8Array, width: number, height: number, toWidth: number, toHeight: number, filter: Resample): Promise<Uint8Array> {
  if (filter === 'nearest') return nearest(data, width, height, toWidth, toHeight)
  let out = data
  if (toWidth !== width) out = await pass(out, height, width, toWidth, 3 * width, 3, 3 * toWidth, 3, filter)
  if (toHeight !== height) out = await pass(out, toWidth, height, toHeight, 3, 3 * toWidth, 3, 3 * toWidth, filter)
  return out
}

/** Filters along one axis: `lines` lines of `from` pixels become lines of `to`; strides in bytes between lines and pixels. */
async function pass(
  data: Uint8Array, lines: number, from: number, to: number, line: number, pixel: number, lineTo: number, pixelTo: number, filter: keyof typeof FILTERS,
): Promise<Uint8Array> {
  const { first, taps, weights, most } = coefficients(from, to, filter)
  const out = new Uint8Array(lines * to * 3)
  const half = 2 ** (BITS - 1)
  const slice = Math.max(1, Math.floor(SLICE / (3 * to * most)))
  for (let y = 0; y < lines; y++) {
    if (y % slice === slice - 1) await new Promise((done) => setImmediate(done))
    for (let x = 0; x < to; x++) {
      let [r, g, b] = [half, half, half]
      let at = y * line + first[x]! * pixel
      for (let k = x * most, end = k + taps[x]!; k < end; k++, at += pixel) {
        const w = weights[k]!
        r += w * data[at]!
        g += w * data[at + 1]!
        b += w * data[at + 2]!
      }
      const o = y * lineTo + x * pixelTo
      out[o] = clip(r >> BITS)
      out[o + 1] = clip(g >> BITS)
      out[o + 2] = clip(b >> BITS)
    }
  }
  return out
}

const clip = (v: number) => (v < 0 ? 0 : v > 255 ? 255 : v)

/** For every output pixel: its first input pixel, how many there are, and their weights (rows of `most`). */
function coefficients(from: number, to: number, filter: keyof typeof FILTERS) {
  const scale = from / to
  const stretch = Math.max(1, scale)
  const { radius, at } = FILTERS[filter]
  const support = radius * stretch
  const most = 2 * Math.ceil(support) + 1
  const [first, taps, weights] = [new Int32Array(to), new Int32Array(to), new Int32Array(to * most)]
  for (let x = 0; x < to; x++) {
    const centre = (x + 0.5) * scale
    const low = Math.max(0, Math.trunc(centre - support + 0.5))
    const n = Math.min(from, Math.trunc(centre + support + 0.5)) - low
    const row = Array.from({ length: n }, (_, k) => at((k + low - centre + 0.5) / stretch))
    const sum = row.reduce((a, b) => a + b, 0)
    row.forEach((w, k) => { weights[x * most + k] = Math.trunc((w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5)) })
    first[x] = low
    taps[x] = n
  }
  return { first, taps, weights, most }
}

function nearest(data: Uint8Array, width: number, height: number, toWidth: number, toHeight: number): Uint8Array {
  const out = new Uint8Array(toWidth * toHeight * 3)
  const [columns, rows] = [nearestIndices(width, toWidth), nearestIndices(height, toHeight)]
  let o = 0
  for (const y of rows) {
    for (const x of columns) {
      const at = 3 * (y * width + x)
      out.set(data.subarray(at, at + 3), o)
      o += 3
    }
  }
  return out
}

/** The sums are PIL's too: it adds the step up, which decides ties. */
function nearestIndices(from: number, to: number): number[] {
  const step = from / to
  let centre = step * 0.5
  return Array.from({ length: to }, () => {
    const index = Math.min(from - 1, Math.floor(centre))
    centre += step
    return index
  })
}
