/**
 * Reads the config.json of a Hugging Face InstructBLIP or BLIP-2 folder into one normalised form. Hub files leave out
 * whatever equals the library's default, so every default is written down here. What this project cannot run is
 * refused.
 */
import { dirname, join } from 'node:path'
import { existsSync } from 'node:fs'
import { z } from 'zod'
import { InputError, invalid, show } from '../errors.js'
import { readJsonObject } from '../files/json.js'
import { checkWith } from '../files/schema.js'

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

export interface QFormerConfig {
  hiddenSize: number
  layers: number
  heads: number
  mlpSize: number
  eps: number
  maxPositions: number
  /** Layers m with m mod crossFrequency = 0 have cross-attention. */
  crossFrequency: number
  encoderHiddenSize: number
  vocabSize: number
  /** Whether text can be given to it; InstructBLIP's can, that of BLIP-2's generative checkpoints cannot. */
  hasText: boolean
}

export interface LlamaConfig {
  kind: 'llama'
  hiddenSize: number
  mlpSize: number
  layers: number
  heads: number
  kvHeads: number
  eps: number
  ropeTheta: number
  maxPositions: number
  vocabSize: number
  /** Whether the output matrix is the embedding. */
  tied: boolean
  padId: number | null
  bosId: number | null
  eosId: number | null
}

export interface OptConfig {
  kind: 'opt'
  hiddenSize: number
  mlpSize: number
  layers: number
  heads: number
  maxPositions: number
  /** Row of the position table that position 0 uses. */
  positionOffset: 2
  vocabSize: number
  eps: 1e-5
  tied: true
  padId: number | null
  bosId: number | null
  eosId: number | null
  activation: 'relu'
}

export type LanguageConfig = LlamaConfig | OptConfig

export interface ModelConfig {
  family: 'instructblip' | 'blip-2'
  numQueryTokens: number
  /** The tokens that stand for pictures and videos in the texts of newer checkpoints. */
  imageTokenId?: number
  videoTokenId?: number
  /** What config.json says the weights are stored in; the files know better. */
  dtype?: string
  vision: VisionConfig
  qformer: QFormerConfig
  language: LanguageConfig
}

export interface GenerationConfig {
  bosId?: number
  /** Any of these ends an answer. */
  eosIds?: number[]
  padId?: number
}

// ------------------------------------------------------------------------------------------------------------- schemas

const size = (standard: number) =>
  z
    .int()
    .min(1)
    .nullish()
    .transform((v) => v ?? standard)
const small = (standard: number) =>
  z
    .number()
    .positive()
    .nullish()
    .transform((v) => v ?? standard)
const flag = (standard: boolean) =>
  z
    .boolean()
    .nullish()
    .transform((v) => v ?? standard)
const word = (standard: string) =>
  z
    .string()
    .nullish()
    .transform((v) => v ?? standard)
const tokenId = (standard: number | null) =>
  z
    .int()
    .nullable()
    .optional()
    .transform((v) => (v === undefined ? standard : v))
const tokenIds = (standard: number | null) =>
  z
    .union([z.int(), z.array(z.int()).min(1), z.null()])
    .optional()
    .transform((v) => (v === undefined ? standard : Array.isArray(v) ? v[0]! : v))

const Vision = z.looseObject({
  hidden_size: size(1408),
  num_hidden_layers: size(39),
  num_attention_heads: size(16),
  intermediate_size: size(6144),
  patch_size: size(14),
  image_size: size(224),
  layer_norm_eps: small(1e-6),
  qkv_bias: flag(true),
  hidden_act: word('gelu'),
})

const QFormer = z.looseObject({
  hidden_size: size(768),
  num_hidden_layers: size(12),
  num_attention_heads: size(12),
  intermediate_size: size(3072),
  layer_norm_eps: small(1e-12),
  max_position_embeddings: size(512),
  cross_attention_frequency: size(2),
  encoder_hidden_size: z.int().min(1).nullish(),
  vocab_size: size(30522),
  hidden_act: word('gelu'),
  position_embedding_type: word('absolute'),
  use_qformer_text_input: flag(false),
})

