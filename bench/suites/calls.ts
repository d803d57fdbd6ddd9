/** The cost of a call from JavaScript: by benchmark.js, since calls are synchronous and short. */
import Benchmark from 'benchmark'
import { attention } from '../../lib/ops/attention.js'
import { add } from '../../lib/ops/elementwise.js'
import { full } from '../../lib/ops/copy.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { empty } from '../../lib/tensor/tensor.js'
import { cpuName, type Bench } from '../bench.js'
import { spread } from '../harness.js'

export function run(bench: Bench): void {
  const [x, q] = [keep(full([1], 1, 'float32', bench.device)), keep(full([1, 4, 4, 64], 1, 'float32', bench.device))]
  // Waits now and then, so that the queue stays short.
  let queued = 0
  const now = (): void => {
    if (++queued % 256 === 0) syncBlocking()
  }
  const cases: Record<string, () => void> = {
    'a tensor made and disposed': () => empty([1], 'float32', bench.device).dispose(),
    'an empty scope': () => scope(() => undefined),
    'an operator on one number, queued': () => (add(x, x).dispose(), now()),
    'an operator on one number, waited for': () => (add(x, x).dispose(), syncBlocking()),
    'attention in time over 4 frames of 4 queries, waited for': () => (
      noGrad(() => attention(q, q, q, { heads: 1, over: 1 })).dispose(), syncBlocking()
    ),
  }
  for (const [id, fn] of Object.entries(cases)) {
    const timed = new Benchmark(
      id,
      fn,
      bench.quick ? { maxTime: 0.01, minTime: 0.001, minSamples: 1, initCount: 1 } : { maxTime: 1, minSamples: 20 },
    )
    timed.run({ async: false })
    if (timed.error) throw timed.error as Error
    bench.add({
      id,
      suite: bench.suite,
      sizes: {},
      dtype: 'float32',
      pass: 'other',
      threads: bench.options.threads,
      cpu: cpuName(),
      us: spread(timed.stats.sample.map((seconds: number) => 1e6 * seconds)),
      flops: 0,
      bytes: 0,
      bound: 'none',
      peers: [],
    })
  }
  x.dispose()
  q.dispose()
  syncBlocking()
}
