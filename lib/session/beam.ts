/**
 * Beam search as transformers 5 does it: the likeliest continuations of all running answers are followed, those that
 * end are kept by their log-probability over a power of their length, and the search ends when no running answer can
 * become better than the worst that is kept.
 */
import { logSoftmax, penalise, type Choosing } from './choose.js'

/** A decoder of as many rows as there are beams, which all begin with the same prompt. */
export interface Beams {
  /** The scores [rows·V] of the tokens behind the prompt. */
  begin(): Promise<Float32Array>
  /** Appends a token to every row, each of which goes on where row `parents[r]` was; the scores of the next. */
  next(ids: readonly number[], parents: readonly number[]): Promise<Float32Array>
}

export interface BeamOptions extends Pick<Choosing, 'beams' | 'lengthPenalty' | 'repetitionPenalty'> {
  /** Most tokens of an answer. */
  maxTokens: number
  eosIds: readonly number[]
  /** Ids of the prompt, which the repetition penalty counts. */
  prompt: readonly number[]
  /** Called with the scores of every step. */
  check(scores: Float32Array, made: number): Promise<void> | void
}

/** An answer that has ended, at an end token or at the length that is allowed. */
interface Ended {
  ids: number[]
  score: number
  isStopped: boolean
}

/** The best answer, without its end token, and whether it ended with one. */
export async function beamSearch(decoder: Beams, options: BeamOptions): Promise<Pick<Ended, 'ids' | 'isStopped'>> {
  const { beams, lengthPenalty, repetitionPenalty, maxTokens, eosIds, prompt, check } = options
  // All rows are alike at first, so that only one counts.
  let running = Array.from({ length: beams }, (_, r) => ({ ids: [] as number[], score: r === 0 ? 0 : -1e9 }))
  const ended: Ended[] = []
  const keep = Math.max(2, 1 + eosIds.length) * beams
  let scores = await decoder.begin()
  for (let made = 1; ; made++) {
    await check(scores, made)
    const V = scores.length / beams
    const found: { row: number; id: number; score: number }[] = []
    for (const [row, { ids, score }] of running.entries()) {
      const logs = Float32Array.from(logSoftmax(scores.subarray(row * V, (row + 1) * V)))
      penalise(logs, [...prompt, ...ids], repetitionPenalty)
      for (const [id, log] of logs.entries()) insert(found, { row, id, score: score + log }, keep)
    }
    const isEnd = ({ id }: { id: number }): boolean => eosIds.includes(id) || made >= maxTokens
    for (const one of found.slice(0, beams)) {
      if (!isEnd(one)) continue
      const isStopped = eosIds.includes(one.id)
      const ids = [...running[one.row]!.ids, ...(isStopped ? [] : [one.id])]
      insert(ended, { ids, isStopped, score: one.score / made ** lengthPenalty }, beams)
    }
    const open = found.filter((one) => !isEnd(one)).slice(0, beams)
    if (!open.length) break
    const isFull = ended.length === beams
    const worst = ended.at(-1)?.score ?? -Infinity
    // As transformers estimates it: what the best running answer is worth at its length of now.
    if (isFull && open[0]!.score / made ** lengthPenalty <= worst) break
    const parents = open.map(({ row }) => row)
    running = open.map(({ row, id, score }) => ({ ids: [...running[row]!.ids, id], score }))
    scores = await decoder.next(
      open.map(({ id }) => id),
      parents,
    )
  }
  return ended[0]!
}

/** Inserts into a list that is sorted by score, of so many at most; of equals the first stays first. */
function insert<T extends { score: number }>(list: T[], one: T, most: number): void {
  if (list.length === most && !(one.score > list.at(-1)!.score)) return
  let at = list.length
  while (at > 0 && one.score > list[at - 1]!.score) at--
  list.splice(at, 0, one)
  if (list.length > most) list.pop()
}
