// A training step as one CUDA graph: forward, backward and AdamW are recorded once and launched as a whole for every
// batch. On the CPU, which has no graphs, the same calls run one by one. npx tsx examples/gpu/graph-step.ts
// [auto|cpu|cuda]
import {
  AdamW,
  backward,
  chooseDevice,
  crossEntropy,
  Graph,
  linear,
  Random,
  reshape,
  scope,
  tensor,
  write,
  zeros,
  type Device,
  type DeviceChoice,
  type Tensor,
} from '../../lib/public/tensor.js' // in your project: from 'mtransllama/tensor'

/** Rows [n,D] and their classes [n]. */
export interface Batch {
  x: Float32Array
  labels: Int32Array
}

/** Trains w [classes,D] in place to tell the classes of rows apart, a step a batch of n rows. Returns their losses. */
export async function fit(
  w: Tensor,
  n: number,
  batches: readonly Batch[],
  device: Device,
  lr = 0.1,
): Promise<number[]> {
  const optimizer = new AdamW([{ name: 'w', tensor: w.requireGrad('w'), group: 'w', decay: true }], {
    lr,
    betas: [0.9, 0.95],
    eps: 1e-8,
    weightDecay: 0.05,
  })
  return scope(async () => {
    // What a graph reads stays in its place; each batch is written there.
    const x = zeros([n, w.dim(1)], 'float32', device)
    const labels = zeros([n], 'int32', device)
    const step = (): Tensor => {
      const loss = crossEntropy(linear(x, w), labels, 1 / n)
      backward(loss)
      const report = optimizer.update(reshape(loss, [1]))
      optimizer.zeroGrad()
      return report
    }
    optimizer.prepare() // what a graph reads is there before it is recorded
    const captured = device === 'cpu' ? undefined : Graph.capture(device, step) // nothing runs yet
    const losses: number[] = []
    for (const batch of batches) {
      optimizer.prepare() // the step's number is an input too
      write(x, tensor(batch.x, x.shape, 'float32', device))
      write(labels, tensor(batch.labels, labels.shape, 'int32', device))
      captured?.graph.replay()
      const report = captured ? captured.result : step()
      losses.push(...(await optimizer.finish(report)).losses)
    }
    captured?.graph.dispose()
    optimizer.dispose()
    return losses
  })
}

/** What a user runs. */
export async function main(choice: DeviceChoice = 'auto'): Promise<void> {
  const { device } = chooseDevice(choice)
  await scope(async () => {
    const [n, D, classes] = [32, 64, 8]
    const w = new Random(1, device).normal([classes, D], 0, 0.1)
    const labels = Int32Array.from({ length: n }, (_, i) => i % classes)
    const x = Float32Array.from({ length: n * D }, (_, i) => Math.sin(i * (1 + labels[Math.floor(i / D)]!)))
    const losses = await fit(w, n, new Array(10).fill({ x, labels }), device)
    console.log(`losses on ${device}:`, losses.map((l) => l.toFixed(4)).join(' '))
  })
}

if (import.meta.filename === process.argv[1]) await main(process.argv[2] as DeviceChoice | undefined)
