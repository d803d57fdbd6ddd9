/**
 * T5 (Flan-T5): an encoder that reads the prompt and a decoder that reads the answer, pre-norm with RMSNorm, biases of
 * distances in place of positions, scores that are not divided by √d, a gated GELU, no other biases.
 */
import { z } from 'zod'
import { invalid } from '../errors.js'
import { project, projectAll, projectGelu, projectOnto, type Linear, type Pack } from '../nn/layers.js'
import { attention } from '../ops/attention.js'
import { viewOf, type Columns } from '../ops/columns.js'
import { contiguous } from '../ops/copy.js'
import { geluTanh, multiply, scale } from '../ops/elementwise.js'
import { embedding } from '../ops/embedding.js'
import { rmsNorm } from '../ops/rmsnorm.js'
import { narrow, permute } from '../ops/views.js'
import { keep } from '../tensor/scope.js'
import { noGrad, runLayer } from '../tensor/tape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { outputMatrix, type DecoderConfig, type EncoderDecoder, type Family, type Source } from './decoder.js'
import { firstTokenId, flag, positive, section, size, supported, tokenId, word } from './fields.js'
import type { Finder } from './finder.js'

export interface T5Config extends DecoderConfig {
  kind: 't5'
  startId: number
  decoderLayers: number
  /** Width of a head; the heads together may be wider or narrower than the model. */
  headSize: number
  buckets: number
  /** Distances from here on share a bucket. */
  maxDistance: number
  /** The exact GELU, or its approximation by tanh. */
  activation: 'gelu' | 'gelu_new'
}

const Fields = z.looseObject({
  d_model: size(512),
  d_kv: size(64),
  d_ff: size(2048),
  num_layers: size(6),
  num_decoder_layers: z.int().min(1).nullish(),
  num_heads: size(8),
  relative_attention_num_buckets: size(32),
  relative_attention_max_distance: size(128),
  layer_norm_epsilon: positive(1e-6),
  feed_forward_proj: word('relu'),
  dense_act_fn: z.string().nullish(),
  n_positions: size(512),
  vocab_size: size(32128),
  tie_word_embeddings: flag(true),
  pad_token_id: tokenId(0),
  eos_token_id: firstTokenId(1),
  decoder_start_token_id: z.int().min(0).nullish(),
})

const EMBEDDING = 'language_model.shared.weight'

export const T5: Family<T5Config> = {
  title: 'T5',
  config,
  embedding: EMBEDDING,
  build,
  endsAnswers: 'tokenizer',
  describe: ({ heads, headSize, decoderLayers, buckets }) =>
    `${decoderLayers} more in the decoder, ${heads} heads of ${headSize}, ${buckets} buckets of distances`,
}

function config(text: unknown, where: string): T5Config {
  const t = section(Fields, text, where, 'text_config')
  const at = `${where}: text_config`
  // Without a gate T5 is another model than Flan-T5.
  supported(`${at}.feed_forward_proj`, t.feed_forward_proj, 'gated-gelu')
  const activation = t.dense_act_fn ?? 'gelu_new'
  if (activation !== 'gelu' && activation !== 'gelu_new')
    throw invalid(`${at}.dense_act_fn`, 'gelu or gelu_new', activation)
  const buckets = t.relative_attention_num_buckets
  const maxDistance = t.relative_attention_max_distance
  if (buckets < 4 || buckets % 4 !== 0)
    throw invalid(`${at}.relative_attention_num_buckets`, 'a multiple of 4', buckets)
  if (maxDistance <= buckets / 2)
    throw invalid(`${at}.relative_attention_max_distance`, `more than ${buckets / 2}, half the buckets`, maxDistance)
  return {
    kind: 't5',
    hiddenSize: t.d_model,
    headSize: t.d_kv,
    mlpSize: t.d_ff,
    layers: t.num_layers,
    decoderLayers: t.num_decoder_layers ?? t.num_layers,
    heads: t.num_heads,
    buckets,
    maxDistance,
    activation,
    eps: t.layer_norm_epsilon,
    maxPositions: t.n_positions,
    vocabSize: t.vocab_size,
    tied: t.tie_word_embeddings,
    padId: t.pad_token_id,
    // T5 has none, whatever a config says.
    bosId: null,
    eosId: t.eos_token_id,
    startId: t.decoder_start_token_id ?? t.pad_token_id ?? 0,
  }
}

