/** Training steps with and without recomputation, compared bit by bit; for tests on the CPU and on CUDA devices. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import * as assert from 'uvu/assert'
import { Adapter } from '../../lib/adapter/adapter.js'
import { readManifest } from '../../lib/data/manifest.js'
import { Random } from '../../lib/ops/random.js'
import { write } from '../../lib/ops/copy.js'
import { openCheckpoint, type Checkpoint } from '../../lib/session/checkpoint.js'
import { Features } from '../../lib/session/features.js'
import type { Device } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { RECOMPUTE, type Recompute } from '../../lib/train/config.js'
import { AdamW, type Outcome } from '../../lib/train/optimizer.js'
import { Trainer } from '../../lib/train/trainer.js'
import { settled } from './memory.js'
import { trainConfig, writeCheckpoint, type World } from './world.js'

/** Notes a hash of every gradient of each step. */
class Recorder extends AdamW {
  readonly seen: string[] = []
  /** Gradients other than 0. */
  reached = 0
  trainer: Trainer | undefined
  override async finish(report: Tensor): Promise<Outcome> {
    const outcome = await super.finish(report)
    for (const p of this.parameters) {
      const gradient = (this.trainer?.['graphs']?.gradient(p) ?? p.tensor.grad)?.dataBlocking() as Float32Array
      assert.ok(gradient?.every(Number.isFinite), `${p.name} has a gradient`)
      if (gradient.some((x) => x !== 0)) this.reached++
      this.seen.push(`${p.name} ${createHash('sha256').update(new Uint8Array(gradient.buffer)).digest('hex')}`)
    }
    return outcome
  }
}

/** What a run of some steps gives: losses and gradients as they come, and the trained tensors at the end. */
async function steps(
  checkpoint: Checkpoint,
  world: World,
  more: Parameters<typeof trainConfig>[2],
  recompute: Recompute,
  batches: readonly (readonly number[])[],
): Promise<string[]> {
  const { model } = checkpoint
  const { adapter: config } = trainConfig(world, 'none', more)
  const adapter = new Adapter(model.config, config, { seed: 3, device: model.device })
  const random = new Random(5)
  // Not at the start, where half of the LoRA has no gradient.
  scope(() => {
    for (const t of adapter.parameters.values()) write(t, random.normal(t.shape, 0, 0.3).to(model.device))
  })
  const optimizer = new Recorder(
    adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
    { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, clip: 5 },
  )
  const features = new Features(checkpoint, { frames: config.frames, sampling: { kind: 'uniform' } })
  const trainer = new Trainer(checkpoint, adapter, features, optimizer, { recompute })
  optimizer.trainer = trainer
  const samples = await readManifest(world.train)
  const losses: number[] = []
  for (const sizes of batches)
    losses.push((await trainer.step(sizes.map((size, i) => samples.slice(3 * i, 3 * i + size)))).loss)
  // A router whose hidden units are all 0 has gradients of 0.
  assert.ok(optimizer.reached > 0.7 * optimizer.seen.length, `${optimizer.reached} of ${optimizer.seen.length}`)
  const values = [...adapter.parameters].map(
    ([name, t]) => `${name} ${Buffer.from((t.dataBlocking() as Float32Array).buffer).toString('base64')}`,
  )
  trainer.dispose()
  optimizer.dispose()
  adapter.dispose()
  return [...losses.map(String), ...optimizer.seen, ...values]
}

/** Every choice of recomputation gives the bits of none, and memory returns. */
export async function sameBits(
  world: World,
  {
    kind = 'instructblip',
    device = 'cpu',
    precision = 'float32',
    more = {},
    batches = [[2], [2, 3]],
  }: {
    kind?: 'instructblip' | 'blip2'
    device?: Device
    precision?: 'float32' | 'bfloat16'
    more?: Parameters<typeof trainConfig>[2]
    /** Of each step the samples of its micro-batches. */
    batches?: readonly (readonly number[])[]
  },
): Promise<void> {
  const folder = kind === 'instructblip' ? world.model : await writeCheckpoint(join(world.root, kind), kind)
  const checkpoint = await openCheckpoint(folder, { device, precision })
  try {
    const before = await settled()
    const none = await steps(checkpoint, world, more, 'none', batches)
    for (const recompute of RECOMPUTE.slice(1))
      assert.equal(await steps(checkpoint, world, more, recompute, batches), none, `recompute: ${recompute}`)
    assert.is(await settled(), before)
  } finally {
    checkpoint.model.dispose()
  }
}
