/**
 * The Q-Former: BERT layers in which learned queries attend to each other, to a text and to an image. It is the *image*
 * model; the additions of a video model to a layer are declared here and made in `adapter`.
 */
import { z } from 'zod'
import { invalid } from '../errors.js'
import { attend, attendSum, type AttentionWeights, type Routing } from '../nn/attention.js'
import {
  feedForward,
  feedForwardSum,
  normalise,
  normaliseJoin,
  normaliseSplit,
  type FeedForward,
  type Linear,
  type LoRA,
  type Norm,
} from '../nn/layers.js'
import { add, gate } from '../ops/elementwise.js'
import { cast, contiguous, full } from '../ops/copy.js'
import { embedding } from '../ops/embedding.js'
import { concat, expand, narrow, reshape, split } from '../ops/views.js'
import type { Precision } from '../tensor/dtype.js'
import { runLayer } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { divides, flag, positive, size, supported, word } from './fields.js'
import type { Finder, Observe } from './finder.js'
import type { VisionConfig } from './vit.js'

export interface QFormerConfig {
  hiddenSize: number
  layers: number
  heads: number
  mlpSize: number
  eps: number
  maxPositions: number
  /** Layers m with m mod crossFrequency = 0 have cross-attention. */
  crossFrequency: number
  encoderHiddenSize: number
  vocabSize: number
  /** Whether text can be given to it; InstructBLIP's can, that of BLIP-2's generative checkpoints cannot. */
  hasText: boolean
}

/** The qformer_config of a config.json. */
export const QFormerFields = z.looseObject({
  hidden_size: size(768),
  num_hidden_layers: size(12),
  num_attention_heads: size(12),
  intermediate_size: size(3072),
  layer_norm_eps: positive(1e-12),
  max_position_embeddings: size(512),
  cross_attention_frequency: size(2),
  encoder_hidden_size: z.int().min(1).nullish(),
  vocab_size: size(30522),
  hidden_act: word('gelu'),
  position_embedding_type: word('absolute'),
  use_qformer_text_input: flag(false),
})

/** Complaints begin with `where`. */
export function qformerConfig(
  q: z.output<typeof QFormerFields>,
  hasText: boolean,
  vision: VisionConfig,
  where: string,
): QFormerConfig {
  const at = `${where}: qformer_config`
  supported(`${at}.hidden_act`, q.hidden_act, 'gelu')
  supported(`${at}.position_embedding_type`, q.position_embedding_type, 'absolute')
  if (!hasText) supported(`${at}.use_qformer_text_input`, q.use_qformer_text_input, false)
  divides(at, 'hidden_size', q.hidden_size, 'num_attention_heads', q.num_attention_heads)
  if (q.encoder_hidden_size != null && q.encoder_hidden_size !== vision.hiddenSize) {
    throw invalid(`${at}.encoder_hidden_size`, `the vision width ${vision.hiddenSize}`, q.encoder_hidden_size)
  }
  return {
    hiddenSize: q.hidden_size,
    layers: q.num_hidden_layers,
    heads: q.num_attention_heads,
    mlpSize: q.intermediate_size,
    eps: q.layer_norm_eps,
    maxPositions: q.max_position_embeddings,
    crossFrequency: q.cross_attention_frequency,
    encoderHiddenSize: vision.hiddenSize,
    vocabSize: q.vocab_size,
    hasText,
  }
}

interface Layer {
  self: AttentionWeights
  cross: AttentionWeights | undefined
  queryFeed: FeedForward
  textFeed: FeedForward | undefined
}

export interface QFormer {
  config: QFormerConfig
  queries: Tensor // [1,L,D]
  words: Tensor | undefined // [V,D]
  wordPositions: Tensor | undefined // [K_max,D]
  norm: Norm
  layers: Layer[]
}

type QV = { q: LoRA; v: LoRA }

/** The additions of an adapter to one layer. Absent members leave the image model as it is. */
export interface LayerAdapter {
  spatial?: { lora?: QV; routing?: Routing }
  /** Attention over time with this layer's spatial weights, or with `weights` of its own. */
  temporal?: {
    lora?: QV | undefined
    routing?: Routing | undefined
    weights?: AttentionWeights | undefined
    gate?: Tensor | undefined
  }
  cross?: { lora?: QV }
}

/** @param queries L, how many query tokens there are */
export function qformer(root: Finder, config: QFormerConfig, queries: number): QFormer {
  const at = root.at('qformer')
  const { hiddenSize: d, mlpSize, encoderHiddenSize, eps, heads, hasText } = config
  /** Over its own input, or with keys and values from an input of another width. */
  const attention = (a: Finder, source?: number): AttentionWeights => {
    const [query, key, value] = ['attention.query', 'attention.key', 'attention.value'] as const
    const own = source === undefined ? undefined : a.linear(query, d, d)
    const { parts, packed } = own
      ? a.pack('attention.key_value', { [key]: d, [value]: d }, source!)
      : a.pack('attention.query_key_value', { [query]: d, [key]: d, [value]: d }, d)
    const [q, k, v] = (own ? [own, ...parts] : parts) as [Linear, Linear, Linear]
    return {
      packed,
      query: q,
      key: k,
      value: v,
      dense: a.linear('output.dense', d, d),
      norm: a.norm('output.LayerNorm', d, eps),
      heads,
    }
  }
  const feed = (layer: Finder, suffix: string): FeedForward => ({
    inner: layer.linear(`intermediate${suffix}.dense`, mlpSize, d),
    outer: layer.linear(`output${suffix}.dense`, d, mlpSize),
    norm: layer.norm(`output${suffix}.LayerNorm`, d, eps),
  })
  return {
    config,
    queries: root.get('query_tokens', [1, queries, d]),
    words: hasText ? at.get('embeddings.word_embeddings.weight', [config.vocabSize, d], { rows: true }) : undefined,
    wordPositions: hasText ? at.get('embeddings.position_embeddings.weight', [config.maxPositions, d]) : undefined,
    norm: at.norm(hasText ? 'embeddings.layernorm' : 'layernorm', d, eps),
    layers: Array.from({ length: config.layers }, (_, i) => {
      const layer = at.at(`encoder.layer.${i}`)
      return {
        self: attention(layer.at('attention')),
        cross: i % config.crossFrequency === 0 ? attention(layer.at('crossattention'), encoderHiddenSize) : undefined,
        textFeed: hasText ? feed(layer, '') : undefined,
        queryFeed: feed(layer, '_query'),
      }
    }),
  }
}

