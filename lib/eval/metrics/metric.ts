/** What every metric reads and returns. A metric runs no model: it compares texts. */
import { InputError } from '../../errors.js'

/** An answer beside what was expected of it. */
export interface Answered {
  id: string
  /** The question, as the language model read it. */
  prompt: string
  /** The expected answer. */
  answer: string
  /** Every right answer of an open question, where there are several; `answer` is then the first. */
  references?: readonly string[] | undefined
  choices?: readonly string[] | undefined
  task?: string | undefined
  /** What samples have in common beyond their video, such as the show. */
  group?: string | undefined
  /** The video that the question is about; answers about one video are not independent. */
  video: string
  /** The model's answer; undefined where there is none. */
  prediction: string | undefined
}

/** A metric of a list of answers. */
export interface Score {
  /** The implementation's name, such as `rougeL:google`: figures of different names are not comparable. */
  metric: string
  /** From 0 to 1; NaN where no answer counts. */
  value: number
  /** Each answer's own score from 0 to 1; undefined where the metric leaves the answer out. */
  items: readonly (number | undefined)[]
  /** Each answer's weight in the mean that `value` is; absent where it is no mean of the items. */
  weights?: readonly number[]
  /** Facts that a reader of the figure has to know. */
  notes: readonly string[]
}

/** A score that is the mean of its items, weighted where weights are given; those left out are not counted. */
export function meanScore(
  metric: string,
  items: readonly (number | undefined)[],
  notes: string[] = [],
  weights: readonly number[] = items.map(() => 1),
): Score {
  let [sum, weight] = [0, 0]
  items.forEach((item, i) => {
    if (item === undefined) return
    sum += weights[i]! * item
    weight += weights[i]!
  })
  return { metric, value: weight ? sum / weight : NaN, items, weights, notes }
}

/** A score per answer, and their mean. */
export const scoreEach = (
  metric: string,
  answers: readonly Answered[],
  score: (answer: Answered) => number | boolean | undefined,
  notes?: string[],
): Score =>
  meanScore(
    metric,
    answers.map((answer) => {
      const own = score(answer)
      return own === undefined ? undefined : Number(own)
    }),
    notes,
  )

/** The texts that an open answer is compared with. */
export const referencesOf = ({ references, answer }: Answered): readonly string[] =>
  references?.length ? references : [answer]

/** The error of an answer that a metric cannot read. */
export const unfit = (metric: string, { id }: Answered, sentence: string): InputError =>
  new InputError(`${metric}, sample ${JSON.stringify(id)}: ${sentence}.`)
