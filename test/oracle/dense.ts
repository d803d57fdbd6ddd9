// Operators over the last axis and over tables: linear, LoRA, norms, embedding, rotary positions, patches, router.
import { type NdArray, add, array, mean, permute, reshape, scale } from './array.js'
import { relu } from './elementwise.js'

/** y = x W^T + b. x [..., in], W [out, in], b [out]. */
export function linear(x: NdArray, weight: NdArray, bias?: NdArray): NdArray {
  const [n, k] = weight.shape as [number, number]
  if (x.shape.at(-1) !== k) throw new Error(`linear: [${x.shape}] against a weight [${weight.shape}]`)
  const rows = x.data.length / k
  const out = array([...x.shape.slice(0, -1), n])
  const [xd, wd, od] = [x.data, weight.data, out.data]
  for (let r = 0; r < rows; r++) {
    const at = r * k
    let o = 0
    for (; o + 4 <= n; o += 4) {
      // four dot products side by side
      let [s0, s1, s2, s3] = [0, 0, 0, 0]
      for (let i = 0, b = o * k; i < k; i++, b++) {
        const value = xd[at + i]!
        s0 += value * wd[b]!
        s1 += value * wd[b + k]!
        s2 += value * wd[b + 2 * k]!
        s3 += value * wd[b + 3 * k]!
      }
      od[r * n + o] = s0
      od[r * n + o + 1] = s1
      od[r * n + o + 2] = s2
      od[r * n + o + 3] = s3
    }
    for (; o < n; o++) {
      let sum = 0
      for (let i = 0, b = o * k; i < k; i++, b++) sum += xd[at + i]! * wd[b]!
      od[r * n + o] = sum
    }
    if (bias !== undefined) for (o = 0; o < n; o++) od[r * n + o]! += bias.data[o]!
  }
  return out
}

/** y = x W^T + b + (alpha/r) (x A^T) B^T. A [r, in], B [out, r]. */
export function lora(
  x: NdArray,
  weight: NdArray,
  bias: NdArray | undefined,
  a: NdArray,
  b: NdArray,
  alpha: number,
): NdArray {
  return add(linear(x, weight, bias), scale(linear(linear(x, a), b), alpha / a.shape[0]!))
}

/** LayerNorm over the last axis, biased variance. */
export function layerNorm(x: NdArray, weight: NdArray, bias: NdArray, eps: number): NdArray {
  const n = weight.data.length
  const out = array(x.shape)
  for (let at = 0; at < x.data.length; at += n) {
    const row = x.data.subarray(at, at + n)
    const mu = row.reduce((s, v) => s + v, 0) / n
    const variance = row.reduce((s, v) => s + (v - mu) ** 2, 0) / n
    const inverse = 1 / Math.sqrt(variance + eps)
    for (let i = 0; i < n; i++) out.data[at + i] = (row[i]! - mu) * inverse * weight.data[i]! + bias.data[i]!
  }
  return out
}

/** RMSNorm over the last axis: x / sqrt(mean(x^2) + eps) * w. */
export function rmsNorm(x: NdArray, weight: NdArray, eps: number): NdArray {
  const n = weight.data.length
  const out = array(x.shape)
  for (let at = 0; at < x.data.length; at += n) {
    const row = x.data.subarray(at, at + n)
    const inverse = 1 / Math.sqrt(row.reduce((s, v) => s + v * v, 0) / n + eps)
    for (let i = 0; i < n; i++) out.data[at + i] = row[i]! * inverse * weight.data[i]!
  }
  return out
}

/** Rows of a table: ids [...], table [n, D] -> [..., D]. */
export function embedding(ids: NdArray, table: NdArray): NdArray {
  const [n, d] = table.shape as [number, number]
  const out = array([...ids.shape, d])
  ids.data.forEach((id, i) => {
    if (!Number.isInteger(id) || id < 0 || id >= n) throw new Error(`embedding: id ${id} in a table of ${n} rows`)
    out.data.set(table.data.subarray(id * d, (id + 1) * d), i * d)
  })
  return out
}

