/**
 * Answers from a model: greedy generation, and the losses of given choices. This folder imports what `train` imports,
 * and never writes a weight.
 */
import { invalid } from '../errors.js'
import { Cache, embedTokens, logits, rowsOf } from '../models/language.js'
import type { ImageModel } from '../models/mtransllama.js'
import { cast } from '../ops/copy.js'
import { concat, narrow, reshape } from '../ops/views.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { notFinite } from './finite.js'

export interface GenerateOptions {
  /** Most tokens of the answer. Default 64. */
  maxTokens?: number | undefined
  /** Any of these ends the answer and is not yielded. */
  eosIds?: readonly number[] | undefined
  signal?: AbortSignal | undefined
}

/**
 * Greedy decoding of one sample: visual tokens [1,V,D_llm] and the prompt's ids; yields the answer's ids one by one.
 * Stops at an end token, at `maxTokens`, at the end of the model's positions, or when the signal aborts (then it throws).
 *
 * @throws InputError where the scores of a token are not finite, naming the weight or layer
 */
export async function* generate(model: ImageModel, visual: Tensor, prompt: readonly number[], options: GenerateOptions = {}): AsyncGenerator<number, void> {
  const { maxTokens = 64, eosIds = [], signal } = options
  if (visual.rank !== 3 || visual.dim(0) !== 1) throw invalid('visual', 'visual tokens [1,V,D] of one sample', `[${visual.shape}]`)
  const { maxPositions } = model.config.language
  const start = visual.dim(1) + prompt.length
  if (start > maxPositions) throw invalid('context', `at most ${maxPositions} tokens, the positions of the language model`, `${visual.dim(1)} visual and ${prompt.length} of the prompt`, 'use fewer frames, aggregate: mean, or a shorter prompt')
  const limit = Math.min(maxPositions, start + maxTokens)
  const cache = new Cache(limit)
  try {
    const fed = [...prompt]
    let next: number | undefined
    for (let made = 0; made < maxTokens && cache.length < limit; made++) {
      signal?.throwIfAborted()
      const ids = next === undefined ? prompt : [next]
      next = await scope(() => noGrad(() => step(model, cache, next === undefined ? visual : undefined, ids)))
      if (next === undefined) {
        const text = { rows: 1, ids: Int32Array.from(fed), mask: new Uint8Array(fed.length).fill(1) }
        throw await notFinite(`the scores of token ${made + 1} of the answer are`, { model, again: (observe) => model.hidden(visual, text, { observe }) })
      }
      fed.push(next)
      if (eosIds.includes(next)) return
      yield next
    }
  } finally {
    cache.dispose()
  }
}

/** Feeds rows to the language model and returns the likeliest next id; undefined where a score is not finite. */
async function step(model: ImageModel, cache: Cache, visual: Tensor | undefined, ids: readonly number[]): Promise<number | undefined> {
  const { language } = model
  const words = ids.length ? embedTokens(language, rowsOf(Int32Array.from(ids), 1, model.device), model.precision) : undefined
  const rows = [visual, words].filter((t): t is Tensor => t !== undefined)
  const x = concat(rows, 1)
  const n = x.dim(1)
  const mask = new Uint8Array(cache.length + n).fill(1)
  const positions = language.positions(mask, 1).subarray(cache.length)
  const hidden = language.forward(x, { mask: rowsOf(mask, 1, model.device), positions: rowsOf(positions, 1, model.device), cache })
  cache.length += n
  const scores = (await cast(logits(language, reshape(narrow(hidden, 1, n - 1, 1), [1, hidden.dim(2)])), 'float32').data()) as Float32Array
  return argmax(scores)
}

function argmax(scores: Float32Array): number | undefined {
  let best = 0
  for (let i = 0; i < scores.length; i++) {
    if (!Number.isFinite(scores[i])) return undefined
    if (scores[i]! > scores[best]!) best = i
  }
  return best
}
