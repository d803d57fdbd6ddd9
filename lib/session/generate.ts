/** Answers from a model: the likeliest token after another, tokens that are drawn, and beam search. */
import { invalid } from '../errors.js'
import { embedTokens, isEncoderDecoder, tokenTensor } from '../models/decoder.js'
import type { ImageModel } from '../models/image-model.js'
import { contiguous } from '../ops/copy.js'
import { concat, expand } from '../ops/views.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { beamSearch } from './beam.js'
import { areFinite, Chooser, choosing, type ChooseOptions } from './choose.js'
import { Decoder } from './decoding.js'
import { notFinite } from './finite.js'

/** How an answer is generated. */
export interface GenerateOptions extends ChooseOptions {
  /** Most tokens of the answer. Default 64. */
  maxTokens?: number | undefined
  /** Ids that end the answer; they are not yielded. */
  eosIds?: readonly number[] | undefined
  signal?: AbortSignal | undefined
  /** On a CUDA device, whether steps are launched as graphs. Default: true. */
  graphs?: boolean | undefined
}

/** Why an answer ended: at an end token, or because there was no room for more. */
export type Finish = 'stop' | 'length'

/**
 * The answer to one sample: visual tokens [1,V,D_llm] and the prompt's ids; yields the answer's ids one by one, by beam
 * search all at the end, and returns why it ended. Takes the likeliest token unless options say otherwise. Stops at an
 * end token, at `maxTokens`, at the end of the model's positions, or when the signal aborts (then it throws).
 *
 * @throws InputError where the scores of a token are not finite, naming the weight or layer; for options out of range
 */
export async function* generate(
  model: ImageModel,
  visual: Tensor,
  prompt: readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<number, Finish> {
  const { maxTokens = 64, eosIds = [], signal } = options
  const choice = choosing(options)
  if (visual.rank !== 3 || visual.dim(0) !== 1)
    throw invalid('visual', 'visual tokens [1,V,D] of one sample', `[${visual.shape}]`)
  const { maxPositions } = model.config.language
  const start = visual.dim(1) + prompt.length
  if (start > maxPositions)
    throw invalid(
      'context',
      `at most ${maxPositions} tokens, the positions of the language model`,
      `${visual.dim(1)} visual and ${prompt.length} of the prompt`,
      'use fewer frames, aggregate: mean, or a shorter prompt',
    )
  const { language } = model
  const startId = isEncoderDecoder(language) ? language.config.startId : undefined
  // Positions that are taken before the answer's first token is fed; its last one is not fed again and needs none.
  const taken = startId === undefined ? start : 1
  const limit = Math.min(maxPositions, taken + maxTokens)
  const most = Math.min(maxTokens, limit - taken + 1)
  if (most < 1) return 'length'
  const { beams, temperature, repetitionPenalty } = choice
  const scores = beams > 1 || temperature > 0 || repetitionPenalty !== 1
  const decoder = Decoder.of(model, { rows: beams, limit, graphs: options.graphs, scores })
  let spoilt = true // until an answer ends without an error
  /** An encoder reads the prompt once, whatever the number of beams. */
  const copies = startId === undefined ? beams : 1
  /** The first scores, or ids. */
  const first = <T>(begin: (x: Tensor, mask: Uint8Array) => Promise<T>): Promise<T> =>
    scope(() => noGrad(() => begin(rows(model, visual, prompt, copies), new Uint8Array(copies * start).fill(1))))
  const fed: number[] = []
  const failed = (made: number): Promise<Error> => {
    const ids = Int32Array.from(startId === undefined ? [...prompt, ...fed] : prompt)
    const mask = new Uint8Array(ids.length).fill(1)
    const text = { rows: 1, ids, mask, ...(startId !== undefined && { decoder: Int32Array.of(startId, ...fed) }) }
    return notFinite(`the scores of token ${made} of the answer are`, {
      model,
      again: (observe) => model.hidden(visual, text, { observe }),
    })
  }
  // What the penalty counts: as in transformers, the visual tokens' placeholder as well, and of a decoder beside an
  // encoder what it reads.
  const { imageTokenId } = model.config
  const before =
    startId !== undefined ? [startId] : imageTokenId === undefined ? [...prompt] : [imageTokenId, ...prompt]
  try {
    if (beams > 1) {
      const { ids, isStopped } = await beamSearch(
        {
          begin: () => first((x, mask) => decoder.beginScores(x, mask)),
          next: (next, parents) => decoder.nextScores(next, parents),
        },
        {
          ...choice,
          maxTokens: most,
          eosIds,
          prompt: before,
          check: async (s, made) => {
            signal?.throwIfAborted()
            if (!areFinite(s)) throw await failed(made)
          },
        },
      )
      spoilt = false
      yield* ids
      return isStopped ? 'stop' : 'length'
    }
    const chooser = new Chooser(choice, most)
    for (let made = 0; made < most; made++) {
      signal?.throwIfAborted()
      let next: number
      if (scores) {
        const s =
          made === 0 ? await first((x, mask) => decoder.beginScores(x, mask)) : await decoder.nextScores([fed.at(-1)!])
        next = areFinite(s) ? await chooser.choose(s, [...before, ...fed]) : -1
      } else {
        ;[next] = (made === 0 ? await first((x, mask) => decoder.begin(x, mask)) : await decoder.next()) as unknown as [
          number,
        ]
      }
      if (next === -1) throw await failed(made + 1)
      spoilt = false
      fed.push(next)
      if (eosIds.includes(next)) return 'stop'
      yield next
      spoilt = true
    }
    spoilt = false
    return 'length'
  } finally {
    decoder.release(spoilt)
  }
}

/** Visual tokens and the prompt's words as rows for the language model, so many times the same, [rows,V+n,D]. */
function rows(model: ImageModel, visual: Tensor, prompt: readonly number[], beams: number): Tensor {
  const one = prompt.length
    ? concat(
        [visual, embedTokens(model.language, tokenTensor(Int32Array.from(prompt), 1, model.device), model.precision)],
        1,
      )
    : visual
  return beams === 1 ? one : contiguous(expand(one, [beams, one.dim(1), one.dim(2)]))
}
