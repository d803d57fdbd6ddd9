/** LLaMA (Vicuna): pre-norm with RMSNorm, rotary positions, SwiGLU, no biases. */
import { z } from 'zod'
import { invalid } from '../errors.js'
import { projectAll, projectOnto, type Linear, type Pack } from '../nn/layers.js'
import { columnsOf, type Columns } from '../ops/columns.js'
import { rmsNorm } from '../ops/rmsnorm.js'
import { rope } from '../ops/rope.js'
import { siluMul } from '../ops/silu-mul.js'
import { reshape } from '../ops/views.js'
import { runLayer } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import {
  causal,
  countedPositions,
  outputMatrix,
  type Context,
  type DecoderConfig,
  type Family,
  type CausalModel,
} from './decoder.js'
import { divides, firstTokenId, flag, positive, section, size, supported, tokenId, word } from './fields.js'
import type { Finder } from './finder.js'

export interface LlamaConfig extends DecoderConfig {
  kind: 'llama'
  kvHeads: number
  ropeTheta: number
}

const Rope = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  partial_rotary_factor: z.number().optional(),
})

const Fields = z.looseObject({
  hidden_size: size(4096),
  intermediate_size: size(11008),
  num_hidden_layers: size(32),
  num_attention_heads: size(32),
  num_key_value_heads: z.int().min(1).nullish(),
  head_dim: z.int().min(1).nullish(),
  rms_norm_eps: positive(1e-6),
  rope_theta: z.number().positive().nullish(),
  rope_parameters: Rope.nullish(),
  rope_scaling: Rope.nullish(),
  max_position_embeddings: z.int().min(1).nullish(),
  max_sequence_length: z.int().min(1).nullish(),
  vocab_size: size(32000),
  tie_word_embeddings: flag(false),
  hidden_act: word('silu'),
  attention_bias: flag(false),
  mlp_bias: flag(false),
  pad_token_id: tokenId(null),
  bos_token_id: tokenId(1),
  eos_token_id: firstTokenId(2),
})

const EMBEDDING = 'language_model.model.embed_tokens.weight'

export const LLAMA: Family<LlamaConfig> = {
  title: 'LLaMA',
  config,
  embedding: EMBEDDING,
  build,
  // config.json has been wrong on the hub (pad 0, bos 1).
  endsAnswers: 'tokenizer',
  describe: ({ heads, kvHeads, ropeTheta }) =>
    `${heads} heads${kvHeads === heads ? '' : ` (${kvHeads} for keys and values)`}, RoPE theta ${ropeTheta}`,
}

function config(text: unknown, where: string): LlamaConfig {
  const l = section(Fields, text, where, 'text_config')
  const at = `${where}: text_config`
  supported(`${at}.hidden_act`, l.hidden_act, 'silu')
  supported(`${at}.attention_bias`, l.attention_bias, false)
  supported(`${at}.mlp_bias`, l.mlp_bias, false)
  divides(at, 'hidden_size', l.hidden_size, 'num_attention_heads', l.num_attention_heads)
  const kvHeads = l.num_key_value_heads ?? l.num_attention_heads
  divides(at, 'num_attention_heads', l.num_attention_heads, 'num_key_value_heads', kvHeads)
  const width = l.hidden_size / l.num_attention_heads
  if (l.head_dim != null) supported(`${at}.head_dim`, l.head_dim, width)
  if (width % 2 !== 0)
    throw invalid(`${at}.hidden_size / num_attention_heads`, 'an even head width (rotary positions turn pairs)', width)
  for (const key of ['rope_scaling', 'rope_parameters'] as const) {
    const rope = l[key]
    if (!rope) continue
    supported(
      `${at}.${key}.rope_type`,
      rope.rope_type ?? rope.type ?? (key === 'rope_parameters' ? 'default' : undefined),
      'default',
    )
    supported(`${at}.${key}.partial_rotary_factor`, rope.partial_rotary_factor ?? 1, 1)
  }
  return {
    kind: 'llama',
    hiddenSize: l.hidden_size,
    mlpSize: l.intermediate_size,
    layers: l.num_hidden_layers,
    heads: l.num_attention_heads,
    kvHeads,
    eps: l.rms_norm_eps,
    ropeTheta: l.rope_theta ?? l.rope_parameters?.rope_theta ?? l.rope_scaling?.rope_theta ?? 10000,
    maxPositions: l.max_position_embeddings ?? l.max_sequence_length ?? 2048,
    vocabSize: l.vocab_size,
    tied: l.tie_word_embeddings,
    padId: l.pad_token_id,
    bosId: l.bos_token_id,
    eosId: l.eos_token_id,
  }
}