/**
 * The bucket of a distance, key − query. The encoder's are half for keys at or behind the query, half for keys ahead;
 * the decoder's are all for keys behind. Half of the buckets of a side hold one distance each, the others ranges that
 * grow by a factor, and the last all that is farther.
 */
export function bucketOf(distance: number, buckets: number, maxDistance: number, bothWays: boolean): number {
  const n = bothWays ? buckets / 2 : buckets
  const first = bothWays && distance > 0 ? n : 0
  const d = bothWays ? Math.abs(distance) : Math.max(0, -distance)
  const exact = n / 2
  if (d < exact) return first + d
  // The quotient is whole at some distances; float64 rounds it below by as little as an ulp.
  const far = (Math.log(d / exact) / Math.log(maxDistance / exact)) * (n - exact)
  return first + Math.min(n - 1, exact + Math.floor(far + 1e-9))
}

interface Attention {
  norm: Tensor
  qkv: Pack
  o: Linear
}
interface FeedForward {
  norm: Tensor
  gate: Linear
  up: Linear
  down: Linear
}
interface EncoderBlock {
  self: Attention
  feed: FeedForward
}
interface DecoderBlock extends EncoderBlock {
  cross: { norm: Tensor; q: Linear; kv: Pack; o: Linear }
}

/** Biases of distances, [heads, 2M − 1] with distance 0 in the middle, from a table [buckets, heads]. */
class Biases {
  #indices: Tensor | undefined

  constructor(
    readonly table: Tensor,
    readonly config: T5Config,
    readonly bothWays: boolean,
  ) {}

