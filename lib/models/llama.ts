/** LLaMA (Vicuna): pre-norm with RMSNorm, rotary positions, SwiGLU, no biases. */
import { projectAll, projectOnto, type Linear, type Pack } from '../nn/layers.js'
import { columnsOf, type Columns } from '../ops/columns.js'

import { rmsNorm } from '../ops/rmsnorm.js'
import { rope } from '../ops/rope.js'
import { siluMul } from '../ops/silu-mul.js'
import { reshape } from '../ops/views.js'
import type { Tensor } from '../tensor/tensor.js'
import type { LlamaConfig } from '../checkpoint/config.js'
import { causal, countedPositions, type Context, type LanguageModel } from './decoder.js'
import { Finder, type Weights } from './finder.js'

interface Block {
  norm1: Tensor
  qkv: Pack
  o: Linear
  norm2: Tensor
  gateUp: Pack
  down: Linear
}

export function llama(weights: Weights, config: LlamaConfig): LanguageModel {
  const at = new Finder(weights, 'language_model.')
  const blocks: Block[] = Array.from({ length: config.layers }, (_, i) => {
    const layer = at.at(`model.layers.${i}`)
    return {
      norm1: layer.get('input_layernorm.weight'),
      qkv: layer.pack('self_attn.qkv_proj'),
      o: layer.linear('self_attn.o_proj'),
      norm2: layer.get('post_attention_layernorm.weight'),
      gateUp: layer.pack('mlp.gate_up_proj'),
      down: layer.linear('mlp.down_proj'),
    }
  })
  const tokens = at.get('model.embed_tokens.weight')
  const last = at.get('model.norm.weight')

  const width = config.hiddenSize / config.heads
  /** The first `turned` heads of x [B,n,heads·width] by their positions. */
  const turn = (x: Tensor, turned: number, positions: Tensor): Tensor => {
    const [b, n, all] = x.shape as [number, number, number]
    return reshape(rope(reshape(x, [b, n, all / width, width]), positions, config.ropeTheta, turned), [b, n, all])
  }
  /** Queries and keys by their positions; those of one tensor in one pass, which copies what stands behind them. */
  const turned = ([q, k, v]: [Columns, Columns, Columns], positions: Tensor): [Columns, Columns, Columns] => {
    const { heads, kvHeads } = config
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
    head: at.has('lm_head.weight') ? at.get('lm_head.weight') : tokens,
    positions: countedPositions,
    forward(x: Tensor, context: Context): Tensor {
      context.observe?.('lm.hidden.0', x)
      for (const [i, block] of blocks.entries()) {
        const h = rmsNorm(x, block.norm1, config.eps)
        const [q, k, v] = turned(projectAll(block.qkv, h) as [Columns, Columns, Columns], context.positions)
        x = projectOnto(x, block.o, causal(q, k, v, config.heads, config.kvHeads, i, context))
        const f = rmsNorm(x, block.norm2, config.eps)
        const [gate, up] = projectAll(block.gateUp, f) as [Columns, Columns]
        x = projectOnto(x, block.down, siluMul(gate, up))
        if (i + 1 < blocks.length) context.observe?.(`lm.hidden.${i + 1}`, x)
      }
      const out = rmsNorm(x, last, config.eps)
      context.observe?.(`lm.hidden.${blocks.length}`, out)
      return out
    },
  }
}
