// Attention with dynamic routing (SPEC.md section 5). S = q k^T / sqrt(d), P from S by one of three modes, out = P v.
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
}

/**
 * q [rows, heads, nq, d], k and v [rows, heads, nk, d] -> [rows, heads, nq, d].
 *
 * off        P = softmax(S over the visible keys)
 * score      P = softmax(S * sum_j alpha_j M_j over the visible keys)
 * attention  P = sum_j alpha_j softmax(S over the visible keys that M_j keeps); where M_j keeps none of them, M_0 stands in
 *
 * Visible: not padded and not in the future. A query without any visible key gets what adding the least finite number to
 * every score gives: that number swallows the score, so all nk keys weigh the same.
 */
export function attention(q: NdArray, k: NdArray, v: NdArray, options: AttentionOptions = {}): NdArray {
  const [rows, heads, nq, d] = q.shape as [number, number, number, number]
  const nk = k.shape[2]!
  const out = array([rows, heads, nq, v.shape[3]!])
  const p = new Float64Array(nk)
  for (let r = 0; r < rows; r++)
    for (let h = 0; h < heads; h++) {
      const keys = (r * heads + h) * nk
      for (let i = 0; i < nq; i++) {
        const row = (r * heads + h) * nq + i
        weights(p, scores(q.data.subarray(row * d, (row + 1) * d), k.data, keys, nk), r, i, nq, options)
        const at = row * v.shape[3]!
        for (let j = 0; j < nk; j++) {
          if (p[j] === 0) continue
          for (let c = 0; c < v.shape[3]!; c++) out.data[at + c]! += p[j]! * v.data[(keys + j) * v.shape[3]! + c]!
        }
      }
    }
  return out
}

/** The attention weights themselves [rows, heads, nq, nk]. */
export function attentionWeights(q: NdArray, k: NdArray, options: AttentionOptions = {}): NdArray {
  const [rows, heads, , ] = q.shape as [number, number, number, number]
  const nk = k.shape[2]!
  const identity = array([rows, heads, nk, nk])
  for (let r = 0; r < rows * heads; r++) for (let j = 0; j < nk; j++) identity.data[(r * nk + j) * nk + j] = 1
  return attention(q, k, identity, options)
}

function scores(q: Float64Array, k: Float64Array, first: number, nk: number): Float64Array {
  const d = q.length
  const s = new Float64Array(nk)
  for (let j = 0; j < nk; j++) {
    let sum = 0
    for (let c = 0, at = (first + j) * d; c < d; c++, at++) sum += q[c]! * k[at]!
    s[j] = sum / Math.sqrt(d)
  }
  return s
}

/** Writes the weights of query i of row r into p. */
function weights(p: Float64Array, s: Float64Array, r: number, i: number, nq: number, options: AttentionOptions): void {
  const nk = s.length
  const mode = options.mode ?? 'off'
  const visible = (j: number): boolean => {
    if (options.keyMask !== undefined && options.keyMask.data[r * nk + j] === 0) return false
    return options.causal !== true || j <= i + nk - nq
  }
  p.fill(0)
  if (mode === 'off') return accumulate(p, s, visible, 1)

  const { masks, alpha } = options
  if (masks === undefined || alpha === undefined) throw new Error(`attention: mode ${mode} needs masks and alpha`)
  const choices = alpha.shape[1]!
  const a = (m: number): number => alpha.data[r * choices + m]!
  const keeps = (m: number, j: number): boolean => ((masks.data[i * nk + j]! >> m) & 1) === 1
  if (mode === 'score') {
    const weighted = s.map((value, j) => {
      let w = 0
      for (let m = 0; m < choices; m++) if (keeps(m, j)) w += a(m)
      return value * w
    })
    return accumulate(p, weighted, visible, 1)
  }
  for (let m = 0; m < choices; m++) {
    let any = false
    for (let j = 0; j < nk; j++) any ||= visible(j) && keeps(m, j)
    accumulate(p, s, any ? (j) => visible(j) && keeps(m, j) : (j) => visible(j) && keeps(0, j), a(m))
  }
}

/** p += factor * softmax of s over the chosen keys; over all keys alike where none is chosen. */
function accumulate(p: Float64Array, s: Float64Array, chosen: (j: number) => boolean, factor: number): void {
  let top = -Infinity
  for (let j = 0; j < s.length; j++) if (chosen(j)) top = Math.max(top, s[j]!)
  if (top === -Infinity) {
    for (let j = 0; j < s.length; j++) p[j]! += factor / s.length
    return
  }
  let sum = 0
  for (let j = 0; j < s.length; j++) if (chosen(j)) sum += Math.exp(s[j]! - top)
  for (let j = 0; j < s.length; j++) if (chosen(j)) p[j]! += (factor * Math.exp(s[j]! - top)) / sum
}
