// The frozen image tower (EVA ViT-g form): pre-norm blocks, one qkv matrix, a class token, learned positions.
import { type NdArray, concat, repeat, reshape, slice } from './array.js'
import { type Tap, type Weights, dense, norm, sum, untapped, weight } from './blocks.js'
import type { VisionConfig } from './config.js'
import { attention, gelu, joinHeads, linear, patchify, splitHeads } from './ops.js'

/** pixels [N, 3, H, W] -> [N, 1 + patches, D_v], the final LayerNorm over every token included. */
export function vision(weights: Weights, config: VisionConfig, pixels: NdArray, tap: Tap = untapped): NdArray {
  const n = pixels.shape[0]!
  const { width: d, eps } = config
  const e = 'vision_model.embeddings'
  const patches = linear(
    patchify(pixels, config.patch),
    reshape(weight(weights, `${e}.patch_embedding.weight`), [d, -1]),
    weight(weights, `${e}.patch_embedding.bias`),
  )
  const tokens = concat([repeat(reshape(weight(weights, `${e}.class_embedding`), [1, d]), 0, n), patches], 1)
  const positions = reshape(weight(weights, `${e}.position_embedding`), [-1, d])
  let x = tap('vision.hidden.0', sum(tokens, repeat(positions, 0, n)))

  for (let i = 0; i < config.layers; i++) {
    const p = `vision_model.encoder.layers.${i}`
    const qkv = dense(weights, `${p}.self_attn.qkv`, norm(weights, `${p}.layer_norm1`, x, eps))
    const [q, k, v] = [0, 1, 2].map((j) => splitHeads(slice(qkv, 2, j * d, (j + 1) * d), config.heads)) as [
      NdArray,
      NdArray,
      NdArray,
    ]
    x = sum(x, dense(weights, `${p}.self_attn.projection`, joinHeads(attention(q, k, v))))
    const hidden = gelu(dense(weights, `${p}.mlp.fc1`, norm(weights, `${p}.layer_norm2`, x, eps)))
    x = tap(`vision.hidden.${i + 1}`, sum(x, dense(weights, `${p}.mlp.fc2`, hidden)))
  }
  return tap('vision.last_hidden_state', norm(weights, 'vision_model.post_layernorm', x, eps))
}
