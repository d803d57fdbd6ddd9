/** ViT-g/14 as EVA-CLIP and BLIP-2 have it: pre-norm, class token, learned positions, exact GELU. */
import { z } from 'zod'
import { normalise, project, projectGelu, projectOnto, type Linear, type Norm } from '../nn/layers.js'
import { attention } from '../ops/attention.js'
import { cast } from '../ops/copy.js'
import { add } from '../ops/elementwise.js'
import { linear } from '../ops/linear.js'
import { patchify } from '../ops/patchify.js'
import { concat, expand, reshape, split } from '../ops/views.js'
import { runLayer } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { divides, flag, positive, size, supported, word } from './fields.js'
import type { Finder, Observe } from './finder.js'

export interface VisionConfig {
  hiddenSize: number
  layers: number
  heads: number
  mlpSize: number
  patchSize: number
  imageSize: number
  eps: number
  qkvBias: boolean
  channels: 3
  /** Patches and the class token. */
  tokens: number
}

/** The vision_config of a config.json. */
export const VisionFields = z.looseObject({
  hidden_size: size(1408),
  num_hidden_layers: size(39),
  num_attention_heads: size(16),
  intermediate_size: size(6144),
  patch_size: size(14),
  image_size: size(224),
  layer_norm_eps: positive(1e-6),
  qkv_bias: flag(true),
  hidden_act: word('gelu'),
})

/** Complaints begin with `where`. */
export function visionConfig(v: z.output<typeof VisionFields>, where: string): VisionConfig {
  const at = `${where}: vision_config`
  supported(`${at}.hidden_act`, v.hidden_act, 'gelu')
  divides(at, 'hidden_size', v.hidden_size, 'num_attention_heads', v.num_attention_heads)
  divides(at, 'image_size', v.image_size, 'patch_size', v.patch_size)
  return {
    hiddenSize: v.hidden_size,
    layers: v.num_hidden_layers,
    heads: v.num_attention_heads,
    mlpSize: v.intermediate_size,
    patchSize: v.patch_size,
    imageSize: v.image_size,
    eps: v.layer_norm_eps,
    qkvBias: v.qkv_bias,
    channels: 3,
    tokens: (v.image_size / v.patch_size) ** 2 + 1,
  }
}

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

export function vit(root: Finder, config: VisionConfig): Vit {
  const at = root.at('vision_model')
  const { hiddenSize: d, mlpSize, channels, patchSize, tokens, eps } = config
  return {
    config,
    classToken: at.get('embeddings.class_embedding', [1, 1, d]),
    positions: at.get('embeddings.position_embedding', [1, tokens, d]),
    patches: {
      weight: at.get('embeddings.patch_embedding.weight', [d, channels, patchSize, patchSize]),
      bias: at.get('embeddings.patch_embedding.bias', [d]),
    },
    blocks: Array.from({ length: config.layers }, (_, i) => {
      const layer = at.at(`encoder.layers.${i}`)
      return {
        norm1: layer.norm('layer_norm1', d, eps),
        qkv: layer.linear('self_attn.qkv', 3 * d, d, { bias: config.qkvBias }),
        projection: layer.linear('self_attn.projection', d, d),
        norm2: layer.norm('layer_norm2', d, eps),
        fc1: layer.linear('mlp.fc1', mlpSize, d),
        fc2: layer.linear('mlp.fc2', d, mlpSize),
      }
    }),
    norm: at.norm('post_layernorm', d, eps),
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
    const layer = (x: Tensor): Tensor => {
      const [q, k, v] = split(
        project(block.qkv, normalise(block.norm1, x)),
        Array<number>(3).fill(config.hiddenSize),
        2,
      ) as [Tensor, Tensor, Tensor]
      const attended = projectOnto(x, block.projection, attention(q, k, v, { heads: config.heads, mode: 'off' }))
      return projectOnto(attended, block.fc2, projectGelu(block.fc1, normalise(block.norm2, attended)))
    }
    x = runLayer(layer, x)
    observe?.(`vision.hidden.${i + 1}`, x)
  }
  return normalise(model.norm, x)
}