interface Block {
  norm1: Tensor
  qkv: Pack
  o: Linear
  norm2: Tensor
  gateUp: Pack
  down: Linear
}

function build(root: Finder, config: LlamaConfig): CausalModel {
  const { hiddenSize: d, mlpSize, heads, kvHeads } = config
  const at = root.at('language_model.model')
  const kv = (d / heads) * kvHeads
  const bias = { bias: false }
  const tokens = root.get(EMBEDDING, [config.vocabSize, d], { rows: true })
  const blocks: Block[] = Array.from({ length: config.layers }, (_, i) => {
    const layer = at.at(`layers.${i}`)
    return {
      norm1: layer.get('input_layernorm.weight', [d]),
      qkv: layer.pack(
        'self_attn.qkv_proj',
        { 'self_attn.q_proj': d, 'self_attn.k_proj': kv, 'self_attn.v_proj': kv },
        d,
        bias,
      ),
      o: layer.linear('self_attn.o_proj', d, d, bias),
      norm2: layer.get('post_attention_layernorm.weight', [d]),
      gateUp: layer.pack('mlp.gate_up_proj', { 'mlp.gate_proj': mlpSize, 'mlp.up_proj': mlpSize }, d, bias),
      down: layer.linear('mlp.down_proj', d, mlpSize, bias),
    }
  })
  const last = at.get('norm.weight', [d])
  const head = outputMatrix(root, config, tokens)

  const width = d / heads
  /** The first `turned` heads of x [B,n,heads·width] by their positions. */
  const turn = (x: Tensor, turned: number, positions: Tensor): Tensor => {
    const [b, n, all] = x.shape as [number, number, number]
    return reshape(rope(reshape(x, [b, n, all / width, width]), positions, config.ropeTheta, turned), [b, n, all])
  }
  /** Queries and keys by their positions; those of one tensor in one pass, which copies what stands behind them. */
  const turned = ([q, k, v]: [Columns, Columns, Columns], positions: Tensor): [Columns, Columns, Columns] => {
    if (q.of !== k.of) return [columnsOf(turn(q.of, heads, positions)), columnsOf(turn(k.of, kvHeads, positions)), v]
    const of = turn(q.of, heads + kvHeads, positions)
    return [
      { ...q, of },
      { ...k, of },
      { ...v, of },
    ]
  }
  return {
    config,
    tokens,
    head,
    positions: countedPositions,
    forward(x: Tensor, context: Context): Tensor {
      context.observe?.('lm.hidden.0', x)
      for (const [i, block] of blocks.entries()) {
        const layer = (x: Tensor): Tensor => {
          const h = rmsNorm(x, block.norm1, config.eps)
          const [q, k, v] = turned(projectAll(block.qkv, h) as [Columns, Columns, Columns], context.positions)
          const attended = projectOnto(x, block.o, causal(q, k, v, heads, kvHeads, i, context))
          const f = rmsNorm(attended, block.norm2, config.eps)
          const [gate, up] = projectAll(block.gateUp, f) as [Columns, Columns]
          return projectOnto(attended, block.down, siluMul(gate, up))
        }
        x = runLayer(layer, x, context.recompute)
        if (i + 1 < blocks.length) context.observe?.(`lm.hidden.${i + 1}`, x)
      }
      const out = rmsNorm(x, last, config.eps)
      context.observe?.(`lm.hidden.${blocks.length}`, out)
      return out
    },
  }
}