export interface QFormerInput {
  /** [B,G,n,D]: G groups of n queries that see each other; a group is a frame, or (joint) the whole video. */
  queries: Tensor
  /** E_v [B,T,K_V,D_v]. Each frame's share of a video's queries attends to that frame alone. */
  image: Tensor
  /** Token ids [B,K] int32 and their mask [B,K] uint8; every group carries a copy of the text through the layers. */
  text?: { ids: Tensor; mask: Tensor } | undefined
  adapters?: readonly LayerAdapter[] | undefined
  observe?: Observe | undefined
  /** Whether the backward pass computes each layer again, in place of keeping what lies between. */
  recompute?: boolean | undefined
}

/** Word and position embeddings of a text, [B,K,D]. */
export function textEmbeddings(model: QFormer, ids: Tensor, precision: Precision = 'float32'): Tensor {
  if (!model.words || !model.wordPositions) {
    throw invalid(
      'fusion',
      'false',
      true,
      "this checkpoint's Q-Former has no text path (BLIP-2 files have none); use an InstructBLIP checkpoint for early fusion",
    )
  }
  const k = ids.dim(1)
  if (k > model.wordPositions.dim(0))
    throw invalid('text', `at most ${model.wordPositions.dim(0)} tokens`, k, 'lower text.maxTokens')
  return add(embedding(ids, model.words, precision), cast(narrow(model.wordPositions, 0, 0, k), precision))
}

/** The query tokens after the last layer, [B,G,n,D]. */
export function qformerForward(model: QFormer, input: QFormerInput): Tensor {
  const { observe } = input
  const [B, G, n, D] = input.queries.shape as [number, number, number, number]
  const T = input.image.dim(1)
  const K = input.text?.ids.dim(1) ?? 0
  let x = contiguous(input.queries)
  let keyMask: Tensor | undefined
  if (input.text) {
    const words = reshape(textEmbeddings(model, input.text.ids, x.dtype === 'bfloat16' ? 'bfloat16' : 'float32'), [
      B,
      1,
      K,
      D,
    ])
    x = concat([x, expand(words, [B, G, K, D])], 2)
    keyMask = expand(
      reshape(concat([full([B, n], 1, 'uint8', input.text.mask.device), input.text.mask], 1), [B, 1, n + K]),
      [B, G, n + K],
    )
  }
  x = normalise(model.norm, x)
  observe?.('embeddings', x)
  const layerOf =
    (m: number, layer: Layer) =>
    (x: Tensor): Tensor => {
      const { spatial, temporal, cross } = input.adapters?.[m] ?? {}
      const seen = (name: string) => (value: Tensor) => observe?.(`layer.${m}.${name}`, value)
      const sum = attendSum(layer.self, x, {
        over: 2,
        keyMask,
        pooled: n,
        lora: spatial?.lora,
        routing: spatial?.routing,
        observeAlpha: seen('spatial.alpha'),
      }) // (7)
      // Split into queries [B,G,n,D] and text [B,G,K,D], each contiguous.
      let queries: Tensor
      let text: Tensor | undefined
      if (observe) {
        const all = normalise(layer.self.norm, sum)
        seen('spatial')(all)
        ;[queries, text] = K ? (split(all, [n, K], 2).map(contiguous) as [Tensor, Tensor]) : [all]
      } else if (K) [queries, text] = normaliseSplit(layer.self.norm, sum, n)
      else queries = normalise(layer.self.norm, sum)

      if (temporal) {
        const block = attend(temporal.weights ?? layer.self, queries, {
          over: 1,
          lora: temporal.lora,
          routing: temporal.routing,
          observeAlpha: seen('temporal.alpha'),
        }) // (9)
        queries = temporal.gate ? gate(queries, block, temporal.gate) : block
        seen('temporal')(queries)
      }
      if (layer.cross) {
        const perFrame = reshape(queries, [B, T, (G * n) / T, D])
        const crossed = attend(layer.cross, perFrame, { over: 2, kv: input.image, lora: cross?.lora }) // (8)
        seen('cross')(crossed)
        queries = reshape(crossed, [B, G, n, D])
      }
      // The last layer's text output is unused.
      const out =
        text && (m + 1 < model.layers.length || observe)
          ? normaliseJoin([
              { norm: layer.queryFeed.norm, x: feedForwardSum(layer.queryFeed, queries) },
              { norm: layer.textFeed!.norm, x: feedForwardSum(layer.textFeed!, text) },
            ])
          : feedForward(layer.queryFeed, queries)
      seen('ffn')(out)
      return out
    }
  // What is observed has to outlive its layer.
  for (const [m, layer] of model.layers.entries())
    x = observe ? layerOf(m, layer)(x) : runLayer(layerOf(m, layer), x, input.recompute)
  return x.dim(2) === n ? x : contiguous(narrow(x, 2, 0, n))
}
