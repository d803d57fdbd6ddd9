/**
 * Every word of the tiny world. One word is one token; both tokenizers put their four special tokens first, so that a
 * word has the same id in both.
 */

export const WORDS = [
  ...['?', '.', 'a', 'are', 'color', 'describe', 'does', 'from', 'has', 'have', 'how', 'image', 'images', 'in', 'is'],
  ...['many', 'move', 'moving', 'object', 'objects', 'or', 'shape', 'the', 'there', 'way', 'what', 'where', 'which'],
  ...['left', 'right', 'up', 'down', 'yes', 'no', 'zero', 'one', 'two', 'three', 'four'],
  ...['first', 'second', 'third', 'fourth', 'red', 'green', 'blue', 'yellow', 'purple', 'circle', 'square', 'triangle'],
] as const

export type Word = (typeof WORDS)[number]

/** Of the language model; ids 0–3. */
export const LLM_SPECIAL = ['<pad>', '<s>', '</s>', '<unk>'] as const
/** Of the Q-Former, named as BERT names them; ids 0–3. */
export const QFORMER_SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]'] as const

export const VOCABULARY_SIZE = LLM_SPECIAL.length + WORDS.length
/** Words of the longest prompt ("in the second image where is the red object from the blue object ?"). */
export const PROMPT_WORDS = 14
/** Words of the longest answer ("circle left up"). */
export const ANSWER_WORDS = 3
