/**
 * OPT: pre-norm with LayerNorm and biases, learned positions with two extra rows, ReLU, output tied to the embedding.
 */
import { z } from 'zod'
import { normalise, project, projectAll, projectOnto, type Linear, type Norm, type Pack } from '../nn/layers.js'
import type { Columns } from '../ops/columns.js'
import { add, relu } from '../ops/elementwise.js'
import { embedding } from '../ops/embedding.js'
import type { Precision } from '../tensor/dtype.js'
import { runLayer } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { causal, outputMatrix, type Context, type DecoderConfig, type Family, type CausalModel } from './decoder.js'
import { divides, firstTokenId, flag, section, size, supported, tokenId, word } from './fields.js'
import type { Finder } from './finder.js'

export interface OptConfig extends DecoderConfig {
  kind: 'opt'
  /** Row of the position table that position 0 uses. */
  positionOffset: 2
  eps: 1e-5
  tied: true
  activation: 'relu'
}

const Fields = z.looseObject({
  hidden_size: size(768),
  ffn_dim: size(3072),
  num_hidden_layers: size(12),
  num_attention_heads: size(12),
  max_position_embeddings: size(2048),
  vocab_size: size(50272),
  activation_function: word('relu'),
  word_embed_proj_dim: z.int().min(1).nullish(),
  do_layer_norm_before: flag(true),
  _remove_final_layer_norm: flag(false),
  enable_bias: flag(true),
  layer_norm_elementwise_affine: flag(true),
  tie_word_embeddings: flag(true),
  pad_token_id: tokenId(1),
  bos_token_id: tokenId(2),
  eos_token_id: firstTokenId(2),
})

const EMBEDDING = 'language_model.model.decoder.embed_tokens.weight'

export const OPT: Family<OptConfig> = {
  title: 'OPT',
  config,
  embedding: EMBEDDING,
  build,
  // A newline, as checkpoints say, and not the tokenizer's EOS.
  endsAnswers: 'config',
  describe: ({ heads }) => `${heads} heads, learned positions`,
}

function config(text: unknown, where: string): OptConfig {
  const o = section(Fields, text, where, 'text_config')
  const at = `${where}: text_config`
  supported(`${at}.activation_function`, o.activation_function, 'relu')
  supported(`${at}.do_layer_norm_before`, o.do_layer_norm_before, true)
  supported(`${at}.word_embed_proj_dim`, o.word_embed_proj_dim ?? o.hidden_size, o.hidden_size)
  supported(`${at}._remove_final_layer_norm`, o._remove_final_layer_norm, false)
  supported(`${at}.enable_bias`, o.enable_bias, true)
  supported(`${at}.layer_norm_elementwise_affine`, o.layer_norm_elementwise_affine, true)
  supported(`${at}.tie_word_embeddings`, o.tie_word_embeddings, true)
  divides(at, 'hidden_size', o.hidden_size, 'num_attention_heads', o.num_attention_heads)
  return {
    kind: 'opt',
    hiddenSize: o.hidden_size,
    mlpSize: o.ffn_dim,
    layers: o.num_hidden_layers,
    heads: o.num_attention_heads,
    maxPositions: o.max_position_embeddings,
    positionOffset: 2,
    vocabSize: o.vocab_size,
    eps: 1e-5,
    tied: true,
    padId: o.pad_token_id,
    bosId: o.bos_token_id,
    eosId: o.eos_token_id,
    activation: 'relu',
  }
}

interface Block {
  norm1: Norm
  qkv: Pack
  o: Linear
  norm2: Norm
  fc1: Linear
  fc2: Linear
}

function build(root: Finder, config: OptConfig): CausalModel {
  const { hiddenSize: d, mlpSize, heads, eps } = config
  const at = root.at('language_model.model.decoder')
  const tokens = root.get(EMBEDDING, [config.vocabSize, d], { rows: true })
  const positions = at.get('embed_positions.weight', [config.maxPositions + config.positionOffset, d])
  const blocks: Block[] = Array.from({ length: config.layers }, (_, i) => {
    const layer = at.at(`layers.${i}`)
    return {
      norm1: layer.norm('self_attn_layer_norm', d, eps),
      qkv: layer.pack('self_attn.qkv_proj', { 'self_attn.q_proj': d, 'self_attn.k_proj': d, 'self_attn.v_proj': d }, d),
      o: layer.linear('self_attn.out_proj', d, d),
      norm2: layer.norm('final_layer_norm', d, eps),
      fc1: layer.linear('fc1', mlpSize, d),
      fc2: layer.linear('fc2', d, mlpSize),
    }
  })
  const last = at.norm('final_layer_norm', d, eps)
  const head = outputMatrix(root, config, tokens)
  return {
    config,
    tokens,
    head,
    /** Rows of the position table: attended tokens read 2, 3, 4, …, padding row 1. */
    positions(mask, rows) {
      const n = mask.length / rows
      const out = new Int32Array(mask.length)
      for (let r = 0; r < rows; r++) {
        for (let i = 0, count: number = config.positionOffset; i < n; i++)
          out[r * n + i] = mask[r * n + i] ? count++ : config.positionOffset - 1
      }
      return out
    },
    forward(inputs: Tensor, context: Context): Tensor {
      let x = add(inputs, embedding(context.positions, positions, inputs.dtype as Precision))
      context.observe?.('lm.hidden.0', x)
      for (const [i, block] of blocks.entries()) {
        const layer = (x: Tensor): Tensor => {
          const h = normalise(block.norm1, x)
          const [q, k, v] = projectAll(block.qkv, h) as [Columns, Columns, Columns]
          const attended = projectOnto(x, block.o, causal(q, k, v, heads, heads, i, context))
          return projectOnto(attended, block.fc2, relu(project(block.fc1, normalise(block.norm2, attended))))
        }
        x = runLayer(layer, x, context.recompute)
        if (i + 1 < blocks.length) context.observe?.(`lm.hidden.${i + 1}`, x)
      }
      const out = normalise(last, x)
      context.observe?.(`lm.hidden.${blocks.length}`, out)
      return out
    },
  }
}
