/**
 * The three texts of a sample as ids: what the Q-Former reads, the prompt of the language model, and the answer. Each
 * has its own limit and its own side of truncation, as in InstructBLIP's training.
 */
import { invalid } from '../errors.js'
import type { Tokenizer } from './tokenizer.js'

/** What a sample says. Without `qformerText` the Q-Former reads the prompt, as in InstructBLIP. */
export interface SampleText {
  qformerText?: string | undefined
  prompt: string
  answer?: string | undefined
}

/** Where the Q-Former's text goes: `fusion` into the Q-Former, else `lateText` into the prompt or nowhere. */
export interface TextRoute {
  fusion: boolean
  lateText: 'prompt' | 'drop'
  /** With `video`, samples are read as if they had no `qformerText`. Default: both. */
  modality?: 'both' | 'video' | 'text' | undefined
}

/** The ids that begin a prompt, end an answer and pad a batch. */
export interface SpecialIds {
  bosId: number | null
  eosId: number
  padId: number
  /** Of an encoder and a decoder: the id that begins what the decoder reads. Its prompts end with EOS. */
  startId?: number | undefined
}

/** Most tokens of an answer, its EOS included. */
export const MAX_ANSWER = 256

/** The two texts as each model gets them; `qformer` is null where it gets none. */
export function routeText(
  sample: SampleText,
  { fusion, lateText, modality }: TextRoute,
): { qformer: string | null; prompt: string } {
  const { prompt } = sample
  const qformerText = modality === 'video' ? undefined : sample.qformerText
  if (fusion) return { qformer: qformerText ?? prompt, prompt }
  const moved = lateText === 'prompt' && qformerText !== undefined && qformerText !== '' && qformerText !== prompt
  return { qformer: null, prompt: moved ? `${qformerText}\n${prompt}` : prompt }
}

/** [CLS] … [SEP], cut on the left, so that a dialogue keeps its last utterance. */
export function qformerIds(tokenizer: Tokenizer, text: string, maxTokens = 128): number[] {
  return tokenizer.encode(text, { maxTokens, truncation: 'left' })
}

/**
 * At which end a prompt loses what is too long: BLIP-2's over an encoder and a decoder on the right, as in its
 * training, all others on the left.
 */
export const promptCut = (model: { family: string; language: { startId?: number } }): 'left' | 'right' =>
  model.family === 'blip-2' && model.language.startId !== undefined ? 'right' : 'left'

/** BOS and the prompt, or the prompt and EOS for an encoder; where it is too long, words are cut at the end `cut`. */
export function promptIds(
  tokenizer: Tokenizer,
  prompt: string,
  special: Pick<SpecialIds, 'bosId'> & Partial<SpecialIds>,
  maxTokens = Infinity,
  cut: 'left' | 'right' = 'left',
): number[] {
  const before = special.bosId === null ? [] : [special.bosId]
  const after = special.startId === undefined || special.eosId === undefined ? [] : [special.eosId]
  const frame = [...before, ...after]
  if (maxTokens < frame.length + 1)
    throw invalid(
      'the room for the prompt',
      `at least ${frame.length + 1} tokens`,
      maxTokens,
      'take fewer visual tokens or shorter answers',
    )
  return [
    ...before,
    ...tokenizer.encode(prompt, { addSpecialTokens: false, maxTokens: maxTokens - frame.length, truncation: cut }),
    ...after,
  ]
}

/** The answer without BOS, cut on the right, and the EOS that ends it. */
export function answerIds(
  tokenizer: Tokenizer,
  answer: string,
  special: Pick<SpecialIds, 'eosId'>,
  maxTokens = MAX_ANSWER,
): number[] {
  if (maxTokens < 2) throw invalid('the room for the answer', 'at least 2 tokens', maxTokens)
  const text = tokenizer.wordsCarrySpaces && /^\S/.test(answer) ? ` ${answer}` : answer
  return [...tokenizer.encode(text, { addSpecialTokens: false, maxTokens: maxTokens - 1 }), special.eosId]
}

/** Most tokens of a prompt, beside the visual tokens and the answer, unless a decoder of its own reads that. */
export function promptRoom(
  language: { maxPositions: number; startId?: number },
  visualTokens: number,
  answerTokens: number,
): number {
  return language.maxPositions - visualTokens - (language.startId === undefined ? answerTokens : 0)
}
