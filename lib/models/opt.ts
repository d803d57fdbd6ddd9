/**
 * OPT: pre-norm with LayerNorm and biases, learned positions with two extra rows, ReLU, output tied to the embedding.
 */
import { normalise, project, projectAll, projectOnto, type Linear, type Norm, type Pack } from '../nn/layers.js'
import type { Columns } from '../ops/columns.js'
import { add, relu } from '../ops/elementwise.js'
import { embedding } from '../ops/embedding.js'
import type { Precision } from '../tensor/dtype.js'
import type { Tensor } from '../tensor/tensor.js'
import type { OptConfig } from '../checkpoint/config.js'
import { causal, type Context, type LanguageModel } from './decoder.js'
import { Finder, type Weights } from './finder.js'

interface Block {
  norm1: Norm
  qkv: Pack
  o: Linear
  norm2: Norm
  fc1: Linear
  fc2: Linear
}

export function opt(weights: Weights, config: OptConfig): LanguageModel {
  const at = new Finder(weights, 'language_model.model.decoder.')
  const blocks: Block[] = Array.from({ length: config.layers }, (_, i) => {
    const layer = at.at(`layers.${i}`)
    return {
      norm1: layer.norm('self_attn_layer_norm', config.eps),
      qkv: layer.pack('self_attn.qkv_proj'),
      o: layer.linear('self_attn.out_proj'),
      norm2: layer.norm('final_layer_norm', config.eps),
      fc1: layer.linear('fc1'),
      fc2: layer.linear('fc2'),
    }
  })
  const tokens = at.get('embed_tokens.weight')
  const places = at.get('embed_positions.weight')
  const last = at.norm('final_layer_norm', config.eps)
  const head = new Finder(weights, 'language_model.')
  return {
    config,
    tokens,
    head: head.has('lm_head.weight') ? head.get('lm_head.weight') : tokens,
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
      let x = add(inputs, embedding(context.positions, places, inputs.dtype as Precision))
      context.observe?.('lm.hidden.0', x)
      for (const [i, block] of blocks.entries()) {
        const h = normalise(block.norm1, x)
        const [q, k, v] = projectAll(block.qkv, h) as [Columns, Columns, Columns]
        x = projectOnto(x, block.o, causal(q, k, v, config.heads, config.heads, i, context))
        x = projectOnto(x, block.fc2, relu(project(block.fc1, normalise(block.norm2, x))))
        if (i + 1 < blocks.length) context.observe?.(`lm.hidden.${i + 1}`, x)
      }
      const out = normalise(last, x)
      context.observe?.(`lm.hidden.${blocks.length}`, out)
      return out
    },
  }
}
