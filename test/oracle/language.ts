// The frozen language models over given input embeddings, LLaMA and OPT here, T5 in t5.ts; the loss; greedy decoding.
import { type NdArray, array, concat, repeat, reshape, slice } from './array.js'
import { type Tap, type Weights, dense, norm, sum, untapped, weight } from './blocks.js'
import type { LanguageConfig } from './config.js'
import {
  attention,
  crossEntropy,
  embedding,
  joinHeads,
  linear,
  relu,
  rmsNorm,
  rope,
  siluMul,
  splitHeads,
} from './ops.js'
import { greedyT5, SHARED } from './t5.js'

/** Rows of the token table for ids [B, S]. */
export const tokenEmbeddings = (weights: Weights, config: LanguageConfig, ids: NdArray): NdArray =>
  embedding(ids, weight(weights, tokenTable(config)))

const tokenTable = ({ family }: LanguageConfig): string =>
  family === 't5'
    ? SHARED
    : family === 'llama'
      ? 'language_model.model.embed_tokens.weight'
      : 'language_model.model.decoder.embed_tokens.weight'

/** x [B, n, D_llm], mask [B, n] (1 = token) -> logits [B, n, V]. */
export function languageModel(
  weights: Weights,
  config: LanguageConfig,
  x: NdArray,
  mask: NdArray,
  tap: Tap = untapped,
): NdArray {
  const hidden = config.family === 'llama' ? llama(weights, config, x, mask, tap) : opt(weights, config, x, mask, tap)
  // A tied head is not stored.
  return linear(hidden, weights.get('language_model.lm_head.weight') ?? weight(weights, tokenTable(config)))
}

function llama(weights: Weights, config: LanguageConfig, inputs: NdArray, mask: NdArray, tap: Tap): NdArray {
  const { heads, keyHeads, eps, theta } = config
  const positions = llamaPositions(mask)
  const rms = (name: string, a: NdArray): NdArray => rmsNorm(a, weight(weights, `${name}.weight`), eps)
  let x = tap('lm.hidden.0', inputs)
  for (let i = 0; i < config.layers; i++) {
    const p = `language_model.model.layers.${i}`
    const h = rms(`${p}.input_layernorm`, x)
    const q = rope(splitHeads(dense(weights, `${p}.self_attn.q_proj`, h), heads), positions, theta)
    const k = rope(splitHeads(dense(weights, `${p}.self_attn.k_proj`, h), keyHeads), positions, theta)
    const v = splitHeads(dense(weights, `${p}.self_attn.v_proj`, h), keyHeads)
    const attended = attention(q, shareHeads(k, heads), shareHeads(v, heads), { keyMask: mask, causal: true })
    x = sum(x, dense(weights, `${p}.self_attn.o_proj`, joinHeads(attended)))
    const f = rms(`${p}.post_attention_layernorm`, x)
    const gated = siluMul(dense(weights, `${p}.mlp.gate_proj`, f), dense(weights, `${p}.mlp.up_proj`, f))
    x = sum(x, dense(weights, `${p}.mlp.down_proj`, gated))
    if (i + 1 < config.layers) x = tap(`lm.hidden.${i + 1}`, x)
  }
  return tap(`lm.hidden.${config.layers}`, rms('language_model.model.norm', x))
}

function opt(weights: Weights, config: LanguageConfig, inputs: NdArray, mask: NdArray, tap: Tap): NdArray {
  const { heads, eps } = config
  const d = 'language_model.model.decoder'
  let x = tap('lm.hidden.0', sum(inputs, embedding(optPositions(mask), weight(weights, `${d}.embed_positions.weight`))))
  for (let i = 0; i < config.layers; i++) {
    const p = `${d}.layers.${i}`
    const h = norm(weights, `${p}.self_attn_layer_norm`, x, eps)
    const [q, k, v] = ['q', 'k', 'v'].map((n) => splitHeads(dense(weights, `${p}.self_attn.${n}_proj`, h), heads)) as [
      NdArray,
      NdArray,
      NdArray,
    ]
    x = sum(
      x,
      dense(weights, `${p}.self_attn.out_proj`, joinHeads(attention(q, k, v, { keyMask: mask, causal: true }))),
    )
    const f = relu(dense(weights, `${p}.fc1`, norm(weights, `${p}.final_layer_norm`, x, eps)))
    x = sum(x, dense(weights, `${p}.fc2`, f))
    if (i + 1 < config.layers) x = tap(`lm.hidden.${i + 1}`, x)
  }
  return tap(`lm.hidden.${config.layers}`, norm(weights, `${d}.final_layer_norm`, x, eps))
}

