/**
 * How large the tiny InstructBLIP is: its config.json in the Hugging Face layout.
 */

import { parseModelConfig } from '../../lib/checkpoint/config.js'
import type { LlamaConfig } from '../../lib/models/llama.js'
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

/** The same, read as the model reads it. */
export function tinyConfig(): ModelConfig & { language: LlamaConfig } {
  const config = parseModelConfig(CONFIG)
  if (config.language.kind !== 'llama') throw new TypeError('the tiny model speaks LLaMA')
  return { ...config, language: config.language }
}
