/** ViT-g/14 as EVA-CLIP and BLIP-2 have it: pre-norm, class token, learned positions, exact GELU. */
import { normalise, project, projectGelu, projectOnto, type Linear, type Norm } from '../nn/layers.js'
import { attention } from '../ops/attention.js'
import { cast } from '../ops/copy.js'
import { add } from '../ops/elementwise.js'
import { linear } from '../ops/linear.js'
import { patchify } from '../ops/patchify.js'
import { concat, expand, reshape, split } from '../ops/views.js'
import type { Tensor } from '../tensor/tensor.js'
import type { VisionConfig } from '../checkpoint/config.js'
import { Finder, type Observe, type Weights } from './finder.js'

interface Block {
  norm1: Norm
  qkv: Linear
  projection: Linear
  norm2: Norm
  fc1: Linear
  fc2: Linear
}

export interface Vit {
  config: VisionConfig
  classToken: Tensor // [1,1,D]
  positions: Tensor // [1,1+patches,D]
  patches: Linear // weight [D,C,p,p]
  blocks: Block[]
  norm: Norm
}

export function vit(weights: Weights, config: VisionConfig): Vit {
  const at = new Finder(weights, 'vision_model.')
  return {
    config,
    classToken: at.get('embeddings.class_embedding'),
    positions: at.get('embeddings.position_embedding'),
    patches: at.linear('embeddings.patch_embedding'),
    blocks: Array.from({ length: config.layers }, (_, i) => {
      const layer = at.at(`encoder.layers.${i}`)
      return {
        norm1: layer.norm('layer_norm1', config.eps),
        qkv: layer.linear('self_attn.qkv'),
        projection: layer.linear('self_attn.projection'),
        norm2: layer.norm('layer_norm2', config.eps),
        fc1: layer.linear('mlp.fc1'),
        fc2: layer.linear('mlp.fc2'),
      }
    }),
    norm: at.norm('post_layernorm', config.eps),
  }
}

/** Pixels [B,3,S,S] float32, normalised, to E_v [B,K_V,D_v], the last LayerNorm included (5). */
export function vitForward(model: Vit, pixels: Tensor, observe?: Observe): Tensor {
  const { config } = model
  const rows = patchify(pixels, config.patchSize)
  const patches = linear(rows, reshape(model.patches.weight, [config.hiddenSize, -1]), model.patches.bias)
  const first = expand(cast(model.classToken, patches.dtype), [pixels.dim(0), 1, config.hiddenSize])
  let x = add(concat([first, patches], 1), cast(reshape(model.positions, [-1, config.hiddenSize]), patches.dtype))
  observe?.('vision.hidden.0', x)
  for (const [i, block] of model.blocks.entries()) {
    const [q, k, v] = split(
      project(block.qkv, normalise(block.norm1, x)),
      Array<number>(3).fill(config.hiddenSize),
      2,
    ) as [Tensor, Tensor, Tensor]
    x = projectOnto(x, block.projection, attention(q, k, v, { heads: config.heads, mode: 'off' }))
    x = projectOnto(x, block.fc2, projectGelu(block.fc1, normalise(block.norm2, x)))
    observe?.(`vision.hidden.${i + 1}`, x)
  }
  return normalise(model.norm, x)
}
