// A tiny checkpoint, inputs and trained parameters by seed, so that the whole model can be tested without files.
// Every number is exactly a float32. The sizes are awkward on purpose: odd head widths, odd token counts, nothing a
// power of two.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type NdArray, array, map } from './array.js'
import { type AdapterConfig, type Json, modelConfig } from './config.js'
import type { Batch } from './model.js'
import { trainedShapes } from './qformer.js'
import { type Random, random } from './random.js'
import { writeSafetensors } from './safetensors.js'

export type TinyKind = 'instructblip' | 'blip2' | 'instructblip-t5' | 'blip2-t5'

export interface Tiny {
  /** As config.json would hold it. */
  config: Json
  /** Under the names of Hugging Face. */
  tensors: Map<string, NdArray>
}

const qformerWords = 61
const words = 97

/** InstructBLIP over LLaMA, BLIP-2 over OPT, or either over T5. */
export function tinyCheckpoint(kind: TinyKind, seed: number): Tiny {
  const config = tinyConfig(kind)
  const rng = random(seed)
  const tensors = new Map<string, NdArray>()
  for (const [name, shape] of tinyShapes(config)) tensors.set(name, draw(rng, name, shape))
  // Keys of the image tower have no bias: the middle third of the qkv bias is zero.
  const d = config['vision_config'].hidden_size as number
  for (const [name, tensor] of tensors) if (name.endsWith('qkv.bias')) tensor.data.fill(0, d, 2 * d)
  return { config, tensors }
}

function tinyConfig(kind: TinyKind): Json {
  const instruct = kind.startsWith('instructblip')
  return {
    architectures: [instruct ? 'InstructBlipForConditionalGeneration' : 'Blip2ForConditionalGeneration'],
    model_type: instruct ? 'instructblip' : 'blip-2',
    num_query_tokens: 5,
    use_decoder_only_language_model: !kind.endsWith('t5'),
    torch_dtype: 'float32',
    vision_config: {
      model_type: instruct ? 'instructblip_vision_model' : 'blip_2_vision_model',
      hidden_size: 33,
      intermediate_size: 50,
      num_hidden_layers: 2,
      num_attention_heads: 3,
      patch_size: 7,
      image_size: 21,
      layer_norm_eps: 1e-6,
      hidden_act: 'gelu',
      qkv_bias: true,
    },
    qformer_config: {
      model_type: instruct ? 'instructblip_qformer' : 'blip_2_qformer',
      hidden_size: 28,
      intermediate_size: 44,
      num_hidden_layers: 4,
      num_attention_heads: 4,
      encoder_hidden_size: 33,
      cross_attention_frequency: 2,
      max_position_embeddings: 40,
      layer_norm_eps: 1e-12,
      hidden_act: 'gelu',
      vocab_size: qformerWords,
    },
    text_config: kind.endsWith('t5')
      ? t5Text(instruct)
      : instruct
        ? {
            model_type: 'llama',
            architectures: ['LlamaForCausalLM'],
            hidden_size: 30,
            intermediate_size: 46,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            num_key_value_heads: 3,
            rms_norm_eps: 1e-6,
            rope_theta: 10000,
            hidden_act: 'silu',
            max_position_embeddings: 96,
            vocab_size: words,
            tie_word_embeddings: false,
            attention_bias: false,
            bos_token_id: 1,
            eos_token_id: 2,
            pad_token_id: 0,
          }
        : {
            model_type: 'opt',
            architectures: ['OPTForCausalLM'],
            hidden_size: 30,
            ffn_dim: 46,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            max_position_embeddings: 96,
            word_embed_proj_dim: 30,
            vocab_size: words,
            activation_function: 'relu',
            do_layer_norm_before: true,
            dropout: 0,
            bos_token_id: 2,
            eos_token_id: 2,
            pad_token_id: 1,
          },
  }
}

