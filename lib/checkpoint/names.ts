/**
 * The tensors that a checkpoint must hold, by part, and how the names found in older, newer and otherwise saved files
 * map to theirs, which are those of the Hugging Face releases.
 */
import { sizeOf } from '../shape.js'
import type { Wanted } from '../models/finder.js'
import { wantedTensors, type ModelConfig } from '../models/image-model.js'

/** The parts of a model, by the first word of a tensor's name. */
const PART = {
  vision_model: 'vision',
  qformer: 'qformer',
  query_tokens: 'query',
  language_projection: 'projection',
  language_model: 'language',
} as const
export type Part = (typeof PART)[keyof typeof PART]
const PARTS: readonly Part[] = Object.values(PART)

export interface ExpectedTensor extends Wanted {
  part: Part
}

/** Every tensor of the model, in the order of the data flow: what its builders ask for. */
export const expectedTensors = (config: ModelConfig): ExpectedTensor[] =>
  wantedTensors(config).map((t) => ({ ...t, part: PART[t.name.split('.')[0] as keyof typeof PART] }))

export interface PartCount {
  part: Part
  tensors: number
  parameters: number
}

/** Tensors and parameters of each part; optional tensors are not counted. */
export function countParts(tensors: Iterable<{ part: Part; shape: readonly number[]; optional?: true }>): PartCount[] {
  const counts = new Map(PARTS.map((part) => [part, { part, tensors: 0, parameters: 0 }]))
  for (const { part, shape, optional } of tensors) {
    if (optional) continue
    const count = counts.get(part)!
    count.tensors++
    count.parameters += sizeOf(shape)
  }
  return [...counts.values()]
}

/** The meaning of a tensor name in a file. */
export type Resolved =
  | { kind: 'tensor'; name: string }
  /** One third of a fused bias: [q_bias, zeros, v_bias]. */
  | { kind: 'third'; name: string; third: 'q' | 'v' }
  | { kind: 'ignored' }
  | { kind: 'unexpected' }

/** The names of LAVIS, and those of the Hugging Face releases that stand for them. */
const LAVIS: [RegExp, string][] = [
  [/^visual_encoder\.cls_token$/, 'vision_model.embeddings.class_embedding'],
  [/^visual_encoder\.pos_embed$/, 'vision_model.embeddings.position_embedding'],
  [/^visual_encoder\.patch_embed\.proj\./, 'vision_model.embeddings.patch_embedding.'],
  [/^visual_encoder\.blocks\.(\d+)\.norm([12])\./, 'vision_model.encoder.layers.$1.layer_norm$2.'],
  [/^visual_encoder\.blocks\.(\d+)\.attn\.proj\./, 'vision_model.encoder.layers.$1.self_attn.projection.'],
  [/^visual_encoder\.blocks\.(\d+)\.attn\./, 'vision_model.encoder.layers.$1.self_attn.'],
  [/^visual_encoder\.blocks\.(\d+)\.mlp\./, 'vision_model.encoder.layers.$1.mlp.'],
  [/^ln_vision\./, 'vision_model.post_layernorm.'],
  [/^Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention)\.self\./, 'qformer.$1.attention.'],
  [/^Qformer\.bert\./, 'qformer.'],
  [/^(?:llm|opt|t5)_proj\./, 'language_projection.'],
  [/^(?:llm|opt|t5)_model\./, 'language_model.'],
]

/** Of a name of LAVIS that of the Hugging Face releases; others as they are. */
function fromLavis(name: string): string {
  const [pattern, standard] = LAVIS.find(([pattern]) => pattern.test(name)) ?? []
  return pattern ? name.replace(pattern, standard!) : name
}

/**
 * Of a name in a checkpoint with a text path in its Q-Former that of the tensor, if it belongs to the text path alone:
 * embeddings, which lie at the top where images are matched with texts, and feed-forwards.
 */
export function textName(stored: string): string | undefined {
  const name = fromLavis(stored.replace(/^model\./, '')).replace(/^embeddings\./, 'qformer.embeddings.')
  return TEXT.test(name) ? name : undefined
}
const TEXT = /^qformer\.(embeddings\.(word|position)_embeddings\.weight|encoder\.layer\.\d+\.(intermediate|output)\.)/

/** Buffers in old files, and heads for other tasks than generation. */
const IGNORED = [
  /(^|\.)position_ids$/,
  /\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$/,
  // T5's embedding under the names of its readers, and a table that old files hold and nothing reads.
  /^(language|t5)_model\.(encoder|decoder)\.embed_tokens\.weight$/,
  /\.EncDecAttention\.relative_attention_bias\.weight$/,
  /^temp$/,
  /^q_?former\.cls\./i,
  /^(vision_proj|text_proj|vision_projection|text_projection|itm_head)\./,
]

/**
 * What the name `stored` in a file stands for. `expected` is asked whether a name is one of the model's.
 *
 * Wrappers put `base_model.model.` or `model.` in front; a bare language model lacks its own `model.`; BERT once called
 * LayerNorm's weight and bias gamma and beta; adapters' wrappers insert `base_layer`; the earliest files split the
 * vision bias into q_bias and v_bias. LAVIS, where the models come from, has names of its own.
 */
export function resolveName(stored: string, expected: { has(name: string): boolean }): Resolved {
  const bare = stored.replace(/^base_model\.model\./, '').replace('.base_layer.', '.')
  for (const wrapped of new Set([stored, bare, bare.replace(/^model\./, '')])) {
    const unwrapped = fromLavis(wrapped)
    for (const name of spellings(unwrapped)) if (expected.has(name)) return { kind: 'tensor', name }
    const split = /^(.*\.self_attn)\.([qv])_bias$/.exec(unwrapped)
    if (split && expected.has(`${split[1]}.qkv.bias`))
      return { kind: 'third', name: `${split[1]}.qkv.bias`, third: split[2] as 'q' | 'v' }
    if (IGNORED.some((pattern) => pattern.test(wrapped))) return { kind: 'ignored' }
  }
  return { kind: 'unexpected' }
}

function spellings(name: string): string[] {
  const modern = name
    .replace(/\.gamma$/, '.weight')
    .replace(/\.beta$/, '.bias')
    .replace(/^qformer\.embeddings\.LayerNorm\./, 'qformer.embeddings.layernorm.')
  return [
    modern,
    // BLIP-2's Q-Former has no embedding of words, and the norm behind it stands alone; until it is given words.
    modern.replace(/^qformer\.embeddings\.layernorm\./, 'qformer.layernorm.'),
    modern.replace(/^qformer\.layernorm\./, 'qformer.embeddings.layernorm.'),
    modern.replace(/^language_model\.(?!model\.)/, 'language_model.model.'),
    modern.replace(/^lm_head\./, 'language_model.lm_head.'),
  ]
}