const Rope = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
  partial_rotary_factor: z.number().optional(),
})

const Llama = z.looseObject({
  hidden_size: size(4096),
  intermediate_size: size(11008),
  num_hidden_layers: size(32),
  num_attention_heads: size(32),
  num_key_value_heads: z.int().min(1).nullish(),
  head_dim: z.int().min(1).nullish(),
  rms_norm_eps: small(1e-6),
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
  eos_token_id: tokenIds(2),
})

const Opt = z.looseObject({
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
  eos_token_id: tokenIds(2),
})

const Top = z.looseObject({
  model_type: z.enum(['instructblip', 'instructblipvideo', 'blip-2']),
  num_query_tokens: size(32),
  image_token_index: z.int().min(0).nullish(),
  image_token_id: z.int().min(0).nullish(),
  video_token_index: z.int().min(0).nullish(),
  video_token_id: z.int().min(0).nullish(),
  torch_dtype: z.string().nullish(),
  dtype: z.string().nullish(),
  vision_config: Vision.nullish(),
  qformer_config: QFormer.nullish(),
  text_config: z.looseObject({ model_type: z.string().optional() }).nullish(),
})

// ---------------------------------------------------------------------------------------------------------------- read

/** Reads `config.json`, or the one inside a folder, and the special ids of a generation_config.json beside it. */
export async function readModelConfig(path: string): Promise<ModelConfig> {
  const file = path.endsWith('.json') ? path : join(path, 'config.json')
  const config = parseModelConfig(await readJsonObject(file, 'a Hugging Face model folder has one'), file)
  const generation = await readGenerationConfig(dirname(file))
  const { language } = config
  if (language.padId === null && generation.padId !== undefined) language.padId = generation.padId
  if (language.bosId === null && generation.bosId !== undefined) language.bosId = generation.bosId
  if (language.eosId === null && generation.eosIds !== undefined) language.eosId = generation.eosIds[0]!
  return config
}

/** `where` is put in front of every complaint. */
export function parseModelConfig(json: unknown, where = 'config.json'): ModelConfig {
  const type = (json as { model_type?: unknown } | null)?.model_type
  if (type !== 'instructblip' && type !== 'instructblipvideo' && type !== 'blip-2') {
    throw invalid(
      `${where}: model_type`,
      'instructblip or blip-2',
      type,
      'instructblipvideo is read too; other model families are not supported',
    )
  }
  const top = checkWith(Top, json, where)
  // The video class of transformers has InstructBLIP's tensors under InstructBLIP's names.
  const family = type === 'blip-2' ? 'blip-2' : 'instructblip'
  const vision = visionOf(top.vision_config ?? Vision.parse({}), where)
  const qformer = qformerOf(top.qformer_config ?? QFormer.parse({}), family, vision, where)
  const language = languageOf(top.text_config ?? {}, where)
  const [image, video, dtype] = [
    top.image_token_index ?? top.image_token_id,
    top.video_token_index ?? top.video_token_id,
    top.torch_dtype ?? top.dtype,
  ]
  return {
    family,
    numQueryTokens: top.num_query_tokens,
    ...(image != null && { imageTokenId: image }),
    ...(video != null && { videoTokenId: video }),
    ...(dtype != null && { dtype }),
    vision,
    qformer,
    language,
  }
}

