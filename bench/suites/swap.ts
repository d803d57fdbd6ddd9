/**
 * The cost of the channel swap: strides in the attention operator, or copies around it; and attention alone over tokens
 * that are contiguous in time.
 */
import { attend, type AttentionWeights } from '../../lib/nn/attention.js'
import { finder } from '../../lib/models/finder.js'
import { attention } from '../../lib/ops/attention.js'
import { swap } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import type { Bench, Precision } from '../bench.js'
import { Draw, load, numbers, upload } from '../files.js'

const copies = 3

async function temporal(bench: Bench, T: number, dtype: Precision): Promise<void> {
  const [L, heads] = bench.quick ? [4, 2] : [32, 12]
  const D = heads * 64
  const draw = new Draw(3)
  const weightsOf = new Map([
    ...['query', 'key', 'value', 'dense'].flatMap((name) => draw.linear(name, D, D)),
    ...draw.norm('norm', D),
  ])
  const file = await bench.files.write(weightsOf, dtype)
  const stored = await load(file, bench.device, dtype)
  await scope(async () => {
    const at = finder(stored)
    const weights: AttentionWeights = {
      query: at.linear('query', D, D),
      key: at.linear('key', D, D),
      value: at.linear('value', D, D),
      dense: at.linear('dense', D, D),
      norm: at.norm('norm', D, 1e-12),
      heads,
    }
    const inputs = Array.from(
      { length: copies },
      () =>
        ['q', 'k', 'v'].map(() => upload(draw.normal([1, T, L, D]), bench.device, dtype)) as [Tensor, Tensor, Tensor],
    )
    const ordered = inputs.map((qkv) => qkv.map((t) => noGrad(() => swap(t))) as [Tensor, Tensor, Tensor])
    const calls = <I>(of: readonly I[], f: (x: I) => Tensor) =>
      of.map((x) => () => scope(() => void noGrad(() => f(x))))
    const outputs = (f: () => Tensor) => () => ({ time: numbers(noGrad(f)) })
    const strided = ([q, k, v]: [Tensor, Tensor, Tensor]): Tensor => attention(q, k, v, { heads, over: 1 })
    const copied = ([q, k, v]: [Tensor, Tensor, Tensor]): Tensor =>
      swap(attention(swap(q), swap(k), swap(v), { heads, over: 2 }))
    const alone = ([q, k, v]: [Tensor, Tensor, Tensor]): Tensor => attention(q, k, v, { heads, over: 2 })
    const sizes = { B: 1, T, L, D, heads }
    await bench.time({
      id: `attention in time T=${T}, by strides`,
      sizes,
      dtype,
      pass: 'forward',
      calls: calls(inputs, strided),
      outputs: outputs(() => strided(inputs[0]!)),
      flops: 4 * D * L * T ** 2,
      ways: [
        { name: 'with copies', calls: calls(inputs, copied), outputs: outputs(() => copied(inputs[0]!)) },
        { name: 'already in order', calls: calls(ordered, alone), outputs: outputs(() => swap(alone(ordered[0]!))) },
      ],
    })
    const block = ([x]: readonly Tensor[]): Tensor => attend(weights, x!, { over: 1 })
    const around = ([x]: readonly Tensor[]): Tensor => swap(attend(weights, swap(x!), { over: 2 }))
    await bench.time({
      id: `block in time T=${T}, by strides`,
      sizes,
      dtype,
      pass: 'forward',
      calls: calls(inputs, block),
      outputs: outputs(() => block(inputs[0]!)),
      flops: 8 * T * L * D ** 2 + 4 * D * L * T ** 2,
      ways: [{ name: 'with copies', calls: calls(inputs, around), outputs: outputs(() => around(inputs[0]!)) }],
    })
  })
  for (const t of stored.values()) t.dispose()
  bench.files.forget(file)
}

export async function run(bench: Bench): Promise<void> {
  for (const dtype of bench.options.dtypes) {
    if (dtype === 'mixed' || (dtype === 'bfloat16' && bench.options.selection === 'some')) continue
    for (const T of bench.pick({ quick: [3], some: [8, 64], all: [4, 8, 16, 32, 64, 128] }))
      await temporal(bench, T, dtype)
  }
}