/**
 * Attended tokens are counted 0, 1, 2, ... . Nothing depends on a padded one; it gets what Hugging Face gives it:
 * behind the last attended token (right padding) the count goes on, before it (left padding) it is 1.
 */
export function llamaPositions(mask: NdArray): NdArray {
  const [b, n] = mask.shape as [number, number]
  const out = array([b, n])
  for (let r = 0; r < b; r++) {
    const row = mask.data.subarray(r * n, (r + 1) * n)
    const last = row.lastIndexOf(1)
    for (let i = 0, count = 0; i < n; i++) out.data[r * n + i] = row[i] === 1 || i > last ? count++ : 1
  }
  return out
}

/** OPT's table has two rows more than positions: attended tokens read rows 2, 3, 4, ..., padded ones row 1. */
export function optPositions(mask: NdArray): NdArray {
  const [b, n] = mask.shape as [number, number]
  const out = array([b, n])
  for (let r = 0; r < b; r++)
    for (let i = 0, count = 0; i < n; i++) out.data[r * n + i] = mask.data[r * n + i] === 0 ? 1 : 2 + count++
  return out
}

/** [B, kept, n, d] -> [B, heads, n, d]: each key head serves heads / kept neighbouring query heads. */
function shareHeads(x: NdArray, heads: number): NdArray {
  const [b, kept, n, d] = x.shape as [number, number, number, number]
  return kept === heads ? x : reshape(repeat(x, 2, heads / kept), [b, heads, n, d])
}

/** Visual rows in front of the text rows: [B, V + S, D_llm] and its mask. */
export function withText(
  weights: Weights,
  config: LanguageConfig,
  visual: NdArray,
  ids: NdArray,
  mask: NdArray,
): { x: NdArray; mask: NdArray } {
  const ones = array([visual.shape[0]!, visual.shape[1]!])
  ones.data.fill(1)
  return { x: concat([visual, tokenEmbeddings(weights, config, ids)], 1), mask: concat([ones, mask], 1) }
}

/**
 * Logits at text position i predict label i + 1; labels of -100 do not count. logits [B, V + S, vocabulary], labels [B,
 * S].
 */
export function answerLoss(logits: NdArray, labels: NdArray, reduction: 'mean' | 'sum' = 'mean'): number {
  const [b, n, vocabulary] = logits.shape as [number, number, number]
  const s = labels.shape[1]!
  const predicting = slice(logits, 1, n - s, n - 1)
  const next = slice(labels, 1, 1, s)
  return crossEntropy(reshape(predicting, [b * (s - 1), vocabulary]), next.data, reduction)
}

/** Repeated argmax for one sample: visual [1, V, D_llm] and prompt ids; nothing stops it before `steps`. */
export function greedy(
  weights: Weights,
  config: LanguageConfig,
  visual: NdArray,
  prompt: readonly number[],
  steps: number,
): number[] {
  if (config.family === 't5') {
    const ones = array(
      [1, prompt.length],
      prompt.map(() => 1),
    )
    const { x, mask } = withText(weights, config, visual, array([1, prompt.length], prompt), ones)
    return greedyT5(weights, config, x, mask, steps)
  }
  const ids = [...prompt]
  for (let i = 0; i < steps; i++) {
    const text = array([1, ids.length], ids)
    const { x, mask } = withText(
      weights,
      config,
      visual,
      text,
      array(
        [1, ids.length],
        ids.map(() => 1),
      ),
    )
    const logits = languageModel(weights, config, x, mask)
    const last = slice(logits, 1, logits.shape[1]! - 1, logits.shape[1]!).data
    let best = 0
    for (let t = 1; t < last.length; t++) if (last[t]! > last[best]!) best = t
    ids.push(best)
  }
  return ids.slice(prompt.length)
}