function visionOf(v: z.output<typeof Vision>, where: string): VisionConfig {
  supported(`${where}: vision_config.hidden_act`, v.hidden_act, 'gelu')
  divides(`${where}: vision_config`, 'hidden_size', v.hidden_size, 'num_attention_heads', v.num_attention_heads)
  divides(`${where}: vision_config`, 'image_size', v.image_size, 'patch_size', v.patch_size)
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

function qformerOf(
  q: z.output<typeof QFormer>,
  family: ModelConfig['family'],
  vision: VisionConfig,
  where: string,
): QFormerConfig {
  const at = `${where}: qformer_config`
  supported(`${at}.hidden_act`, q.hidden_act, 'gelu')
  supported(`${at}.position_embedding_type`, q.position_embedding_type, 'absolute')
  if (family === 'blip-2') supported(`${at}.use_qformer_text_input`, q.use_qformer_text_input, false)
  divides(at, 'hidden_size', q.hidden_size, 'num_attention_heads', q.num_attention_heads)
  if (q.encoder_hidden_size != null && q.encoder_hidden_size !== vision.hiddenSize) {
    throw invalid(`${at}.encoder_hidden_size`, `the vision width ${vision.hiddenSize}`, q.encoder_hidden_size)
  }
  return {
    hiddenSize: q.hidden_size,
    layers: q.num_hidden_layers,
    heads: q.num_attention_heads,
    mlpSize: q.intermediate_size,
    eps: q.layer_norm_eps,
    maxPositions: q.max_position_embeddings,
    crossFrequency: q.cross_attention_frequency,
    encoderHiddenSize: vision.hiddenSize,
    vocabSize: q.vocab_size,
    hasText: family === 'instructblip',
  }
}

/** A text_config without a model_type is OPT's, as in the library that writes these files. */
function languageOf(text: { model_type?: string | undefined }, where: string): LanguageConfig {
  const kind = text.model_type ?? 'opt'
  const at = `${where}: text_config`
  if (kind === 'llama')
    return llamaOf(checkWith(z.object({ text_config: Llama }), { text_config: text }, where).text_config, at)
  if (kind === 'opt')
    return optOf(checkWith(z.object({ text_config: Opt }), { text_config: text }, where).text_config, at)
  throw invalid(`${at}.model_type`, 'llama or opt', kind, `a ${kind} language model is not supported`)
}

function llamaOf(l: z.output<typeof Llama>, at: string): LlamaConfig {
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

function optOf(o: z.output<typeof Opt>, at: string): OptConfig {
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

const Generation = z.looseObject({
  bos_token_id: tokenId(null),
  eos_token_id: z.union([z.int(), z.array(z.int()).min(1), z.null()]).optional(),
  pad_token_id: tokenId(null),
})

/** Special ids from a folder's generation_config.json; empty where there is none. */
export async function readGenerationConfig(folder: string): Promise<GenerationConfig> {
  const file = join(folder, 'generation_config.json')
  if (!existsSync(file)) return {}
  const g = checkWith(Generation, await readJsonObject(file), file)
  return {
    ...(g.bos_token_id === null ? {} : { bosId: g.bos_token_id }),
    ...(g.eos_token_id == null ? {} : { eosIds: Array.isArray(g.eos_token_id) ? g.eos_token_id : [g.eos_token_id] }),
    ...(g.pad_token_id === null ? {} : { padId: g.pad_token_id }),
  }
}

function supported(name: string, actual: unknown, only: unknown): void {
  if (actual !== only)
    throw new InputError(`${name}: ${show(actual)} is not supported; this project runs ${show(only)} only.`)
}

function divides(at: string, name: string, whole: number, by: string, part: number): void {
  if (whole % part !== 0) throw invalid(`${at}.${name}`, `a multiple of ${by} (${part})`, whole)
}

/**
 * Linear layers that read one input, by the end of their names: where they can lie in one tensor, it has the name given
 * here, and one product does for all of them.
 */
export const PACKS: Readonly<Record<string, readonly string[]>> = {
  'self_attn.qkv_proj': ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  'mlp.gate_up_proj': ['mlp.gate_proj', 'mlp.up_proj'],
  'attention.attention.query_key_value': [
    'attention.attention.query',
    'attention.attention.key',
    'attention.attention.value',
  ],
  'crossattention.attention.key_value': ['crossattention.attention.key', 'crossattention.attention.value'],
}