/** Heads that together are narrower than the model, more layers in the decoder, and buckets that short texts fill. */
const t5Text = (exact: boolean): Json => ({
  model_type: 't5',
  architectures: ['T5ForConditionalGeneration'],
  d_model: 30,
  d_kv: 7,
  d_ff: 46,
  num_layers: 2,
  num_decoder_layers: 3,
  num_heads: 3,
  relative_attention_num_buckets: 8,
  relative_attention_max_distance: 11,
  layer_norm_epsilon: 1e-6,
  feed_forward_proj: 'gated-gelu',
  dense_act_fn: exact ? 'gelu' : 'gelu_new',
  n_positions: 96,
  vocab_size: words,
  tie_word_embeddings: false,
  pad_token_id: 0,
  eos_token_id: 1,
  decoder_start_token_id: 0,
})

/** Names and shapes of every tensor of such a checkpoint (facts of the Hugging Face layout). */
export function tinyShapes(config: Json): Map<string, number[]> {
  const { vision_config: v, qformer_config: q, text_config: t } = config as { [key: string]: Json }
  const out = new Map<string, number[]>()
  const linear = (name: string, to: number, from: number): void =>
    void out.set(`${name}.weight`, [to, from]).set(`${name}.bias`, [to])
  const norm = (name: string, n: number): void => void out.set(`${name}.weight`, [n]).set(`${name}.bias`, [n])

  const dv = v!['hidden_size'] as number
  const e = 'vision_model.embeddings'
  out.set(`${e}.class_embedding`, [1, 1, dv])
  out.set(`${e}.position_embedding`, [1, 1 + (v!['image_size'] / v!['patch_size']) ** 2, dv])
  out
    .set(`${e}.patch_embedding.weight`, [dv, 3, v!['patch_size'], v!['patch_size']])
    .set(`${e}.patch_embedding.bias`, [dv])
  for (let i = 0; i < v!['num_hidden_layers']; i++) {
    const p = `vision_model.encoder.layers.${i}`
    norm(`${p}.layer_norm1`, dv)
    norm(`${p}.layer_norm2`, dv)
    linear(`${p}.self_attn.qkv`, 3 * dv, dv)
    linear(`${p}.self_attn.projection`, dv, dv)
    linear(`${p}.mlp.fc1`, v!['intermediate_size'], dv)
    linear(`${p}.mlp.fc2`, dv, v!['intermediate_size'])
  }
  norm('vision_model.post_layernorm', dv)

  const text = config['model_type'] === 'instructblip'
  const d = q!['hidden_size'] as number
  out.set('query_tokens', [1, config['num_query_tokens'], d])
  norm(text ? 'qformer.embeddings.layernorm' : 'qformer.layernorm', d)
  if (text) {
    out.set('qformer.embeddings.word_embeddings.weight', [q!['vocab_size'], d])
    out.set('qformer.embeddings.position_embeddings.weight', [q!['max_position_embeddings'], d])
  }
  for (let m = 0; m < q!['num_hidden_layers']; m++) {
    const p = `qformer.encoder.layer.${m}`
    const attention = (name: string, from: number): void => {
      linear(`${p}.${name}.attention.query`, d, d)
      linear(`${p}.${name}.attention.key`, d, from)
      linear(`${p}.${name}.attention.value`, d, from)
      linear(`${p}.${name}.output.dense`, d, d)
      norm(`${p}.${name}.output.LayerNorm`, d)
    }
    attention('attention', d)
    if (m % q!['cross_attention_frequency'] === 0) attention('crossattention', dv)
    for (const end of text ? ['', '_query'] : ['_query']) {
      linear(`${p}.intermediate${end}.dense`, q!['intermediate_size'], d)
      linear(`${p}.output${end}.dense`, d, q!['intermediate_size'])
      norm(`${p}.output${end}.LayerNorm`, d)
    }
  }

  const w = (t!['hidden_size'] ?? t!['d_model']) as number
  linear('language_projection', w, d)
  if (t!['model_type'] === 't5') t5Shapes(t!, out)
  else if (t!['model_type'] === 'llama') llamaShapes(t!, out)
  else optShapes(t!, out, linear, norm)
  return out
}

