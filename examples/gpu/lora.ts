// A frozen linear layer with a low-rank update that is trained, forward and backward: y = x Wᵀ + b + s·(x Aᵀ) Bᵀ. W gets
// no gradient and need not be float32. npx tsx examples/gpu/lora.ts [auto|cpu|cuda]
import {
  backward,
  cast,
  chooseDevice,
  lora,
  Random,
  scope,
  type DeviceChoice,
  type Tensor,
} from '../../lib/public/tensor.js' // in your project: from 'mtransllama/tensor'

/** A layer: W [out,in] and bias [out] frozen, A [r,in] and B [out,r] trained. */
export interface Layer {
  W: Tensor
  bias: Tensor
  A: Tensor
  B: Tensor
  /** alpha/r */
  scaling: number
}

/** y [...,out] of x [...,in], and the gradients of what is trained for dy, the gradient of y. The caller frees them. */
export function forwardBackward(x: Tensor, layer: Layer, dy: Tensor): { y: Tensor; dA: Tensor; dB: Tensor } {
  const { W, bias, A, B, scaling } = layer
  const y = lora(x, W, bias, A, B, scaling)
  backward(y, dy)
  return { y, dA: A.grad!, dB: B.grad! }
}

/** What a user runs. */
export async function main(choice: DeviceChoice = 'auto'): Promise<void> {
  const { device } = chooseDevice(choice)
  await scope(async () => {
    const random = new Random(1, device)
    const [rows, width, r] = [64, 768, 16]
    const layer: Layer = {
      W: cast(random.normal([width, width], 0, width ** -0.5), 'bfloat16'),
      bias: random.normal([width]),
      A: random.normal([r, width], 0, 1 / r).requireGrad('A'),
      B: random.normal([width, r], 0, 1 / r).requireGrad('B'),
      scaling: 1,
    }
    const { y, dA, dB } = forwardBackward(random.normal([rows, width]), layer, random.normal([rows, width]))
    for (const [name, t] of Object.entries({ y, dA, dB }))
      console.log(`${name} [${t.shape}] on ${device}:`, (await t.data()).slice(0, 3))
    for (const t of [dA, dB]) t.dispose() // gradients of leaves outlive scopes
  })
}

if (import.meta.filename === process.argv[1]) await main(process.argv[2] as DeviceChoice | undefined)
