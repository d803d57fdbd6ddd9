// Factorized attention, forward and backward: the queries of a frame attend to each other, then each query to itself in
// the other frames, with the same weights. npx tsx examples/gpu/factorized-attention.ts [auto|cpu|cuda]
import {
  attention,
  backward,
  chooseDevice,
  linear,
  memory,
  Random,
  scope,
  sync,
  type DeviceChoice,
  type Tensor,
} from '../../lib/public/tensor.js' // in your project: from 'mtransllama/tensor'

/** Weights of the queries, keys and values, [D,D] each. */
export interface Weights {
  q: Tensor
  k: Tensor
  v: Tensor
}

/** x [B,T,L,D] to [B,T,L,D]. `over` names the dimension that attends; over time it is a change of strides, no copy. */
export function factorized(x: Tensor, { q, k, v }: Weights, heads: number): Tensor {
  const attend = (y: Tensor, over: number): Tensor =>
    attention(linear(y, q), linear(y, k), linear(y, v), { heads, over })
  const space = attend(x, 2) // T·L² scores
  return attend(space, 1) // L·T² scores
}

/** What a user runs. */
export async function main(choice: DeviceChoice = 'auto'): Promise<void> {
  const { device } = chooseDevice(choice)
  await scope(async () => {
    const random = new Random(1, device)
    const [B, T, L, D, heads] = [2, 8, 32, 768, 12]
    const x = random.normal([B, T, L, D]).requireGrad('x')
    const [q, k, v] = [0, 1, 2].map(() => random.normal([D, D], 0, D ** -0.5)) as [Tensor, Tensor, Tensor]
    const y = factorized(x, { q, k, v }, heads)
    backward(y, random.normal(y.shape)) // the gradient of each of y's elements
    console.log(`computed on ${device}`)
    console.log('output', y.shape, (await y.data()).slice(0, 3))
    console.log('gradient', x.grad!.shape, (await x.grad!.data()).slice(0, 3))
    x.grad!.dispose() // gradients of leaves outlive scopes
  })
  await sync()
  console.log('bytes left:', memory().bytes)
}

if (import.meta.filename === process.argv[1]) await main(process.argv[2] as DeviceChoice | undefined)
