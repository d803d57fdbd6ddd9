// Flan-T5: an encoder over [visual; prompt], a decoder over the answer. Distances count rows, padding included, as in
// Hugging Face's model; with padding on the right that changes nothing.
import { type NdArray, array, map, slice, zip } from './array.js'
import { type Tap, type Weights, dense, sum, untapped, weight } from './blocks.js'
import type { LanguageConfig } from './config.js'
import { attention, embedding, gelu, geluTanh, joinHeads, linear, rmsNorm, splitHeads } from './ops.js'

export const SHARED = 'language_model.shared.weight'

/** The ids before each label: the start id first, the pad id for -100. labels [B, A]. */
export function shifted(labels: NdArray, { start, pad }: NonNullable<LanguageConfig['t5']>): NdArray {
  const a = labels.shape[1]!
  return array(
    labels.shape,
    labels.data.map((_, i) => (i % a === 0 ? start : labels.data[i - 1] === -100 ? pad : labels.data[i - 1]!)),
  )
}

/** Encoder inputs x [B, n, D] and mask [B, n], decoder ids [B, A] -> logits [B, A, V]. */
export function t5(
  weights: Weights,
  config: LanguageConfig,
  x: NdArray,
  mask: NdArray,
  ids: NdArray,
  tap: Tap = untapped,
): NdArray {
  const { layers, width } = config
  const { decoderLayers } = config.t5!
  const at = 'language_model'
  const rms = (name: string, a: NdArray): NdArray => rmsNorm(a, weight(weights, `${name}.weight`), config.eps)

  let e = tap('lm.encoder.hidden.0', x)
  const near = distanceBias(weights, config, 'encoder', e.shape[1]!)
  for (let i = 0; i < layers; i++) {
    const p = `${at}.encoder.block.${i}.layer`
    const h = rms(`${p}.0.layer_norm`, e)
    e = sum(e, attend(weights, config, `${p}.0.SelfAttention`, h, h, { bias: near, keyMask: mask }))
    e = sum(e, feed(weights, config, `${p}.1.DenseReluDense`, rms(`${p}.1.layer_norm`, e)))
    if (i + 1 < layers) e = tap(`lm.encoder.hidden.${i + 1}`, e)
  }
  e = rms(`${at}.encoder.final_layer_norm`, e)
  e = tap('lm.encoder.last', tap(`lm.encoder.hidden.${layers}`, e))

  let d = tap('lm.decoder.hidden.0', embedding(ids, weight(weights, SHARED)))
  const behind = distanceBias(weights, config, 'decoder', d.shape[1]!)
  for (let i = 0; i < decoderLayers; i++) {
    const p = `${at}.decoder.block.${i}.layer`
    const h = rms(`${p}.0.layer_norm`, d)
    d = sum(d, attend(weights, config, `${p}.0.SelfAttention`, h, h, { bias: behind, causal: true }))
    d = sum(d, attend(weights, config, `${p}.1.EncDecAttention`, rms(`${p}.1.layer_norm`, d), e, { keyMask: mask }))
    d = sum(d, feed(weights, config, `${p}.2.DenseReluDense`, rms(`${p}.2.layer_norm`, d)))
    if (i + 1 < decoderLayers) d = tap(`lm.decoder.hidden.${i + 1}`, d)
  }
  d = tap(`lm.decoder.hidden.${decoderLayers}`, rms(`${at}.decoder.final_layer_norm`, d))
  const head = weights.get(`${at}.lm_head.weight`)
  return head
    ? linear(d, head)
    : linear(
        map(d, (v) => v / Math.sqrt(width)),
        weight(weights, SHARED),
      )
}

function attend(
  weights: Weights,
  { heads }: LanguageConfig,
  name: string,
  x: NdArray,
  source: NdArray,
  options: { bias?: NdArray; keyMask?: NdArray; causal?: boolean },
): NdArray {
  const [q, k, v] = ['q', 'k', 'v'].map((part) =>
    splitHeads(dense(weights, `${name}.${part}`, part === 'q' ? x : source), heads),
  ) as [NdArray, NdArray, NdArray]
  return dense(weights, `${name}.o`, joinHeads(attention(q, k, v, { ...options, scale: 1 })))
}

function feed(weights: Weights, { t5 }: LanguageConfig, name: string, x: NdArray): NdArray {
  const gate = dense(weights, `${name}.wi_0`, x)
  const open = t5!.exact ? gelu(gate) : geluTanh(gate)
  return dense(
    weights,
    `${name}.wo`,
    zip(open, dense(weights, `${name}.wi_1`, x), (a, b) => a * b),
  )
}

/** The bias of every pair of n rows, [heads, n, n]: that of the bucket of key - query in the table of the first block. */
function distanceBias(
  weights: Weights,
  { heads, t5 }: LanguageConfig,
  stack: 'encoder' | 'decoder',
  n: number,
): NdArray {
  const table = weight(weights, `language_model.${stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight`)
  const out = array([heads, n, n])
  for (let q = 0; q < n; q++)
    for (let k = 0; k < n; k++) {
      const b = bucket(k - q, t5!.buckets, t5!.maxDistance, stack === 'encoder')
      for (let h = 0; h < heads; h++) out.data[(h * n + q) * n + k] = table.data[b * heads + h]!
    }
  return out
}

/**
 * The encoder has half the buckets for keys at or behind the query and half for keys ahead; the decoder has all of them
 * for keys behind. Of n buckets the first h = n/2 are a distance each; bucket h + t begins at the least d with
 * (d/h)^(n-h) >= (M/h)^t, which is asked in whole numbers.
 */
export function bucket(distance: number, buckets: number, maxDistance: number, bothWays: boolean): number {
  const n = bothWays ? buckets / 2 : buckets
  const first = bothWays && distance > 0 ? n : 0
  const d = bothWays ? Math.abs(distance) : Math.max(0, -distance)
  const h = n / 2
  if (d < h) return first + d
  let t = 0
  const [D, H, M, steps] = [BigInt(d), BigInt(h), BigInt(maxDistance), BigInt(n - h)]
  while (t + 1 < n - h && D ** steps * H ** BigInt(t + 1) >= M ** BigInt(t + 1) * H ** steps) t++
  return first + h + t
}

/** Repeated argmax for one sample: encoder inputs x [1, n, D]; nothing stops it before `steps`. */
export function greedyT5(weights: Weights, config: LanguageConfig, x: NdArray, mask: NdArray, steps: number): number[] {
  const ids = [config.t5!.start]
  for (let i = 0; i < steps; i++) {
    const logits = t5(weights, config, x, mask, array([1, ids.length], ids))
    const last = slice(logits, 1, ids.length - 1, ids.length).data
    let best = 0
    for (let v = 1; v < last.length; v++) if (last[v]! > last[best]!) best = v
    ids.push(best)
  }
  return ids.slice(1)
}
