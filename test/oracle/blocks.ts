// What the towers share: weights by name, observers, one attention block of a layer.
import { type NdArray, reshape } from './array.js'
import { type AttentionOptions, attention, joinHeads, layerNorm, linear, lora, splitHeads } from './ops.js'

export type Weights = ReadonlyMap<string, NdArray>

/** Sees every named intermediate on its way, and may put another in its place. */
export type Tap = (name: string, value: NdArray) => NdArray
export const untapped: Tap = (_, value) => value

export function weight(weights: Weights, name: string): NdArray {
  const found = weights.get(name)
  if (found === undefined) throw new Error(`no tensor ${name}`)
  return found
}

/** x W^T + b with `name.weight` and, where there is one, `name.bias`. */
export const dense = (weights: Weights, name: string, x: NdArray): NdArray =>
  linear(x, weight(weights, `${name}.weight`), weights.get(`${name}.bias`))

export const norm = (weights: Weights, name: string, x: NdArray, eps: number): NdArray =>
  layerNorm(x, weight(weights, `${name}.weight`), weight(weights, `${name}.bias`), eps)

/** LoRA of one attention module: q and v alone. */
export interface Lora {
  params: Weights
  prefix: string
  alpha: number
}

function adapted(weights: Weights, name: string, x: NdArray, part: 'q' | 'v', low: Lora | undefined): NdArray {
  if (low === undefined) return dense(weights, name, x)
  const [a, b] = ['lora_A', 'lora_B'].map((end) => weight(low.params, `${low.prefix}.${part}.${end}`)) as [
    NdArray,
    NdArray,
  ]
  return lora(x, weight(weights, `${name}.weight`), weights.get(`${name}.bias`), a, b, low.alpha)
}

/** Names of the six weights of a post-norm BERT attention block. */
export interface BlockNames {
  query: string
  key: string
  value: string
  dense: string
  norm: string
}

export const bertNames = (prefix: string): BlockNames => ({
  query: `${prefix}.attention.query`,
  key: `${prefix}.attention.key`,
  value: `${prefix}.attention.value`,
  dense: `${prefix}.output.dense`,
  norm: `${prefix}.output.LayerNorm`,
})

export interface BlockOptions extends AttentionOptions {
  heads: number
  eps: number
  lora?: Lora | undefined
  kv?: NdArray
}

/** LayerNorm(x + Dense(attention(x, kv))). x [rows, n, D], kv [rows, k, D']; without kv, x attends to itself. */
export function attentionBlock(weights: Weights, names: BlockNames, x: NdArray, options: BlockOptions): NdArray {
  const kv = options.kv ?? x
  const q = splitHeads(adapted(weights, names.query, x, 'q', options.lora), options.heads)
  const k = splitHeads(dense(weights, names.key, kv), options.heads)
  const v = splitHeads(adapted(weights, names.value, kv, 'v', options.lora), options.heads)
  const y = dense(weights, names.dense, joinHeads(attention(q, k, v, options)))
  return norm(weights, names.norm, sum(y, x), options.eps)
}

export const sum = (a: NdArray, b: NdArray): NdArray => {
  const out = a.data.slice()
  for (let i = 0; i < out.length; i++) out[i]! += b.data[i]!
  return reshape({ shape: a.shape, data: out }, b.shape)
}