  /** Those between n queries and as many keys as m, the last query standing at the last key: [heads, n + m − 1]. */
  of(n: number, m: number): Tensor {
    const { maxPositions: most, buckets, maxDistance } = this.config
    return noGrad(() => {
      // Kept: nothing is copied to the device while a step is captured.
      this.#indices ??= keep(
        tensor(
          Int32Array.from({ length: 2 * most - 1 }, (_, i) =>
            bucketOf(i - (most - 1), buckets, maxDistance, this.bothWays),
          ),
          [2 * most - 1],
          'int32',
          this.table.device,
        ),
      )
      const part = embedding(narrow(this.#indices, 0, most - m, n + m - 1), this.table)
      return contiguous(permute(part, [1, 0])).detach()
    })
  }
  dispose(): void {
    this.#indices?.dispose()
    this.#indices = undefined
  }
}

function build(root: Finder, config: T5Config): EncoderDecoder {
  const { hiddenSize: d, mlpSize, heads, headSize, buckets, eps, tied, activation } = config
  const width = heads * headSize
  const bias = { bias: false }
  const tokens = root.get(EMBEDDING, [config.vocabSize, d], { rows: true })
  const selfAttention = (at: Finder): Attention => ({
    norm: at.get('layer_norm.weight', [d]),
    qkv: at.pack(
      'SelfAttention.qkv',
      { 'SelfAttention.q': width, 'SelfAttention.k': width, 'SelfAttention.v': width },
      d,
      bias,
    ),
    o: at.linear('SelfAttention.o', d, width, bias),
  })
  const feedForward = (at: Finder): FeedForward => ({
    norm: at.get('layer_norm.weight', [d]),
    gate: at.linear('DenseReluDense.wi_0', mlpSize, d, bias),
    up: at.linear('DenseReluDense.wi_1', mlpSize, d, bias),
    down: at.linear('DenseReluDense.wo', d, mlpSize, bias),
  })
  const stack = <B>(
    name: string,
    count: number,
    block: (at: Finder) => B,
  ): { blocks: B[]; table: Tensor; last: Tensor } => {
    const at = root.at(`language_model.${name}`)
    return {
      blocks: Array.from({ length: count }, (_, i) => block(at.at(`block.${i}.layer`))),
      table: at.get('block.0.layer.0.SelfAttention.relative_attention_bias.weight', [buckets, heads]),
      last: at.get('final_layer_norm.weight', [d]),
    }
  }
  const encoder = stack(
    'encoder',
    config.layers,
    (at): EncoderBlock => ({ self: selfAttention(at.at('0')), feed: feedForward(at.at('1')) }),
  )
  const decoder = stack('decoder', config.decoderLayers, (at): DecoderBlock => {
    const cross = at.at('1')
    return {
      self: selfAttention(at.at('0')),
      cross: {
        norm: cross.get('layer_norm.weight', [d]),
        q: cross.linear('EncDecAttention.q', width, d, bias),
        kv: cross.pack('EncDecAttention.kv', { 'EncDecAttention.k': width, 'EncDecAttention.v': width }, d, bias),
        o: cross.linear('EncDecAttention.o', d, width, bias),
      },
      feed: feedForward(at.at('2')),
    }
  })
  const head = outputMatrix(root, config, tokens)
  const biases = { encoder: new Biases(encoder.table, config, true), decoder: new Biases(decoder.table, config, false) }

  const feed = ({ norm, gate, up, down }: FeedForward, x: Tensor): Tensor => {
    const h = rmsNorm(x, norm, eps)
    const open = activation === 'gelu' ? projectGelu(gate, h) : geluTanh(project(gate, h))
    return projectOnto(x, down, multiply(open, project(up, h)))
  }
  return {
    config,
    tokens,
    head,
    encode(inputs, mask, { observe, recompute } = {}): Source {
      let x = inputs
      const bias = biases.encoder.of(x.dim(1), x.dim(1))
      observe?.('lm.encoder.hidden.0', x)
      for (const [i, { self, feed: inner }] of encoder.blocks.entries()) {
        const layer = (x: Tensor): Tensor => {
          const [q, k, v] = projectAll(self.qkv, rmsNorm(x, self.norm, eps)) as [Columns, Columns, Columns]
          const seen = attention(q, k, v, { heads, keyMask: mask, scale: 1, bias })
          return feed(inner, projectOnto(x, self.o, seen))
        }
        x = runLayer(layer, x, recompute)
        if (i + 1 < encoder.blocks.length) observe?.(`lm.encoder.hidden.${i + 1}`, x)
      }
      const out = rmsNorm(x, encoder.last, eps)
      observe?.(`lm.encoder.hidden.${encoder.blocks.length}`, out)
      observe?.('lm.encoder.last', out)
      return {
        mask,
        layers: decoder.blocks.map(({ cross }) => {
          const [k, v] = projectAll(cross.kv, out) as [Columns, Columns]
          return { k, v }
        }),
      }
    },
    decode(inputs, source, { cache, observe } = {}): Tensor {
      let x = inputs
      const n = x.dim(1)
      const bias = biases.decoder.of(n, n + (cache?.length ?? 0))
      observe?.('lm.decoder.hidden.0', x)
      for (const [i, { self, cross, feed: inner }] of decoder.blocks.entries()) {
        const layer = (x: Tensor): Tensor => {
          const [q, k, v] = projectAll(self.qkv, rmsNorm(x, self.norm, eps)) as [Columns, Columns, Columns]
          const all = cache ? cache.append(i, viewOf(k), viewOf(v)) : { k, v }
          const said = projectOnto(x, self.o, attention(q, all.k, all.v, { heads, causal: true, scale: 1, bias }))
          const asked = project(cross.q, rmsNorm(said, cross.norm, eps))
          const { k: keys, v: values } = source.layers[i]!
          const read = attention(asked, keys, values, { heads, keyMask: source.mask, scale: 1 })
          return feed(inner, projectOnto(said, cross.o, read))
        }
        x = runLayer(layer, x)
        if (i + 1 < decoder.blocks.length) observe?.(`lm.decoder.hidden.${i + 1}`, x)
      }
      const out = rmsNorm(x, decoder.last, eps)
      observe?.(`lm.decoder.hidden.${decoder.blocks.length}`, out)
      // Where the embedding is the output matrix too, it expects smaller states.
      return tied ? scale(out, d ** -0.5) : out
    },
    dispose(): void {
      biases.encoder.dispose()
      biases.decoder.dispose()
    },
  }
}
