/** How sure a figure is: bootstrap intervals over groups of samples, and tests of two runs on the same samples. */
import { InputError } from '../../errors.js'
import { randomStream } from '../../random.js'
import { meanScore, type Score } from './metric.js'

/** An interval that holds the figure with 95 %. */
export interface Interval {
  low: number
  high: number
  /** Independent groups that were drawn, with repetition. */
  groups: number
}

/** How samples are drawn. */
export interface Resampling {
  /** Draws. Default 2000. */
  draws?: number
  /** Default 0. */
  seed?: number
}

/** What a group adds to a mean: the sum of its weighted items, and their weight. */
type Sum = [sum: number, weight: number]

/** The groups' sums, in order of first occurrence; groups whose items are all left out have none. */
function groupSums({ items, weights }: Score, groups: readonly string[]): Sum[] {
  const sums = new Map<string, Sum>()
  items.forEach((item, i) => {
    if (item === undefined) return
    const [sum, weight] = sums.get(groups[i]!) ?? [0, 0]
    sums.set(groups[i]!, [sum + weights![i]! * item, weight + weights![i]!])
  })
  return [...sums.values()]
}

/** The value at a share of a sorted list, interpolated between neighbours. */
export function quantile(sorted: readonly number[], share: number): number {
  const place = share * (sorted.length - 1)
  const [below, above] = [sorted[Math.floor(place)]!, sorted[Math.ceil(place)]!]
  return below + (place - Math.floor(place)) * (above - below)
}

/**
 * The 95 % interval of a score by the percentile bootstrap. Whole groups are drawn, since questions about one video are
 * not independent. Undefined for a score that is no mean of its items, and for fewer than two groups.
 *
 * @param groups the group of each answer
 */
export function bootstrap(
  score: Score,
  groups: readonly string[],
  { draws = 2000, seed = 0 }: Resampling = {},
): Interval | undefined {
  if (!score.weights) return undefined
  const sums = groupSums(score, groups)
  if (sums.length < 2) return undefined
  const random = randomStream(seed, 0)
  const values = Array.from({ length: draws }, () => {
    let [sum, weight] = [0, 0]
    for (let i = 0; i < sums.length; i++) {
      const [s, w] = sums[Math.floor(random() * sums.length)]!
      sum += s
      weight += w
    }
    return sum / weight
  }).sort((a, b) => a - b)
  return { low: quantile(values, 0.025), high: quantile(values, 0.975), groups: sums.length }
}

/** Two runs on the same samples. */
export interface Paired {
  /** The first run's mean less the second's, over the answers that both count. */
  difference: number
  interval: Interval | undefined
  /**
   * The share of exchanges of the two runs' answers, group by group at random, that give a difference at least as
   * large: what chance alone would give.
   */
  p: number
  /** Answers that both count. */
  answers: number
}

/**
 * Compares two scores of the same answers, item by item: bootstrap interval of the difference, and a permutation test.
 *
 * @throws InputError where the scores are not of the same metric and answers, or are no means
 */
export function paired(
  first: Score,
  second: Score,
  groups: readonly string[],
  { draws = 2000, seed = 0 }: Resampling = {},
): Paired {
  if (first.metric !== second.metric || first.items.length !== second.items.length)
    throw new InputError(
      `paired test: expected one metric of the same answers, but got ${first.metric} of ${first.items.length} and ${second.metric} of ${second.items.length}.`,
    )
  if (!first.weights)
    throw new InputError(`paired test: ${first.metric} is no mean over samples; choose another metric.`)
  const differences = first.items.map((item, i) => {
    const other = second.items[i]
    return item === undefined || other === undefined ? undefined : item - other
  })
  const score = meanScore(first.metric, differences, [], first.weights)
  const sums = groupSums(score, groups).map(([sum]) => sum)
  const seen = Math.abs(sums.reduce((a, b) => a + b, 0))
  const random = randomStream(seed, 1)
  let reached = 0
  for (let i = 0; i < draws; i++) {
    const sum = sums.reduce((total, d) => total + (random() < 0.5 ? d : -d), 0)
    if (Math.abs(sum) >= seen - 1e-9) reached++
  }
  return {
    difference: score.value,
    interval: bootstrap(score, groups, { draws, seed }),
    p: (reached + 1) / (draws + 1),
    answers: differences.filter((d) => d !== undefined).length,
  }
}
