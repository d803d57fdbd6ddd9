// The channel swap, [B,T,L,D] to [B,L,T,D], twice: as a change of strides, and as a copy. Attention over time gives the
// same bits either way; the copy moves every element twice. npx tsx examples/gpu/channel-swap.ts [auto|cpu|cuda]
import {
  attention,
  chooseDevice,
  profile,
  Random,
  scope,
  swap,
  type DeviceChoice,
  type Tensor,
} from '../../lib/public/tensor.js' // in your project: from 'mtransllama/tensor'

/** Attention over T of x [B,T,L,D]: the operator reads the rows of time where they lie, T·D elements apart. */
export const byStride = (x: Tensor, heads: number): Tensor => attention(x, x, x, { heads, over: 1 })

/** The same on a swapped copy, whose result is swapped back. */
export function byCopy(x: Tensor, heads: number): Tensor {
  const swapped = swap(x) // [B,L,T,D]
  return swap(attention(swapped, swapped, swapped, { heads, over: 2 }))
}

/** What a user runs. */
export async function main(choice: DeviceChoice = 'auto'): Promise<void> {
  const { device } = chooseDevice(choice)
  await scope(async () => {
    const x = new Random(1, device).normal([2, 8, 32, 768])
    for (const way of [byStride, byCopy]) {
      const { result, profile: cost } = await profile(() => way(x, 12))
      const operators = cost.rows().map((r) => `${r.calls} × ${r.operator}`)
      console.log(`${way.name} on ${device}: ${operators.join(', ')};`, (await result.data()).slice(0, 3))
    }
  })
}

if (import.meta.filename === process.argv[1]) await main(process.argv[2] as DeviceChoice | undefined)