function llamaShapes(t: Json, out: Map<string, number[]>): void {
  const [w, f] = [t['hidden_size'], t['intermediate_size']] as [number, number]
  const kv = (w / t['num_attention_heads']) * t['num_key_value_heads']
  out.set('language_model.model.embed_tokens.weight', [t['vocab_size'], w])
  for (let i = 0; i < t['num_hidden_layers']; i++) {
    const p = `language_model.model.layers.${i}`
    out.set(`${p}.self_attn.q_proj.weight`, [w, w]).set(`${p}.self_attn.k_proj.weight`, [kv, w])
    out.set(`${p}.self_attn.v_proj.weight`, [kv, w]).set(`${p}.self_attn.o_proj.weight`, [w, w])
    out
      .set(`${p}.mlp.gate_proj.weight`, [f, w])
      .set(`${p}.mlp.up_proj.weight`, [f, w])
      .set(`${p}.mlp.down_proj.weight`, [w, f])
    out.set(`${p}.input_layernorm.weight`, [w]).set(`${p}.post_attention_layernorm.weight`, [w])
  }
  out.set('language_model.model.norm.weight', [w]).set('language_model.lm_head.weight', [t['vocab_size'], w])
}

function t5Shapes(t: Json, out: Map<string, number[]>): void {
  const [w, f, heads] = [t['d_model'], t['d_ff'], t['num_heads']] as [number, number, number]
  const inner = heads * t['d_kv']
  out.set('language_model.shared.weight', [t['vocab_size'], w])
  for (const [stack, layers] of [
    ['encoder', t['num_layers']],
    ['decoder', t['num_decoder_layers']],
  ] as [string, number][]) {
    const at = `language_model.${stack}`
    const table = `${at}.block.0.layer.0.SelfAttention.relative_attention_bias.weight`
    out.set(table, [t['relative_attention_num_buckets'], heads]).set(`${at}.final_layer_norm.weight`, [w])
    for (let i = 0; i < layers; i++) {
      const modules = stack === 'encoder' ? ['SelfAttention', ''] : ['SelfAttention', 'EncDecAttention', '']
      for (const [j, name] of modules.entries()) {
        const p = `${at}.block.${i}.layer.${j}`
        out.set(`${p}.layer_norm.weight`, [w])
        if (name === '')
          out
            .set(`${p}.DenseReluDense.wi_0.weight`, [f, w])
            .set(`${p}.DenseReluDense.wi_1.weight`, [f, w])
            .set(`${p}.DenseReluDense.wo.weight`, [w, f])
        else {
          for (const part of ['q', 'k', 'v']) out.set(`${p}.${name}.${part}.weight`, [inner, w])
          out.set(`${p}.${name}.o.weight`, [w, inner])
        }
      }
    }
  }
  out.set('language_model.lm_head.weight', [t['vocab_size'], w])
}

type Named = (name: string, ...sizes: [number, number]) => void

/** The head is tied to the token table and not stored. */
function optShapes(t: Json, out: Map<string, number[]>, linear: Named, norm: (name: string, n: number) => void): void {
  const [w, f] = [t['hidden_size'], t['ffn_dim']] as [number, number]
  const d = 'language_model.model.decoder'
  out
    .set(`${d}.embed_tokens.weight`, [t['vocab_size'], w])
    .set(`${d}.embed_positions.weight`, [t['max_position_embeddings'] + 2, w])
  for (let i = 0; i < t['num_hidden_layers']; i++) {
    const p = `${d}.layers.${i}`
    for (const part of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) linear(`${p}.self_attn.${part}`, w, w)
    norm(`${p}.self_attn_layer_norm`, w)
    linear(`${p}.fc1`, f, w)
    linear(`${p}.fc2`, w, f)
    norm(`${p}.final_layer_norm`, w)
  }
  norm(`${d}.final_layer_norm`, w)
}

/**
 * Norm weights near 1, biases near 0, tables of deviation 0.5, matrices that keep the size of what they multiply; 1.5
 * times that for queries and keys, so that attention is far from uniform, and half of it for T5's queries, whose scores
 * are not divided.
 */
function draw(rng: Random, name: string, shape: readonly number[]): NdArray {
  const isNorm = /norm/i.test(name.split('.').at(-2) ?? '')
  const deviation =
    isNorm || name.endsWith('bias')
      ? 0.1
      : /embed|query_tokens|shared|relative_attention/.test(name) && !name.includes('patch')
        ? 0.5
        : (/query\.weight|key\.weight|[qk]_proj|qkv/.test(name) ? 1.5 : /Attention\.q\./.test(name) ? 0.5 : 1) /
          Math.sqrt(shape.slice(1).reduce((a, b) => a * b, 1))
  const middle = isNorm && name.endsWith('weight') ? 1 : 0
  return map(array(shape), () => Math.fround(middle + deviation * rng.normal()))
}

