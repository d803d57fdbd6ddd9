// The order of samples, the learning rate, and the moving average of what is trained.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Average } from '../../lib/train/average.js'
import type { Adapter } from '../../lib/adapter/adapter.js'
import { shuffled } from '../../lib/random.js'
import { byLength, chunks, rateFactor } from '../../lib/train/schedule.js'
import { write } from '../../lib/ops/copy.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { tensor } from '../../lib/tensor/tensor.js'

test('after warm-up the rate is constant, or falls to 0 in a line or in half a cosine', () => {
  const rates = (schedule: Parameters<typeof rateFactor>[3]): number[] =>
    Array.from({ length: 10 }, (_, step) => rateFactor(step, 10, 2, schedule))
  for (const schedule of ['constant', 'linear', 'cosine'] as const) {
    const r = rates(schedule)
    assert.equal(r.slice(0, 3), [1 / 3, 2 / 3, 1], schedule)
  }
  assert.equal(rates('constant').slice(2), Array(8).fill(1))
  rates('linear')
    .slice(2)
    .forEach((r, i) => assert.ok(Math.abs(r - (1 - i / 8)) < 1e-15))
  rates('cosine')
    .slice(2)
    .forEach((r, i) => assert.ok(Math.abs(r - (1 + Math.cos((Math.PI * i) / 8)) / 2) < 1e-15))
})

test('batches by length are a permutation by seed and epoch, with little padding, the short batch last', () => {
  const lengths = Array.from({ length: 403 }, (_, i) => 5 + ((i * 7919) % 97))
  const padding = (order: readonly number[]): number => {
    const batches = chunks(order, 4).map((b) => b.map((i) => lengths[i]!))
    const padded = batches.reduce((n, b) => n + b.length * Math.max(...b), 0)
    return 1 - lengths.reduce((a, b) => a + b) / padded
  }
  const order = byLength(lengths, 4, 3, 1)
  assert.equal(
    [...order].sort((a, b) => a - b),
    lengths.map((_, i) => i),
  )
  assert.equal(byLength(lengths, 4, 3, 1), order)
  for (const other of [byLength(lengths, 4, 3, 2), byLength(lengths, 4, 4, 1)]) assert.not.equal(other, order)
  assert.ok(padding(order) < 0.02, `${padding(order)}`)
  assert.ok(padding(shuffled(403, 3, 1)) > 0.2)
  // Which lengths come when is drawn: they do not fall from the first step to the last.
  const means = chunks(order, 4).map((b) => b.reduce((n, i) => n + lengths[i]!, 0) / b.length)
  assert.ok(means.slice(1).filter((m, i) => m > means[i]!).length > 30)
  assert.equal(byLength([], 4, 3, 1), [])
  assert.equal(byLength([9], 4, 3, 1), [0])
})

test('the moving average is that of its equation, and lends itself without a trace', async () => {
  const values = (t: number): number[] => Array.from({ length: 37 }, (_, i) => Math.fround(Math.sin(i + t * t)))
  const p = keep(tensor(Float32Array.from(values(0)), [37])).requireGrad('p')
  const adapter = { parameters: new Map([['p', p]]) } as unknown as Adapter
  const average = new Average(adapter, 0.9)
  let wanted = values(0)
  for (let t = 1; t <= 30; t++) {
    scope(() => write(p, tensor(Float32Array.from(values(t)), [37])))
    average.update(t)
    const d = Math.min(0.9, (1 + t) / (10 + t))
    wanted = wanted.map((e, i) => d * e + (1 - d) * values(t)[i]!)
  }
  const seen = await average.during(async () => [...((await p.data()) as Float32Array)])
  const error = Math.hypot(...seen.map((x, i) => x - wanted[i]!)) / Math.hypot(...wanted)
  assert.ok(error < 1e-6, `${error}`)
  assert.equal([...((await p.data()) as Float32Array)], values(30))
  await average
    .during(async () => {
      throw new Error('in the middle')
    })
    .catch(() => {})
  assert.equal([...((await p.data()) as Float32Array)], values(30))
  average.dispose()
  p.dispose()
})

test.run()
