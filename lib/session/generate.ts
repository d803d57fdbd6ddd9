/** Answers from a model: greedy generation, and the losses of given choices. */
import { invalid } from '../errors.js'
import { embedTokens, tokenTensor } from '../models/decoder.js'
import type { ImageModel } from '../models/image-model.js'
import { concat } from '../ops/views.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { Decoder } from './greedy.js'
import { notFinite } from './finite.js'

/** How an answer is generated. */
export interface GenerateOptions {
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
 * Greedy decoding of one sample: visual tokens [1,V,D_llm] and the prompt's ids; yields the answer's ids one by one and
 * returns why it ended. Stops at an end token, at `maxTokens`, at the end of the model's positions, or when the signal
 * aborts (then it throws).
 *
 * @throws InputError where the scores of a token are not finite, naming the weight or layer
 */
export async function* generate(
  model: ImageModel,
  visual: Tensor,
  prompt: readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<number, Finish> {
  const { maxTokens = 64, eosIds = [], signal } = options
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
  const limit = Math.min(maxPositions, start + maxTokens)
  const decoder = Decoder.of(model, { rows: 1, limit, graphs: options.graphs })
  let spoilt = true // until an answer ends without an error
  try {
    const fed = [...prompt]
    for (let made = 0; made < maxTokens && (made === 0 || decoder.length < limit); made++) {
      signal?.throwIfAborted()
      const [next] = await (made === 0
        ? scope(() => noGrad(() => decoder.begin(rows(model, visual, prompt), new Uint8Array(start).fill(1))))
        : decoder.next())
      if (next === -1) {
        const text = { rows: 1, ids: Int32Array.from(fed), mask: new Uint8Array(fed.length).fill(1) }
        throw await notFinite(`the scores of token ${made + 1} of the answer are`, {
          model,
          again: (observe) => model.hidden(visual, text, { observe }),
        })
      }
      spoilt = false
      fed.push(next!)
      if (eosIds.includes(next!)) return 'stop'
      yield next!
      spoilt = true
    }
    spoilt = false
    return 'length'
  } finally {
    decoder.release(spoilt)
  }
}

/** Visual tokens and the prompt's words as rows for the language model, [1,V+n,D]. */
function rows(model: ImageModel, visual: Tensor, prompt: readonly number[]): Tensor {
  if (!prompt.length) return visual
  return concat(
    [visual, embedTokens(model.language, tokenTensor(Int32Array.from(prompt), 1, model.device), model.precision)],
    1,
  )
}