/**
 * Rotary positions, rotate-half: pairs (i, i + d/2) turn by pos * theta^(-2i/d). x [rows, heads, n, d], positions
 * [rows, n].
 */
export function rope(x: NdArray, positions: NdArray, theta: number): NdArray {
  const [rows, heads, n, d] = x.shape as [number, number, number, number]
  const half = d / 2
  const out = array(x.shape)
  for (let r = 0; r < rows; r++)
    for (let h = 0; h < heads; h++)
      for (let t = 0; t < n; t++)
        for (let i = 0; i < half; i++) {
          const angle = positions.data[r * n + t]! * theta ** ((-2 * i) / d)
          const at = ((r * heads + h) * n + t) * d + i
          const [a, b] = [x.data[at]!, x.data[at + half]!]
          out.data[at] = a * Math.cos(angle) - b * Math.sin(angle)
          out.data[at + half] = b * Math.cos(angle) + a * Math.sin(angle)
        }
  return out
}

/** Non-overlapping patches, row by row: [B, C, H, W] -> [B, (H/P)(W/P), C P P], each in the order (c, ph, pw). */
export function patchify(x: NdArray, patch: number): NdArray {
  const [b, c, h, w] = x.shape as [number, number, number, number]
  const [gh, gw] = [h / patch, w / patch]
  const cut = reshape(x, [b, c, gh, patch, gw, patch])
  return reshape(permute(cut, [0, 2, 4, 1, 3, 5]), [b, gh * gw, c * patch * patch])
}

/** Softmax over the last axis. */
export function softmax(x: NdArray): NdArray {
  const n = x.shape.at(-1)!
  const out = array(x.shape)
  for (let at = 0; at < x.data.length; at += n) {
    let top = -Infinity
    for (let i = 0; i < n; i++) top = Math.max(top, x.data[at + i]!)
    let sum = 0
    for (let i = 0; i < n; i++) sum += out.data[at + i] = Math.exp(x.data[at + i]! - top)
    for (let i = 0; i < n; i++) out.data[at + i]! /= sum
  }
  return out
}

export interface RouterWeights {
  w1: NdArray
  b1: NdArray
  w2: NdArray
  b2: NdArray
}

/** alpha = softmax(w2 relu(w1 mean_n(x) + b1) + b2). x [rows, n, D] -> [rows, p]. */
export function router(x: NdArray, { w1, b1, w2, b2 }: RouterWeights): NdArray {
  return softmax(linear(relu(linear(mean(x, 1), w1, b1)), w2, b2))
}

/** [rows, n, heads*d] -> [rows, heads, n, d]; head h owns the columns from h*d. */
export function splitHeads(x: NdArray, heads: number): NdArray {
  const [rows, n, width] = x.shape as [number, number, number]
  return permute(reshape(x, [rows, n, heads, width / heads]), [0, 2, 1, 3])
}

/** [rows, heads, n, d] -> [rows, n, heads*d] */
export function joinHeads(x: NdArray): NdArray {
  const [rows, heads, n, d] = x.shape as [number, number, number, number]
  return reshape(permute(x, [0, 2, 1, 3]), [rows, n, heads * d])
}

/** [B, T, L, D] -> [B*L, T, D]: the channel swap, as a copy. */
export function swap(x: NdArray): NdArray {
  const [b, t, l, d] = x.shape as [number, number, number, number]
  return reshape(permute(x, [0, 2, 1, 3]), [b * l, t, d])
}

/** [B*L, T, D] -> [B, T, L, D] */
export function unswap(x: NdArray, videos: number): NdArray {
  const [rows, t, d] = x.shape as [number, number, number]
  return permute(reshape(x, [videos, rows / videos, t, d]), [0, 2, 1, 3])
}
