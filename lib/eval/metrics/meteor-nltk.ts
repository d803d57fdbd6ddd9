/** METEOR as NLTK 3.7 computes it, the form of QaEgo4D. */
import { referencesOf, scoreEach, type Answered, type Score } from './metric.js'
import { stem } from './porter.js'
import { googleWords } from './rouge.js'
import type { WordNet } from './wordnet.js'

/** A word and its place in its text. */
type Word = [place: number, text: string]
type Match = [predicted: number, expected: number]

/**
 * Pairs words that `equal` holds for and takes them out of both lists: from the last word of the prediction to the
 * first, each with the last word of the reference that is left.
 */
function matchWords(predicted: Word[], expected: Word[], equal: (word: string) => (other: string) => boolean): Match[] {
  const matches: Match[] = []
  for (let i = predicted.length - 1; i >= 0; i--) {
    const fits = equal(predicted[i]![1])
    const j = expected.findLastIndex(([, text]) => fits(text))
    if (j < 0) continue
    matches.push([predicted[i]![0], expected[j]![0]])
    predicted.splice(i, 1)
    expected.splice(j, 1)
  }
  return matches
}

/**
 * METEOR of two texts: words are paired as they are, then by stem, then as synonyms (of what the second stage left as
 * stems). With m pairs in c chunks, P = m/|prediction|, R = m/|reference|:
 * `PR/(0.9P + 0.1R) · (1 − 0.5(c/m)³)`, and 0 where nothing pairs.
 */
export function meteor(prediction: readonly string[], reference: readonly string[], wordnet: WordNet): number {
  const numbered = (words: readonly string[]): Word[] => words.map((word, i) => [i, word.toLowerCase()])
  const stemmed = (words: readonly Word[]): Word[] => words.map(([i, word]) => [i, stem(word)])
  let [predicted, expected] = [numbered(prediction), numbered(reference)]
  const same = (word: string) => (other: string) => other === word
  const matches = matchWords(predicted, expected, same)
  ;[predicted, expected] = [stemmed(predicted), stemmed(expected)]
  matches.push(...matchWords(predicted, expected, same))
  matches.push(
    ...matchWords(predicted, expected, (word) => {
      const synonyms = wordnet.synonyms(word)
      return (other) => other === word || synonyms.has(other)
    }),
  )
  const m = matches.length
  if (!m) return 0
  matches.sort(([a], [b]) => a - b)
  const chunks = matches.filter(([p, e], i) => {
    const [before, other] = matches[i - 1] ?? [NaN, NaN]
    return !(p === before + 1 && e === other + 1)
  }).length
  const [P, R] = [m / prediction.length, m / reference.length]
  return ((P * R) / (0.9 * P + 0.1 * R)) * (1 - 0.5 * (chunks / m) ** 3)
}

/** `meteor:nltk3.7` over words of Google's rouge_score, the best of several references, the mean over answers. */
export const meteorNltk = (answers: readonly Answered[], wordnet: WordNet): Score =>
  scoreEach('meteor:nltk3.7', answers, (a) =>
    Math.max(
      ...referencesOf(a).map((reference) => meteor(googleWords(a.prediction ?? ''), googleWords(reference), wordnet)),
    ),
  )
