/** Metrics of closed questions: accuracy, exact match, and precision, recall and F1 of two classes. */
import { InputError, show } from '../../errors.js'
import { scoreEach, type Answered, type Score } from './metric.js'

/** Whether answers are equal but for letter case, surrounding space and a final full stop. */
export const sameAnswer = (a: string, b: string): boolean => normal(a) === normal(b)
const normal = (s: string): string => s.trim().toLowerCase().replace(/\s+/g, ' ').replace(/\.$/, '')

/** The share of answers that {@link sameAnswer} finds equal to the expected one; no answer is a wrong one. */
export const accuracyScore = (answers: readonly Answered[]): Score =>
  scoreEach('accuracy', answers, (a) => a.prediction !== undefined && sameAnswer(a.prediction, a.answer))

/** The share of answers that equal the expected one to the letter, as QaEgo4D's own script counts. */
export const exactScore = (answers: readonly Answered[]): Score =>
  scoreEach('exact', answers, (a) => a.prediction === a.answer)

/** How well one class is found. */
export interface ClassScore {
  label: string
  /** Answers that expect this class. */
  support: number
  /** Of the answers that name this class, the share that expects it; 0 where none names it. */
  precision: number
  /** Of the answers that expect this class, the share that names it; 0 where none expects it. */
  recall: number
  /** 2PR/(P+R); 0 where both are 0. */
  f1: number
}

/** Precision, recall and F1. */
export type Rates = Pick<ClassScore, 'precision' | 'recall' | 'f1'>

/** Two classes, compared. */
export interface Binary {
  metric: 'binary'
  accuracy: number
  /** The class that the headline figures are of; it is named, since the two give different figures. */
  positive: ClassScore
  negative: ClassScore
  /** Means of the two classes, each weighing the same; and each by its support. */
  macro: Rates
  weighted: Rates
  /** Answers that name neither class, or both: wrong, and counted for no class. */
  unparsed: number
}

/**
 * Precision, recall and F1 of both classes of a closed question of two classes, as scikit-learn computes them with
 * `zero_division=0`.
 *
 * An answer's class is the one it equals ({@link sameAnswer}); else the one label that occurs in it as a word, as
 * MMLA's script reads answers. An answer with no or with both labels is wrong.
 *
 * @param positiveLabel one of the two labels, the expected answers that occur
 * @throws InputError where there are not two classes, or `positiveLabel` is neither
 */
export function binaryScore(answers: readonly Answered[], positiveLabel: string): Binary {
  const labels = [...new Set(answers.flatMap((a) => [...(a.choices ?? []), a.answer]))]
  if (labels.length !== 2)
    throw new InputError(
      `binary: expected answers of two classes, but got ${labels.length}: ${show(labels)}; choose another metric.`,
    )
  const positive = labels.find((label) => sameAnswer(label, positiveLabel))
  if (positive === undefined)
    throw new InputError(`positiveLabel: expected ${labels.map(show).join(' or ')}, but got ${show(positiveLabel)}.`)
  const named = answers.map((a) => classOf(a.prediction, labels))
  const rates = (label: string): ClassScore => {
    const [truth, claim] = [answers.map((a) => a.answer === label), named.map((name) => name === label)]
    const hits = truth.filter((is, i) => is && claim[i]).length
    const [support, claims] = [truth, claim].map((list) => list.filter(Boolean).length) as [number, number]
    return {
      label,
      support,
      precision: ratio(hits, claims),
      recall: ratio(hits, support),
      f1: ratio(2 * hits, support + claims),
    }
  }
  const [first, second] = [rates(positive), rates(labels.find((label) => label !== positive)!)]
  const mean = (a: number, b: number): Rates => {
    const of = (key: keyof Rates): number => ratio(a * first[key] + b * second[key], a + b)
    return { precision: of('precision'), recall: of('recall'), f1: of('f1') }
  }
  return {
    metric: 'binary',
    accuracy: ratio(answers.filter((a, i) => a.answer === named[i]).length, answers.length),
    positive: first,
    negative: second,
    macro: mean(1, 1),
    weighted: mean(first.support, second.support),
    unparsed: named.filter((name) => name === undefined).length,
  }
}

const ratio = (part: number, whole: number): number => (whole ? part / whole : 0)

/** The one label that an answer names. */
function classOf(prediction: string | undefined, labels: readonly string[]): string | undefined {
  if (prediction === undefined) return undefined
  const equal = labels.find((label) => sameAnswer(label, prediction))
  if (equal !== undefined) return equal
  const text = ` ${words(prediction)} `
  const held = labels.filter((label) => text.includes(` ${words(label)} `))
  return held.length === 1 ? held[0] : undefined
}
const words = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()
