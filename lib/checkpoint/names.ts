/**
 * The tensors that a checkpoint of each family must hold, in the names of the Hugging Face releases, and how the names
 * found in older, newer and otherwise saved files map to these.
 */
import type { LanguageConfig, ModelConfig, QFormerConfig, VisionConfig } from './config.js'

export type Part = 'vision' | 'qformer' | 'query' | 'projection' | 'language'
export const PARTS: readonly Part[] = ['vision', 'qformer', 'query', 'projection', 'language']

export interface ExpectedTensor {
  name: string
  shape: number[]
  part: Part
  /** May be absent: the output matrix where it is tied to the embedding. */
  optional?: true
  /** Its number of rows is a vocabulary's and is taken from the file, whatever the config says. */
  rows?: true
}

/** What a file's tensor name stands for. */
export type Resolved =
  | { kind: 'tensor'; name: string }
  /** One third of a fused bias: [q_bias, zeros, v_bias]. */
  | { kind: 'third'; name: string; third: 'q' | 'v' }
  | { kind: 'ignored' }
  | { kind: 'unexpected' }

// --------------------------------------------------------------------------------------------------------------- table

/** Every tensor of the model, in the order of the data flow. */
export function expectedTensors(config: ModelConfig): ExpectedTensor[] {
  const { vision, qformer, language } = config
  return [
    ...of('vision', visionTensors(vision)),
    ...of('query', [t('query_tokens', 1, config.numQueryTokens, qformer.hiddenSize)]),
    ...of('qformer', qformerTensors(qformer)),
    ...of('projection', dense('language_projection', language.hiddenSize, qformer.hiddenSize)),
    ...of('language', language.kind === 'llama' ? llamaTensors(language) : optTensors(language)),
  ]
}

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
    count.parameters += shape.reduce((a, b) => a * b, 1)
  }
  return [...counts.values()]
}

type Row = Omit<ExpectedTensor, 'part'>

const of = (part: Part, rows: Row[]): ExpectedTensor[] => rows.map((row) => ({ ...row, part }))
const t = (name: string, ...shape: number[]): Row => ({ name, shape })
const dense = (name: string, out: number, into: number): Row[] => [
  t(`${name}.weight`, out, into),
  t(`${name}.bias`, out),
]
const norm = (name: string, width: number): Row[] => [t(`${name}.weight`, width), t(`${name}.bias`, width)]
const layers = (n: number, make: (i: number) => Row[]): Row[] => Array.from({ length: n }, (_, i) => make(i)).flat()

function visionTensors(v: VisionConfig): Row[] {
  const d = v.hiddenSize
  return [
    t('vision_model.embeddings.class_embedding', 1, 1, d),
    t('vision_model.embeddings.position_embedding', 1, v.tokens, d),
    t('vision_model.embeddings.patch_embedding.weight', d, v.channels, v.patchSize, v.patchSize),
    t('vision_model.embeddings.patch_embedding.bias', d),
    ...layers(v.layers, (i) => {
      const at = `vision_model.encoder.layers.${i}`
      return [
        ...norm(`${at}.layer_norm1`, d),
        t(`${at}.self_attn.qkv.weight`, 3 * d, d),
        ...(v.qkvBias ? [t(`${at}.self_attn.qkv.bias`, 3 * d)] : []),
        ...dense(`${at}.self_attn.projection`, d, d),
        ...norm(`${at}.layer_norm2`, d),
        ...dense(`${at}.mlp.fc1`, v.mlpSize, d),
        ...dense(`${at}.mlp.fc2`, d, v.mlpSize),
      ]
    }),
    ...norm('vision_model.post_layernorm', d),
  ]
}

function qformerTensors(q: QFormerConfig): Row[] {
  const d = q.hiddenSize
  const attention = (at: string, into: number): Row[] => [
    ...dense(`${at}.attention.query`, d, d),
    ...dense(`${at}.attention.key`, d, into),
    ...dense(`${at}.attention.value`, d, into),
    ...dense(`${at}.output.dense`, d, d),
    ...norm(`${at}.output.LayerNorm`, d),
  ]
  const feedForward = (at: string, suffix: string): Row[] => [
    ...dense(`${at}.intermediate${suffix}.dense`, q.mlpSize, d),
    ...dense(`${at}.output${suffix}.dense`, d, q.mlpSize),
    ...norm(`${at}.output${suffix}.LayerNorm`, d),
  ]
  return [
    ...(q.hasText
      ? [
          { ...t('qformer.embeddings.word_embeddings.weight', q.vocabSize, d), rows: true as const },
          t('qformer.embeddings.position_embeddings.weight', q.maxPositions, d),
          ...norm('qformer.embeddings.layernorm', d),
        ]
      : norm('qformer.layernorm', d)),
    ...layers(q.layers, (i) => {
      const at = `qformer.encoder.layer.${i}`
      return [
        ...attention(`${at}.attention`, d),
        ...(i % q.crossFrequency === 0 ? attention(`${at}.crossattention`, q.encoderHiddenSize) : []),
        ...(q.hasText ? feedForward(at, '') : []),
        ...feedForward(at, '_query'),
      ]
    }),
  ]
}

