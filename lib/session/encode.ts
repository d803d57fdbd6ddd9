/** Samples as ids, and ids as the padded rows of a batch. */
import { InputError, invalid } from '../errors.js'
import type { CheckedAdapterConfig } from '../adapter/config.js'
import { forSample } from '../data/manifest.js'
import type { ModelConfig, QFormerText, TextRows } from '../models/image-model.js'
import { IGNORE } from '../ops/cross-entropy.js'
import { roundUp } from '../shape.js'
import { tensor } from '../tensor/tensor.js'
import {
  answerIds,
  MAX_ANSWER,
  promptCut,
  promptIds,
  promptRoom,
  qformerIds,
  routeText,
  type SampleText,
  type SpecialIds,
} from '../text/prompts.js'
import { checkIds } from '../text/tokenizer.js'
import { visualTokens } from '../adapter/config.js'
import type { Checkpoint } from './checkpoint.js'

/** The settings that decide where a text goes and how long it may be. */
export type TextConfig = Pick<CheckedAdapterConfig, 'fusion' | 'lateText' | 'text' | 'aggregate' | 'frames'> &
  Partial<Pick<CheckedAdapterConfig, 'modality'>>

export interface Encoded {
  /** For the Q-Former; undefined where it gets no text. */
  qformer: number[] | undefined
  prompt: number[]
  /** The answer's ids, with the end token. */
  answer: number[]
}

/** What texts are encoded with: the tokenizers of a checkpoint, and the sizes of its model. */
export type TextSide = Pick<Checkpoint, 'tokenizer' | 'qformerTokenizer' | 'special'> & {
  model: { config: ModelConfig }
}

/** How the untrained image model reads a sample: the text in the Q-Former where that has a text path. */
export function imageTextConfig(checkpoint: TextSide, frames: number): TextConfig {
  const { hasText, maxPositions } = checkpoint.model.config.qformer
  return {
    fusion: hasText,
    lateText: 'prompt',
    text: { maxTokens: Math.min(128, maxPositions) },
    aggregate: 'mean',
    frames,
  }
}

/**
 * The ids of a sample's texts; the prompt is cut ({@link promptCut}) to the room that visual tokens and answer leave.
 *
 * @throws InputError, with the sample's name where it has one, for an answer without a token or too long for the
 *   language model, for a text that holds a placeholder token of a picture, and for an id without a row in the
 *   embedding
 */
export function encode(
  checkpoint: TextSide,
  config: TextConfig,
  sample: SampleText & { id?: string },
  answer = sample.answer,
): Encoded {
  return forSample(sample, () => {
    const {
      model: {
        config: { language, qformer, numQueryTokens },
      },
      tokenizer,
      qformerTokenizer,
      special,
    } = checkpoint
    const routed = routeText(sample, config)
    // A decoder of its own has positions for the answer alone.
    const most = 'startId' in language ? Math.min(MAX_ANSWER, language.maxPositions) : MAX_ANSWER
    const ids = answer === undefined ? [] : answerIds(tokenizer, answer, special, most)
    if (ids.length === 1)
      throw invalid('answer', 'a text of at least one token', answer, 'the tokenizer gives no token for it')
    const visual = visualTokens(config, numQueryTokens)
    const room = promptRoom(language, visual, ids.length)
    if (answer !== undefined && room < 2) {
      throw new InputError(
        `answer: ${ids.length} tokens beside ${visual} visual ones leave no room for a prompt in the ${language.maxPositions} positions of the language model; shorten the answer, use fewer frames or aggregate: mean.`,
      )
    }
    const encoded = {
      qformer:
        routed.qformer !== null && qformerTokenizer
          ? qformerIds(qformerTokenizer, routed.qformer, config.text.maxTokens)
          : undefined,
      prompt: promptIds(tokenizer, routed.prompt, special, room, promptCut(checkpoint.model.config)),
      answer: ids,
    }
    const mark = ['<image>', '<video>'].find((token) => encoded.prompt.includes(tokenizer.idOf(token) ?? -1))
    if (mark !== undefined)
      throw invalid('prompt', `words alone: visual tokens are inserted automatically`, mark, `leave ${mark} out`)
    checkIds(encoded.prompt, language.vocabSize, 'prompt', tokenizer)
    checkIds(encoded.answer, language.vocabSize, 'answer', tokenizer)
    if (encoded.qformer)
      checkIds(
        encoded.qformer,
        qformer.vocabSize,
        `${sample.qformerText === undefined ? 'prompt' : 'qformerText'} for the Q-Former`,
        qformerTokenizer,
      )
    return encoded
  })
}

/** Widths that rows are padded to: multiples of `step` up to `most`, so that batches of similar size have one shape. */
export interface Widths {
  step: number
  most: number
}
const asNeeded: Widths = { step: 1, most: Infinity }

/** Pads on the right to the longest, or as far as `widths` say. */
function padded(
  rows: readonly (readonly number[])[],
  fill: number,
  widths: Widths,
): { width: number; ids: Int32Array; mask: Uint8Array } {
  const longest = Math.max(0, ...rows.map((r) => r.length))
  const width = Math.max(longest, Math.min(widths.most, roundUp(longest, widths.step)))
  const ids = new Int32Array(rows.length * width).fill(fill)
  const mask = new Uint8Array(rows.length * width)
  rows.forEach((row, r) => {
    ids.set(row, r * width)
    mask.fill(1, r * width, r * width + row.length)
  })
  return { width, ids, mask }
}

/** A decoder's rows are few: as many of them as there are widths of a prompt would double its work. */
const ANSWER_STEP = 8

/**
 * The language model's rows: prompt, then answer; labels on the answer and its end alone. For an encoder and a decoder
 * the prompt alone, and the answer, shifted by the start id, for the decoder.
 */
export function textRows(
  encoded: readonly Pick<Encoded, 'prompt' | 'answer'>[],
  { padId, startId }: Pick<SpecialIds, 'padId' | 'startId'>,
  widths = asNeeded,
): TextRows {
  const rows = encoded.length
  if (startId !== undefined) {
    const { ids, mask } = padded(
      encoded.map((e) => e.prompt),
      padId,
      widths,
    )
    const answers = encoded.map((e) => e.answer)
    const shifted = answers.map((answer) => [startId, ...answer.slice(0, -1)])
    const step = { step: Math.min(widths.step, ANSWER_STEP), most: Infinity }
    return { rows, ids, mask, labels: padded(answers, IGNORE, step).ids, decoder: padded(shifted, padId, step).ids }
  }
  const { width, ids, mask } = padded(
    encoded.map((e) => [...e.prompt, ...e.answer]),
    padId,
    widths,
  )
  const labels = new Int32Array(ids.length).fill(IGNORE)
  encoded.forEach((e, r) => labels.set(e.answer, r * width + e.prompt.length))
  return { rows, ids, mask, labels }
}

/** The Q-Former's rows, or undefined where it gets no text. */
export function qformerRows(encoded: readonly Pick<Encoded, 'qformer'>[], widths = asNeeded): QFormerText | undefined {
  const rows = encoded.map((e) => e.qformer)
  if (rows.every((r) => r === undefined)) return undefined
  if (rows.some((r) => r === undefined))
    throw new InputError('batch: either every sample has a text for the Q-Former, or none has.')
  const { width, ids, mask } = padded(rows as number[][], 0, widths)
  return { ids: tensor(ids, [rows.length, width]), mask: tensor(mask, [rows.length, width]) }
}