/** Every trained tensor at a point in mid-training: nothing is zero, so that every gradient is alive. */
export function tinyParameters(config: Json, adapter: AdapterConfig, seed: number): Map<string, NdArray> {
  const rng = random(seed)
  const out = new Map<string, NdArray>()
  for (const [name, shape] of trainedShapes(modelConfig(config), adapter)) {
    const deviation =
      name.endsWith('LayerNorm.weight') || /bias$|\.b[12]$/.test(name)
        ? 0.1
        : /position/.test(name)
          ? 0.2
          : name.endsWith('gate')
            ? 0.5
            : name.endsWith('w2')
              ? 0.3
              : 1 / Math.sqrt(shape.at(-1)!)
    const middle = name.endsWith('LayerNorm.weight') ? 1 : 0
    out.set(
      name,
      map(array(shape), () => Math.fround(middle + deviation * rng.normal())),
    )
  }
  return out
}

export interface TinyInputOptions {
  videos?: number
  /** 0: images for the image model, pixels [B, 3, H, W]. */
  frames?: number
  /** Text tokens of the Q-Former; 0 for none. */
  qformerText?: number
  /** Text tokens of the language model, prompt and answer. */
  text?: number
  padding?: 'left' | 'right'
}

/**
 * Sample 0 fills its rows; every later one is shorter and padded. The last two or three attended tokens are the answer;
 * T5 has its answers apart, of two or three tokens.
 */
export function tinyInputs(config: Json, seed: number, options: TinyInputOptions = {}): Batch {
  const {
    videos = 2,
    frames = 3,
    qformerText = config['model_type'] === 'instructblip' ? 7 : 0,
    text = 9,
    padding = 'right',
  } = options
  const rng = random(seed)
  const isT5 = config['text_config'].model_type === 't5'
  const image = config['vision_config'].image_size as number
  const pixels = array(frames === 0 ? [videos, 3, image, image] : [videos, frames, 3, image, image])
  const batch: Batch = {
    pixelValues: map(pixels, () => Math.fround(rng.normal())),
    inputIds: array([videos, text]),
    attentionMask: array([videos, text]),
    labels: map(array([videos, isT5 ? 3 : text]), () => -100),
  }
  for (let r = 0; r < videos; r++) {
    const length = Math.max(4, text - 2 * r)
    const from = r * text + (padding === 'left' ? text - length : 0)
    const pad = config['text_config'].pad_token_id as number
    batch.inputIds.data.fill(pad, r * text, (r + 1) * text)
    for (let i = from; i < from + length; i++) {
      batch.inputIds.data[i] = rng.integer(3, config['text_config'].vocab_size as number)
      batch.attentionMask.data[i] = 1
      if (!isT5 && i >= from + length - 2 - (r % 2)) batch.labels.data[i] = batch.inputIds.data[i]!
    }
  }
  if (isT5)
    for (let r = 0; r < videos; r++)
      for (let i = 0; i < 2 + (r % 2); i++)
        batch.labels.data[r * 3 + i] = rng.integer(3, config['text_config'].vocab_size as number)
  if (qformerText > 0) {
    const ids = array([videos, qformerText])
    const mask = array([videos, qformerText])
    for (let r = 0; r < videos; r++)
      for (let i = 0; i < Math.max(1, qformerText - 3 * r); i++) {
        ids.data[r * qformerText + i] = rng.integer(1, config['qformer_config'].vocab_size as number)
        mask.data[r * qformerText + i] = 1
      }
    batch.qformerIds = ids
    batch.qformerMask = mask
  }
  return batch
}

/** A folder in the layout of Hugging Face: config.json and model.safetensors in float32. */
export function writeTiny(folder: string, { config, tensors }: Tiny): void {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config, null, 2))
  writeSafetensors(join(folder, 'model.safetensors'), tensors)
}