function llamaTensors(l: LanguageConfig & { kind: 'llama' }): Row[] {
  const d = l.hiddenSize
  const kv = (d / l.heads) * l.kvHeads
  return [
    { ...t('language_model.model.embed_tokens.weight', l.vocabSize, d), rows: true },
    ...layers(l.layers, (i) => {
      const at = `language_model.model.layers.${i}`
      return [
        t(`${at}.input_layernorm.weight`, d),
        t(`${at}.self_attn.q_proj.weight`, d, d),
        t(`${at}.self_attn.k_proj.weight`, kv, d),
        t(`${at}.self_attn.v_proj.weight`, kv, d),
        t(`${at}.self_attn.o_proj.weight`, d, d),
        t(`${at}.post_attention_layernorm.weight`, d),
        t(`${at}.mlp.gate_proj.weight`, l.mlpSize, d),
        t(`${at}.mlp.up_proj.weight`, l.mlpSize, d),
        t(`${at}.mlp.down_proj.weight`, d, l.mlpSize),
      ]
    }),
    t('language_model.model.norm.weight', d),
    { ...t(HEAD, l.vocabSize, d), rows: true, ...(l.tied ? { optional: true } : {}) },
  ]
}

function optTensors(o: LanguageConfig & { kind: 'opt' }): Row[] {
  const d = o.hiddenSize
  return [
    { ...t('language_model.model.decoder.embed_tokens.weight', o.vocabSize, d), rows: true },
    t('language_model.model.decoder.embed_positions.weight', o.maxPositions + o.positionOffset, d),
    ...layers(o.layers, (i) => {
      const at = `language_model.model.decoder.layers.${i}`
      return [
        ...norm(`${at}.self_attn_layer_norm`, d),
        ...['q_proj', 'k_proj', 'v_proj', 'out_proj'].flatMap((name) => dense(`${at}.self_attn.${name}`, d, d)),
        ...norm(`${at}.final_layer_norm`, d),
        ...dense(`${at}.fc1`, o.mlpSize, d),
        ...dense(`${at}.fc2`, d, o.mlpSize),
      ]
    }),
    ...norm('language_model.model.decoder.final_layer_norm', d),
    { ...t(HEAD, o.vocabSize, d), rows: true, optional: true },
  ]
}

/** The language model's output matrix. */
export const HEAD = 'language_model.lm_head.weight'

/** The language model's embedding, by the kind of the model. */
export function embeddingName(kind: LanguageConfig['kind']): string {
  return kind === 'llama'
    ? 'language_model.model.embed_tokens.weight'
    : 'language_model.model.decoder.embed_tokens.weight'
}

// ------------------------------------------------------------------------------------------------------------- aliases

/** Buffers that old files carry, and heads that serve other tasks than generation. */
const IGNORED = [
  /(^|\.)position_ids$/,
  /\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$/,
  /^temp$/,
  /^q_?former\.cls\./i,
  /^(vision_proj|text_proj|vision_projection|text_projection|itm_head)\./,
]

/**
 * What the name `stored` in a file stands for. `expected` is asked whether a name is one of the model's.
 *
 * Wrappers put `base_model.model.` or `model.` in front; a bare language model lacks its own `model.`; BERT once called
 * LayerNorm's weight and bias gamma and beta; adapters' wrappers insert `base_layer`; the earliest files split the
 * vision bias into q_bias and v_bias.
 */
export function resolveName(stored: string, expected: { has(name: string): boolean }): Resolved {
  const bare = stored.replace(/^base_model\.model\./, '').replace('.base_layer.', '.')
  for (const unwrapped of new Set([stored, bare, bare.replace(/^model\./, '')])) {
    for (const name of spellings(unwrapped)) if (expected.has(name)) return { kind: 'tensor', name }
    const split = /^(.*\.self_attn)\.([qv])_bias$/.exec(unwrapped)
    if (split && expected.has(`${split[1]}.qkv.bias`))
      return { kind: 'third', name: `${split[1]}.qkv.bias`, third: split[2] as 'q' | 'v' }
    if (IGNORED.some((pattern) => pattern.test(unwrapped))) return { kind: 'ignored' }
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
    modern.replace(/^language_model\.(?!model\.)/, 'language_model.model.'),
    modern.replace(/^lm_head\./, 'language_model.lm_head.'),
  ]
}
