/**
 * How large the tiny InstructBLIP is: its config.json in the Hugging Face layout.
 */

import { parseModelConfig } from '../../lib/checkpoint/config.js'
import type { ModelConfig } from '../../lib/models/image-model.js'
import { VOCABULARY_SIZE } from './vocabulary.js'
import { SIZE } from './world.js'

const WIDTH = 64
const HEADS = 4

/** What differs from the library's defaults. */
export const CONFIG = {
  architectures: ['InstructBlipForConditionalGeneration'],
  model_type: 'instructblip',
  num_query_tokens: 8,
  vision_config: {
    model_type: 'instructblip_vision_model',
    hidden_size: WIDTH,
    num_hidden_layers: 3,
    num_attention_heads: HEADS,
    intermediate_size: 4 * WIDTH,
    patch_size: 8,
    image_size: SIZE,
  },
  qformer_config: {
    model_type: 'instructblip_qformer',
    hidden_size: WIDTH,
    num_hidden_layers: 4,
    num_attention_heads: HEADS,
    intermediate_size: 4 * WIDTH,
    cross_attention_frequency: 2,
    encoder_hidden_size: WIDTH,
    max_position_embeddings: 32,
    vocab_size: VOCABULARY_SIZE,
    pad_token_id: 0,
  },
  text_config: {
    model_type: 'llama',
    hidden_size: WIDTH,
    num_hidden_layers: 2,
    num_attention_heads: HEADS,
    intermediate_size: 168,
    max_position_embeddings: 160, // 8 frames of 8 queries each leave 96 for the text
    vocab_size: VOCABULARY_SIZE,
    pad_token_id: 0,
    bos_token_id: 1,
    eos_token_id: 2,
  },
} as const

export const GENERATION = { pad_token_id: 0, bos_token_id: 1, eos_token_id: 2 } as const

/** An encoder and a decoder of about the same size, like Flan-T5 in InstructBLIP. */
const T5_TEXT = {
  model_type: 't5',
  architectures: ['T5ForConditionalGeneration'],
  d_model: WIDTH,
  d_kv: WIDTH / HEADS,
  d_ff: 168,
  num_layers: 2,
  num_heads: HEADS,
  feed_forward_proj: 'gated-gelu',
  dense_act_fn: 'gelu',
  n_positions: 160,
  vocab_size: VOCABULARY_SIZE,
  tie_word_embeddings: false,
  pad_token_id: 0,
  eos_token_id: 2,
  decoder_start_token_id: 0,
} as const

/** The language models that the tiny InstructBLIP may speak with. */
export type Speaker = 'llama' | 't5'

/** Its config.json. */
export const configOf = (speaker: Speaker): object =>
  speaker === 't5' ? { ...CONFIG, use_decoder_only_language_model: false, text_config: T5_TEXT } : CONFIG

/** Its generation_config.json. */
export const generationOf = (speaker: Speaker): object =>
  speaker === 't5' ? { ...GENERATION, decoder_start_token_id: 0 } : GENERATION

/** The same, read as the model reads it. */
export const tinyConfig = (speaker: Speaker = 'llama'): ModelConfig => parseModelConfig(configOf(speaker))
