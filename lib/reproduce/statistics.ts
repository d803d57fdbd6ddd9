/** Figures of several runs: means, deviations, and differences paired by seed and by clip. */
import { randomStream } from '../random.js'
import { quantile } from '../eval/metrics/intervals.js'

/** The mean of numbers, and their sample deviation: undefined for a single one. */
export function meanOf(values: readonly number[]): { mean: number; deviation: number | undefined } {
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  if (values.length < 2) return { mean, deviation: undefined }
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0)
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) }
}

/** Scores of one run, an answer each, from 0 to 1; undefined where there is none. */
export type Scores = readonly (number | undefined)[]

/** A difference of two variants over the same seeds and answers. */
export interface Difference {
  /** The mean of the first less that of the second. */
  difference: number
  /** The middle 95 % of 2000 draws. */
  low: number
  high: number
  /** `undecided` where 0 lies within, and with one seed, whose luck is not known. */
  verdict: 'better' | 'worse' | 'undecided'
  seeds: number
  answers: number
}

const DRAWS = 2000

/**
 * The difference of two variants: seed by seed and answer by answer, then the mean. For the interval, seeds and clips
 * are drawn with repetition, each on its own, since both are a sample of what might have been.
 *
 * @param first scores of each seed, as `second`; the same seeds and answers in the same order
 * @param clips the clip of each answer; answers about one clip are drawn together
 */
export function pairedBySeed(
  first: readonly Scores[],
  second: readonly Scores[],
  clips: readonly string[],
  seed = 0,
): Difference {
  const places = new Map([...new Set(clips)].map((clip, i) => [clip, i]))
  /** By seed: of each clip the sum of its differences, and how many there are. */
  const sums = first.map((scores, s) => {
    const sum = new Float64Array(places.size)
    const count = new Float64Array(places.size)
    scores.forEach((a, i) => {
      const b = second[s]![i]
      if (a === undefined || b === undefined) return
      const clip = places.get(clips[i]!)!
      sum[clip]! += a - b
      count[clip]!++
    })
    return { sum, count }
  })
  const over = (seeds: readonly number[], drawn: readonly number[]): number => {
    let [sum, count] = [0, 0]
    for (const s of seeds)
      for (const clip of drawn) {
        sum += sums[s]!.sum[clip]!
        count += sums[s]!.count[clip]!
      }
    return sum / count
  }
  const [everySeed, everyClip] = [[...sums.keys()], [...places.values()]]
  const random = randomStream(seed, 2)
  const draw = (of: readonly number[]): number[] => of.map(() => of[Math.floor(random() * of.length)]!)
  const draws = Array.from({ length: DRAWS }, () => over(draw(everySeed), draw(everyClip)))
    .filter((d) => !Number.isNaN(d))
    .sort((a, b) => a - b)
  const [low, high] = [quantile(draws, 0.025), quantile(draws, 0.975)]
  return {
    difference: over(everySeed, everyClip),
    low,
    high,
    verdict: sums.length < 2 || (low <= 0 && high >= 0) ? 'undecided' : low > 0 ? 'better' : 'worse',
    seeds: sums.length,
    answers: clips.length,
  }
}
