// Means and deviations; differences paired by seed and clip, with intervals that hold what they should.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { randomStream } from '../../lib/random.js'
import { meanOf, pairedBySeed } from '../../lib/reproduce/statistics.js'

test('mean and sample deviation', () => {
  assert.equal(meanOf([2, 4, 4, 4, 5, 5, 7, 9]).mean, 5)
  assert.ok(Math.abs(meanOf([2, 4, 4, 4, 5, 5, 7, 9]).deviation! - Math.sqrt(32 / 7)) < 1e-12)
  assert.equal(meanOf([3]), { mean: 3, deviation: undefined })
})

const clips = Array.from({ length: 40 }, (_, i) => `clip ${Math.floor(i / 2)}`)
const seeds = (count: number, share: (seed: number) => number, stream: number): number[][] =>
  Array.from({ length: count }, (_, s) => {
    const random = randomStream(s, stream)
    return clips.map(() => Number(random() < share(s)))
  })

test('the difference is the mean over seeds and answers; a clear one is better or worse, the same one undecided', () => {
  const [good, bad] = [seeds(3, () => 0.9, 1), seeds(3, () => 0.2, 2)]
  const d = pairedBySeed(good, bad, clips)
  const mean = (of: number[][]): number => meanOf(of.flat()).mean
  assert.ok(Math.abs(d.difference - (mean(good) - mean(bad))) < 1e-12)
  assert.equal([d.verdict, d.seeds, d.answers], ['better', 3, 40])
  assert.is(pairedBySeed(bad, good, clips).verdict, 'worse')
  const same = pairedBySeed(good, good, clips)
  assert.equal([same.difference, same.low, same.high, same.verdict], [0, 0, 0, 'undecided'])
  assert.equal(pairedBySeed(good, bad, clips), d, 'the same draws each time')
  const [first, other] = [good.slice(0, 1), bad.slice(0, 1)]
  assert.is(pairedBySeed(first, other, clips).verdict, 'undecided', 'one seed')
})

test('seeds that disagree widen the interval, though every clip agrees', () => {
  const half = clips.map(() => 0.5)
  const torn = pairedBySeed([clips.map(() => 1), clips.map(() => 0)], [half, half], clips)
  assert.equal([torn.difference, torn.low, torn.high, torn.verdict], [0, -0.5, 0.5, 'undecided'])
})

test('answers about one clip are drawn together, so that they count as one', () => {
  const one = [clips.map((_, i) => Number(i % 4 < 2))] // clip by clip all right or all wrong
  const none = [clips.map(() => 0)]
  const width = (groups: string[]): number => {
    const { low, high } = pairedBySeed(one, none, groups)
    return high - low
  }
  const alone = width(clips.map((_, i) => `${i}`))
  assert.ok(width(clips) > 1.2 * alone)
})

test('answers that one of the two does not have are left out', () => {
  const d = pairedBySeed([[1, 1, undefined, 0]], [[0, undefined, 1, 0]], ['a', 'b', 'c', 'd'])
  assert.is(d.difference, 0.5)
})

test.run()
