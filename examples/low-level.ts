// Tensors by hand: one factorized attention, first over space, then over time, and its gradients. npx tsx
// examples/low-level.ts
import { attention, backward, linear, memory, Random, scope, sumDim, sync, reshape } from '../lib/index.js' // in your project: from 'mtransllama'

const [B, T, L, D, heads] = [2, 8, 32, 768, 12]
await scope(async () => {
  const random = new Random(1)
  const x = random.normal([B, T, L, D]).requireGrad('x')
  const [wq, wk, wv] = [0, 1, 2].map(() => random.normal([D, D], 0, D ** -0.5)) as [typeof x, typeof x, typeof x]

  // The same weights twice; `over` says which dimension attends. Over time nothing is moved: it is a change of strides.
  const attend = (y: typeof x, over: number) =>
    attention(linear(y, wq), linear(y, wk), linear(y, wv), { heads, over, mode: 'off' })
  const y = attend(attend(x, 2), 1)

  backward(sumDim(reshape(y, [-1]), 0))
  console.log('output', y.shape, (await y.data()).slice(0, 3))
  console.log('gradient', x.grad!.shape, (await x.grad!.data()).slice(0, 3))
  x.grad!.dispose() // gradients of leaves outlive scopes
})
await sync()
console.log('bytes left:', memory().bytes)
