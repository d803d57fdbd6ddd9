// What a checkpoint's config.json and an adapter's configuration say, with the defaults of what they leave out.
import type { DarMode } from './attention.js'

export type Json = { readonly [key: string]: any }

export interface VisionConfig {
  width: number
  layers: number
  heads: number
  patch: number
  image: number
  eps: number
}
export interface QFormerConfig {
  width: number
  layers: number
  heads: number
  eps: number
  crossEvery: number
  visionWidth: number
  text: boolean
}
export interface LanguageConfig {
  family: 'llama' | 'opt' | 't5'
  width: number
  layers: number
  heads: number
  keyHeads: number
  eps: number
  theta: number
  /** Of T5 alone. */
  t5?: {
    decoderLayers: number
    buckets: number
    maxDistance: number
    /** The exact GELU, not the one by tanh. */
    exact: boolean
    start: number
    pad: number
  }
}
export interface ModelConfig {
  queries: number
  vision: VisionConfig
  qformer: QFormerConfig
  language: LanguageConfig
}

/** A config.json of InstructBLIP or BLIP-2; what it omits is what Hugging Face's classes default to. */
export function modelConfig(json: Json): ModelConfig {
  const v: Json = json['vision_config'] ?? {}
  const q: Json = json['qformer_config'] ?? {}
  const t: Json = json['text_config'] ?? {}
  const family = t['model_type']
  if (family !== 'llama' && family !== 'opt' && family !== 't5')
    throw new Error(`the oracle knows llama, opt and t5, not ${family}`)
  const heads = t['num_attention_heads'] ?? (family === 'llama' ? 32 : 12)
  return {
    queries: json['num_query_tokens'] ?? 32,
    vision: {
      width: v['hidden_size'] ?? 1408,
      layers: v['num_hidden_layers'] ?? 39,
      heads: v['num_attention_heads'] ?? 16,
      patch: v['patch_size'] ?? 14,
      image: v['image_size'] ?? 224,
      eps: v['layer_norm_eps'] ?? 1e-6,
    },
    qformer: {
      width: q['hidden_size'] ?? 768,
      layers: q['num_hidden_layers'] ?? 12,
      heads: q['num_attention_heads'] ?? 12,
      eps: q['layer_norm_eps'] ?? 1e-12,
      crossEvery: q['cross_attention_frequency'] ?? 2,
      visionWidth: q['encoder_hidden_size'] ?? 1408,
      text: json['model_type'] === 'instructblip',
    },
    language:
      family === 't5'
        ? t5Config(t)
        : {
            family,
            heads,
            keyHeads: t['num_key_value_heads'] ?? heads,
            width: t['hidden_size'] ?? (family === 'llama' ? 4096 : 768),
            layers: t['num_hidden_layers'] ?? (family === 'llama' ? 32 : 12),
            eps: family === 'llama' ? (t['rms_norm_eps'] ?? 1e-6) : 1e-5,
            theta: t['rope_theta'] ?? t['rope_parameters']?.['rope_theta'] ?? 10000,
          },
  }
}

function t5Config(t: Json): LanguageConfig {
  const layers = t['num_layers'] ?? 6
  const heads = t['num_heads'] ?? 8
  return {
    family: 't5',
    heads,
    keyHeads: heads,
    width: t['d_model'] ?? 512,
    layers,
    eps: t['layer_norm_epsilon'] ?? 1e-6,
    theta: 0,
    t5: {
      decoderLayers: t['num_decoder_layers'] ?? layers,
      buckets: t['relative_attention_num_buckets'] ?? 32,
      maxDistance: t['relative_attention_max_distance'] ?? 128,
      exact: t['dense_act_fn'] === 'gelu',
      start: t['decoder_start_token_id'] ?? 0,
      pad: t['pad_token_id'] ?? 0,
    },
  }
}

export interface AdapterConfig {
  fusion: boolean
  aggregate: 'mean' | 'concat'
  attention: 'factorized' | 'joint' | 'none'
  residual: 'reuse' | 'gated'
  weights: 'reuse' | 'fresh'
  mode: DarMode
  choices: number
  routerHidden: number
  spatialMasks: 'window' | 'modality'
  spatialWindows: readonly number[]
  temporalWindows: readonly number[]
  rank: number
  alpha: number
  maxFrames: number
}

/** The `config` of a golden mtrans case: the configuration keys in snake case, defaults where a key is missing. */
export function adapterConfig(json: Json): AdapterConfig {
  const temporal: Json = json['temporal'] ?? {}
  const dar: Json = json['dar'] ?? {}
  const lora: Json = json['lora'] ?? {}
  const config: AdapterConfig = {
    fusion: json['fusion'] ?? true,
    aggregate: json['aggregate'] ?? 'mean',
    attention: temporal['attention'] ?? 'factorized',
    residual: temporal['residual'] ?? 'reuse',
    weights: temporal['weights'] ?? 'reuse',
    mode: dar['mode'] ?? 'attention',
    choices: dar['choices'] ?? 4,
    routerHidden: dar['router_hidden'] ?? 64,
    spatialMasks: dar['spatial_masks'] ?? 'window',
    spatialWindows: dar['spatial_windows'] ?? [16, 8, 4],
    temporalWindows: dar['temporal_windows'] ?? [2, 1, 0],
    rank: lora['r'] ?? 16,
    alpha: lora['alpha'] ?? 16,
    maxFrames: json['t_max'] ?? 64,
  }
  if (config.attention === 'joint' && config.mode !== 'off')
    throw new Error('joint attention has no routers: dar.mode must be off')
  return config
}
