// Attention with dynamic routing (docs/model.md#modes). S = scale q k^T + bias, P from S by one of three modes, out = P
// v.
import { type NdArray, array } from './array.js'

export type DarMode = 'off' | 'score' | 'attention'

export interface AttentionOptions {
  mode?: DarMode
  /** Bit sets [nq, nk], bit j = M_j: the keys that mask j keeps. Not read when the mode is off. */
  masks?: NdArray | undefined
  /** Weights of the masks [rows, p]. Not read when the mode is off. */
  alpha?: NdArray | undefined
  /** [rows, nk], 1 = token, 0 = padding. */
  keyMask?: NdArray | undefined
  /** Query i sees keys <= i + nk - nq. */
  causal?: boolean
  /** Default: 1 / sqrt(d). */
  scale?: number
  /** [heads, nq, nk], added to the scores. */
  bias?: NdArray | undefined
}

/**
 * q [rows, heads, nq, d], k and v [rows, heads, nk, d] -> [rows, heads, nq, d].
 *
 * off        P = softmax(S over the visible keys)
 * score      P = softmax(S * sum_j alpha_j M_j over the visible keys)
 * attention  P = sum_j alpha_j softmax(S over the visible keys that M_j keeps); where M_j keeps none of them, M_0
 * stands in
 *
 * Visible: not padded and not in the future. A query without any visible key gets what adding the least finite number
 * to every score gives: that number swallows the score, so all nk keys weigh the same.
 */
export function attention(q: NdArray, k: NdArray, v: NdArray, options: AttentionOptions = {}): NdArray {
  const [rows, heads, nq, d] = q.shape as [number, number, number, number]
  const nk = k.shape[2]!
  const width = v.shape[3]!
  const out = array([rows, heads, nq, width])
  const p = new Float64Array(nk)
  for (let r = 0; r < rows; r++)
    for (let h = 0; h < heads; h++) {
      const keys = (r * heads + h) * nk
      for (let i = 0; i < nq; i++) {
        const row = (r * heads + h) * nq + i
        const s = scores(q.data.subarray(row * d, (row + 1) * d), k.data, keys, nk, options.scale ?? 1 / Math.sqrt(d))
        if (options.bias) for (let j = 0; j < nk; j++) s[j]! += options.bias.data[(h * nq + i) * nk + j]!
        weights(p, s, r, i, nq, options)
        const at = row * width
        for (let j = 0; j < nk; j++) {
          const weight = p[j]!
          if (weight !== 0)
            for (let c = 0, from = (keys + j) * width; c < width; c++) out.data[at + c]! += weight * v.data[from + c]!
        }
      }
    }
  return out
}

/** The attention weights themselves [rows, heads, nq, nk]. */
export function attentionWeights(q: NdArray, k: NdArray, options: AttentionOptions = {}): NdArray {
  const [rows, heads] = q.shape as [number, number, number, number]
  const nk = k.shape[2]!
  const identity = array([rows, heads, nk, nk])
  for (let r = 0; r < rows * heads; r++) for (let j = 0; j < nk; j++) identity.data[(r * nk + j) * nk + j] = 1
  return attention(q, k, identity, options)
}

function scores(q: Float64Array, k: Float64Array, first: number, nk: number, scale: number): Float64Array {
  const d = q.length
  const s = new Float64Array(nk)
  for (let j = 0; j < nk; j++) {
    let sum = 0
    for (let c = 0, at = (first + j) * d; c < d; c++, at++) sum += q[c]! * k[at]!
    s[j] = sum * scale
  }
  return s
}

/** Writes the weights of query i of row r into p. */
function weights(p: Float64Array, s: Float64Array, r: number, i: number, nq: number, options: AttentionOptions): void {
  const nk = s.length
  const mode = options.mode ?? 'off'
  const visible = new Uint8Array(nk)
  for (let j = 0; j < nk; j++) {
    const padded = options.keyMask !== undefined && options.keyMask.data[r * nk + j] === 0
    const future = options.causal === true && j > i + nk - nq
    visible[j] = padded || future ? 0 : 1
  }
  p.fill(0)
  if (mode === 'off') return accumulate(p, s, visible, 1)

  const { masks, alpha } = options
  if (masks === undefined || alpha === undefined) throw new Error(`attention: mode ${mode} needs masks and alpha`)
  const choices = alpha.shape[1]!
  const a = alpha.data.subarray(r * choices, (r + 1) * choices)
  const bits = masks.data.subarray(i * nk, (i + 1) * nk)
  if (mode === 'score') {
    const weighted = s.map((value, j) => {
      let w = 0
      for (let m = 0; m < choices; m++) if ((bits[j]! >> m) & 1) w += a[m]!
      return value * w
    })
    return accumulate(p, weighted, visible, 1)
  }
  for (let m = 0; m < choices; m++) {
    let kept = visible.map((seen, j) => seen & (bits[j]! >> m))
    if (!kept.includes(1)) kept = visible.map((seen, j) => seen & bits[j]!)
    accumulate(p, s, kept, a[m]!)
  }
}

/** p += factor * softmax of s over the keys where chosen is 1; over all keys alike where none is. */
function accumulate(p: Float64Array, s: Float64Array, chosen: Uint8Array, factor: number): void {
  let top = -Infinity
  for (let j = 0; j < s.length; j++) if (chosen[j] === 1 && s[j]! > top) top = s[j]!
  if (top === -Infinity) {
    for (let j = 0; j < s.length; j++) p[j]! += factor / s.length
    return
  }
  const e = new Float64Array(s.length)
  let sum = 0
  for (let j = 0; j < s.length; j++) if (chosen[j] === 1) sum += e[j] = Math.exp(s[j]! - top)
  for (let j = 0; j < s.length; j++) p[j]! += (factor * e[j]!) / sum
}
