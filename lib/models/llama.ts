/** LLaMA (Vicuna): pre-norm with RMSNorm, rotary positions, SwiGLU, no biases. */
import { project, projectOnto, type Linear } from '../nn/layers.js'
import { siluMul } from '../ops/elementwise.js'
import { rmsNorm } from '../ops/rmsnorm.js'
import { rope } from '../ops/rope.js'
import { reshape } from '../ops/views.js'
import type { Tensor } from '../tensor/tensor.js'
import type { LlamaConfig } from './config.js'
import { causal, countedPositions, type Context, type LanguageModel } from './language.js'
import { Finder, type Weights } from './weights.js'

interface Block {
  norm1: Tensor
  q: Linear
  k: Linear
  v: Linear
  o: Linear
  norm2: Tensor
  gate: Linear
  up: Linear
  down: Linear
}

export function llama(weights: Weights, config: LlamaConfig): LanguageModel {
  const at = new Finder(weights, 'language_model.')
  const blocks: Block[] = Array.from({ length: config.layers }, (_, i) => {
    const layer = at.at(`model.layers.${i}`)
    return {
      norm1: layer.get('input_layernorm.weight'),
      q: layer.linear('self_attn.q_proj'), k: layer.linear('self_attn.k_proj'), v: layer.linear('self_attn.v_proj'), o: layer.linear('self_attn.o_proj'),
      norm2: layer.get('post_attention_layernorm.weight'),
      gate: layer.linear('mlp.gate_proj'), up: layer.linear('mlp.up_proj'), down: layer.linear('mlp.down_proj'),
    }
  })
  const tokens = at.get('model.embed_tokens.weight')
  const last = at.get('model.norm.weight')

  const turned = (x: Tensor, heads: number, positions: Tensor): Tensor => {
    const [b, n, width] = x.shape as [number, number, number]
    return reshape(rope(reshape(x, [b, n, heads, width / heads]), positions, config.ropeTheta), [b, n, width])
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
        const q = turned(project(block.q, h), config.heads, context.positions)
        const k = turned(project(block.k, h), config.kvHeads, context.positions)
        x = projectOnto(x, block.o, causal(q, k, project(block.v, h), config.heads, config.kvHeads, i, context))
        const f = rmsNorm(x, block.norm2, config.eps)
        x = projectOnto(x, block.down, siluMul(project(block.gate, f), project(block.up, f)))
        if (i + 1 < blocks.length) context.observe?.(`lm.hidden.${i + 1}`, x)
      }
      const out = rmsNorm(x, last, config.eps)
      context.observe?.(`lm.hidden.${blocks.length}`, out)
      return out
    },
  }
}
