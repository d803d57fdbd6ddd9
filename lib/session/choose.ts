/** The next token from its scores: what was said before is penalised, and tokens are drawn by their probability. */
import { invalid } from '../errors.js'
import { Random } from '../ops/random.js'

/** How tokens are chosen; the defaults choose the likeliest. */
export interface ChooseOptions {
  /** Divides scores before tokens are drawn. 0, the default: the likeliest token is taken and nothing is drawn. */
  temperature?: number | undefined
  /** Tokens are drawn from the fewest likeliest whose probabilities sum up to this. Default 1: from all. */
  topP?: number | undefined
  /** The same seed draws the same tokens. Default 0. */
  seed?: number | undefined
  /**
   * Scores of tokens that stand in the prompt or the answer so far are divided by it where positive, and multiplied
   * where negative (Keskar et al., 2019). Default 1: none.
   */
  repetitionPenalty?: number | undefined
  /** Answers that are followed side by side (beam search); the best is given at the end. Default 1. */
  beams?: number | undefined
  /**
   * Of beam search: an answer's log-probability is divided by its length to this power, so that above 0 long answers
   * are preferred, below 0 short ones. Default 1.
   */
  lengthPenalty?: number | undefined
}

/** The options, checked, with their defaults. */
export type Choosing = { [K in keyof Required<ChooseOptions>]: number }

/** @throws InputError for values out of range, and for beams that are drawn */
export function choosing({
  temperature = 0,
  topP = 1,
  seed = 0,
  repetitionPenalty = 1,
  beams = 1,
  lengthPenalty = 1,
}: ChooseOptions): Choosing {
  if (!(temperature >= 0) || temperature === Infinity)
    throw invalid('temperature', 'a number of at least 0', temperature)
  if (!(topP > 0 && topP <= 1)) throw invalid('topP', 'a number above 0, at most 1', topP)
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
    throw invalid('seed', 'a whole number from 0 to 4294967295', seed)
  if (!(repetitionPenalty > 0) || repetitionPenalty === Infinity)
    throw invalid('repetitionPenalty', 'a number above 0', repetitionPenalty)
  if (!Number.isInteger(beams) || beams < 1 || beams > 64) throw invalid('beams', 'a whole number from 1 to 64', beams)
  if (!Number.isFinite(lengthPenalty)) throw invalid('lengthPenalty', 'a number', lengthPenalty)
  if (beams > 1 && temperature > 0)
    throw invalid('temperature', 'none with beams', temperature, 'beam search takes the likeliest answer')
  return { temperature, topP, seed, repetitionPenalty, beams, lengthPenalty }
}

/** Divides positive and multiplies negative scores of the tokens by the penalty, in place. */
export function penalise(scores: Float32Array, ids: Iterable<number>, penalty: number): void {
  if (penalty === 1) return
  for (const id of new Set(ids)) {
    const score = scores[id]
    if (score !== undefined) scores[id] = score > 0 ? score / penalty : score * penalty
  }
}

/** The logarithms of the softmax of scores. */
export function logSoftmax(scores: Float32Array): Float64Array {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity)
  const sum = scores.reduce((n, s) => n + Math.exp(s - most), 0)
  return Float64Array.from(scores, (s) => s - most - Math.log(sum))
}

/** The probabilities that tokens are drawn by: softmax(scores / temperature), cut to the likeliest; their sum is 1. */
export function probabilities(scores: Float32Array, temperature: number, topP: number): Float64Array {
  const p = logSoftmax(scores.map((s) => s / temperature)).map(Math.exp)
  if (topP === 1) return p
  const order = Array.from(p.keys()).sort((a, b) => p[b]! - p[a]! || a - b)
  let mass = 0
  let kept = 0
  while (kept < order.length && mass < topP) mass += p[order[kept++]!]!
  for (const id of order.slice(kept)) p[id] = 0
  return p.map((x) => x / mass)
}

/** Chooses tokens one after another. */
export class Chooser {
  #numbers: Float32Array | undefined
  #drawn = 0

  /** @param most tokens that it will choose */
  constructor(
    readonly options: Choosing,
    readonly most: number,
  ) {}

  /** The next token after `before`, whose ids are penalised. Changes the scores. */
  async choose(scores: Float32Array, before: Iterable<number>): Promise<number> {
    const { temperature, topP, seed, repetitionPenalty } = this.options
    penalise(scores, before, repetitionPenalty)
    if (temperature === 0) return scores.reduce((best, s, id) => (s > scores[best]! ? id : best), 0)
    if (!this.#numbers) {
      using numbers = new Random(seed).uniform([this.most])
      this.#numbers = (await numbers.data()) as Float32Array
    }
    const u = this.#numbers[this.#drawn++]!
    const p = probabilities(scores, temperature, topP)
    let [sum, last] = [0, 0]
    for (const [id, x] of p.entries()) {
      if (x === 0) continue
      last = id
      if (u < (sum += x)) return id
    }
    return last // rounding left the sum below u
  }
}

/** Whether every score is a finite number. */
export const areFinite = (scores: Float32Array): boolean => scores.every((s) => Number.isFinite(s))
