/**
 * ROUGE-L, the longest common subsequence of two texts' words, in the two forms that publications use. They differ in
 * words, weights and the treatment of several references.
 */
import { meanScore, referencesOf, scoreEach, type Answered, type Score } from './metric.js'

/** The length of the longest common subsequence. */
export function commonSubsequence(a: readonly string[], b: readonly string[]): number {
  let row = new Uint32Array(b.length + 1)
  for (const word of a) {
    const next = new Uint32Array(b.length + 1)
    for (let j = 1; j <= b.length; j++) next[j] = word === b[j - 1] ? row[j - 1]! + 1 : Math.max(next[j - 1]!, row[j]!)
    row = next
  }
  return row[b.length]!
}

/** The words of Google's rouge_score without its stemmer: runs of a–z and 0–9 of the text in lower case. */
export const googleWords = (text: string): string[] => text.toLowerCase().match(/[a-z0-9]+/g) ?? []

/**
 * `rougeL:google`, rougeL of Google's rouge_score 0.0.4 and later without stemming, the form of QaEgo4D: F = 2PR/(P+R)
 * with P = lcs/|prediction| and R = lcs/|reference|, 0 where either is empty; the best F of several references; the
 * mean over answers.
 */
export const rougeGoogle = (answers: readonly Answered[]): Score =>
  scoreEach('rougeL:google', answers, (a) => {
    const predicted = googleWords(a.prediction ?? '')
    return Math.max(
      ...referencesOf(a).map((reference) => {
        const expected = googleWords(reference)
        const common = commonSubsequence(predicted, expected)
        return common ? (2 * common) / (predicted.length + expected.length) : 0
      }),
    )
  })

/** Weight of recall against precision in {@link rougeCoco}. */
const BETA = 1.2

/**
 * `rougeL:coco` over tokens that are given: F = (1+β²)PR/(R+β²P), β = 1.2, with P and R each the largest of any
 * reference; the mean over answers.
 *
 * @param predicted the tokens of each prediction, joined by single spaces
 * @param expected the same of each reference
 */
export function rougeCoco(
  metric: string,
  predicted: readonly string[],
  expected: readonly (readonly string[])[],
  notes: string[] = [],
): Score {
  const items = predicted.map((prediction, i) => {
    // An empty text is one empty word here, as in the original: two empty texts are equal.
    const words = prediction.split(' ')
    const [P, R] = [0, 0].map((_, side) =>
      Math.max(
        ...expected[i]!.map((text) => {
          const reference = text.split(' ')
          return commonSubsequence(words, reference) / (side ? reference : words).length
        }),
      ),
    ) as [number, number]
    return P && R ? ((1 + BETA ** 2) * P * R) / (R + BETA ** 2 * P) : 0
  })
  return meanScore(metric, items, notes)
}
