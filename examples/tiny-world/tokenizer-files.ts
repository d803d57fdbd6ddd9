/**
 * The text and picture side of the tiny checkpoint in the Hugging Face layout: two word-level tokenizers and the
 * preprocessor, as plain JSON.
 */

import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { LLM_SPECIAL, QFORMER_SPECIAL, WORDS } from './vocabulary.js'
import { SIZE } from './world.js'

interface Kind {
  special: readonly string[] // ids 0 … 3
  unknown: string
  before: string[] // put around every text
  after: string[]
  names: Record<string, string> // their roles
  options: Record<string, unknown>
}

/** `<s>` in front; the end of an answer is the trainer's to add. */
const LLM: Kind = {
  special: LLM_SPECIAL,
  unknown: '<unk>',
  before: ['<s>'],
  after: [],
  names: { bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>', unk_token: '<unk>' },
  options: { add_bos_token: true, add_eos_token: false, padding_side: 'left', truncation_side: 'left' },
}

const QFORMER: Kind = {
  special: QFORMER_SPECIAL,
  unknown: '[UNK]',
  before: ['[CLS]'],
  after: ['[SEP]'],
  names: { cls_token: '[CLS]', sep_token: '[SEP]', pad_token: '[PAD]', unk_token: '[UNK]' },
  options: { do_lower_case: true, padding_side: 'right', truncation_side: 'left' },
}

/** tokenizer.json: words in any case, punctuation on its own with or without a space before it. */
function tokenizer({ special, unknown, before, after }: Kind): object {
  const tokens = [...special, ...WORDS]
  const around = (list: string[]): object[] => list.map((id) => ({ SpecialToken: { id, type_id: 0 } }))
  const text = (id: string): object => ({ Sequence: { id, type_id: 0 } })
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({
      ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
    })),
    normalizer: { type: 'Lowercase' },
    pre_tokenizer: { type: 'Whitespace' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [...around(before), text('A'), ...around(after)],
      pair: [...around(before), text('A'), ...around(after), text('B'), ...around(after)],
      special_tokens: Object.fromEntries(
        [...before, ...after].map((t) => [t, { id: t, ids: [tokens.indexOf(t)], tokens: [t] }]),
      ),
    },
    decoder: null, // words joined by spaces
    model: { type: 'WordLevel', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), unk_token: unknown },
  }
}

function tokenizerConfig({ special, names, options }: Kind): object {
  const added = { lstrip: false, normalized: false, rstrip: false, single_word: false, special: true }
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    model_max_length: 64,
    clean_up_tokenization_spaces: false,
    ...names,
    ...options,
    added_tokens_decoder: Object.fromEntries(special.map((content, id) => [id, { content, ...added }])),
  }
}

/** 48 × 48, values in [−2, 2]: 0.5 in the middle, and the world's contrasts of order 1. */
export const MEAN = [0.5, 0.5, 0.5]
export const STD = [0.25, 0.25, 0.25]

const PREPROCESSOR = {
  image_processor_type: 'BlipImageProcessor',
  processor_class: 'InstructBlipProcessor',
  do_convert_rgb: true,
  do_resize: true,
  size: { height: SIZE, width: SIZE },
  resample: 3,
  do_rescale: true,
  rescale_factor: 1 / 255,
  do_normalize: true,
  image_mean: MEAN,
  image_std: STD,
}

/** Relative path to content, of every file. */
export function tokenizerFiles(): Record<string, object> {
  return {
    'tokenizer.json': tokenizer(LLM),
    'tokenizer_config.json': tokenizerConfig(LLM),
    'special_tokens_map.json': LLM.names,
    'qformer_tokenizer/tokenizer.json': tokenizer(QFORMER),
    'qformer_tokenizer/tokenizer_config.json': tokenizerConfig(QFORMER),
    'qformer_tokenizer/special_tokens_map.json': QFORMER.names,
    'preprocessor_config.json': PREPROCESSOR,
  }
}

/** Writes them into a checkpoint's folder. */
export async function writeTokenizerFiles(dir: string): Promise<void> {
  for (const [name, content] of Object.entries(tokenizerFiles())) {
    await mkdir(dirname(join(dir, name)), { recursive: true })
    await writeFile(join(dir, name), `${JSON.stringify(content, null, 2)}\n`)
  }
}
