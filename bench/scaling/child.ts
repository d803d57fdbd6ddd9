// A rank of bench:scaling: how long exchanges between ranks take. The first prints its times, and those are of all, since
// each exchange waits for every rank.
import { performance } from 'node:perf_hooks'
import { full } from '../../lib/ops/copy.js'
import { launched, openMpi } from '../../lib/ranks/mpi.js'
import { scope } from '../../lib/tensor/scope.js'
import { empty } from '../../lib/tensor/tensor.js'
import type { Parameter } from '../../lib/train/optimizer.js'
import { GradientSum } from '../../lib/train/gradient-sum.js'

const [sizes, parameters, count] = process.argv.slice(2).map((text) => text.split(',').map(Number)) as [
  number[],
  [number],
  [number],
]
const ranks = await openMpi(launched()!)

/** Seconds of each of several calls, after one that does not count. */
async function timed(act: () => Promise<unknown>): Promise<number[]> {
  const seconds: number[] = []
  for (let i = 0; i <= count[0]; i++) {
    await ranks.gather(0) // all begin at once
    const begin = performance.now()
    await act()
    if (i) seconds.push((performance.now() - begin) / 1000)
  }
  return seconds
}

const exchanges: { bytes: number; seconds: number[] }[] = []
for (const bytes of sizes) {
  const mine = new Uint8Array(bytes).fill(ranks.rank)
  exchanges.push({ bytes, seconds: await timed(() => ranks.gatherBytes(mine)) })
}
// As many tensors as an adapter of full size has.
const TENSORS = 250
const size = Math.floor(parameters[0] / TENSORS)
const all = Array.from({ length: TENSORS }, (_, i): Parameter => {
  const tensor = empty([size])
  tensor.grad = full([size], i + ranks.rank)
  return { name: String(i), tensor, group: 'lora', decay: false }
})
const sum = new GradientSum(ranks, all)
const seconds = await timed(() =>
  scope(async () => {
    const { losses } = await sum.of((p) => p.tensor.grad, full([1], 1))
    await losses.data()
  }),
)
if (ranks.first) console.log(JSON.stringify({ exchanges, sum: { parameters: size * TENSORS, seconds } }))
await ranks.close()
