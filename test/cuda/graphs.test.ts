// Graphs of training steps on a CUDA device (MT_ADDON: the emulator's addon): which shapes get one, how padding to common
// shapes affects the numbers, the memory that they share, and what follows a capture that fails.
import { join } from 'node:path'
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { Adapter } from '../../lib/adapter/adapter.js'
import { checkAdapterConfig } from '../../lib/adapter/config.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { openCheckpoint, type Checkpoint } from '../../lib/session/checkpoint.js'
import { encode } from '../../lib/session/encode.js'
import { Features } from '../../lib/session/features.js'
import { native } from '../../lib/native.js'
import { devices } from '../../lib/tensor/device.js'
import { deviceMemory, sync, syncBlocking } from '../../lib/tensor/runtime.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { AdamW, type GradientOf, type Outcome } from '../../lib/train/optimizer.js'
import { shuffled } from '../../lib/random.js'
import { Trainer } from '../../lib/train/trainer.js'
import { relativeError } from '../oracle/array.js'
import { settled } from '../support/memory.js'
import { makeWorld, trainConfig, writeCheckpoint, type World } from '../support/world.js'
import { emulated, lines } from './emulated.js'

const { cuda } = devices()
const test = cuda.devices.length ? plain : plain.skip
if (!cuda.devices.length) console.error(`test/cuda/graphs: skipped, since ${cuda.reason}`)

let world: World
let checkpoint: Checkpoint
let samples: Sample[]
let features: Features
plain.before(async () => {
  if (!cuda.devices.length) return
  world = await makeWorld()
  checkpoint = await openCheckpoint(world.model, { device: 'cuda' })
  samples = await readManifest(world.train)
  features = new Features(checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
})
plain.after(() => checkpoint?.model.dispose())

/** A trainer that retains the gradients of its last step. */
class Recorder extends AdamW {
  gradients: number[] = []
  #of: GradientOf | undefined
  override update(...args: Parameters<AdamW['update']>): Tensor {
    this.#of = args[1]
    return super.update(...args)
  }
  override async finish(report: Tensor): Promise<Outcome> {
    const outcome = await super.finish(report)
    this.gradients = this.parameters.flatMap((p) => [
      ...(((this.#of ? this.#of(p) : p.tensor.grad)?.dataBlocking() as Float32Array | undefined) ?? []),
    ])
    return outcome
  }
}
function made(options: { graphs?: boolean; graphBytes?: number } = {}, over = { checkpoint, features }) {
  const { adapter: config } = trainConfig(world, 'none')
  const { model } = over.checkpoint
  const adapter = new Adapter(model.config, config, { seed: 3, device: model.device })
  const optimizer = new Recorder(
    adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
    { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, clip: 5 },
  )
  const trainer = new Trainer(over.checkpoint, adapter, over.features, optimizer, options)
  const values = async (): Promise<number[]> => {
    const all: number[] = []
    for (const t of adapter.parameters.values()) all.push(...((await t.data()) as Float32Array))
    return all
  }
  return {
    adapter,
    optimizer,
    trainer,
    values,
    dispose: () => (trainer.dispose(), optimizer.dispose(), adapter.dispose()),
  }
}

/**
 * Batches of two, no two of one shape: another length of the text in each, and of the question and the answers in most.
 */
const batches = (n: number): Sample[][] =>
  Array.from({ length: n }, (_, i) =>
    [0, 1].map(
      (k): Sample => ({
        ...samples[(i + k) % samples.length]!,
        choices: undefined,
        prompt: Array(3 + i - k)
          .fill('red')
          .join(' '),
        qformerText: Array(2 + ((7 * i + k) % 30))
          .fill('circle')
          .join(' '),
        answer: Array(1 + (i % 4))
          .fill('left')
          .join(' '),
      }),
    ),
  )
/** The shape of the batch without padding. */
function shape(batch: Sample[]): string {
  const config = checkAdapterConfig(trainConfig(world, 'none').adapter, checkpoint.model.config)
  const rows = batch.map((s) => encode(checkpoint, config, s))
  const longest = (of: (r: (typeof rows)[number]) => number): number => Math.max(...rows.map(of))
  return [
    longest((r) => r.prompt.length + r.answer.length),
    longest((r) => r.qformer!.length),
    rows.reduce((sum, r) => sum + r.answer.length, 0),
  ].join()
}

const graphsSoFar = (): number => (syncBlocking(), native().devices().counts!['graphs']!)

test('over T5, an encoder and a decoder: captured steps give the bits of operators one by one', async () => {
  const checkpoint = await openCheckpoint(await writeCheckpoint(join(world.root, 't5'), 'instructblip-t5'), {
    device: 'cuda',
  })
  const features = new Features(checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
  const run = async (graphs: boolean): Promise<number[]> => {
    const { trainer, adapter, optimizer, values, dispose } = made({}, { checkpoint, features })
    const losses: number[] = []
    for (let i = 0; i < 5; i++) {
      // A new trainer has seen no shape yet.
      const one = graphs ? trainer : new Trainer(checkpoint, adapter, features, optimizer)
      losses.push((await one.step([batches(1)[0]!])).loss)
      if (!graphs) one.dispose()
    }
    const all = [...losses, ...(await values())]
    dispose()
    assert.ok(losses[4]! < losses[0]!, `${losses}`)
    return all
  }
  const start = graphsSoFar()
  const captured = await run(true)
  assert.ok(!emulated || graphsSoFar() > start, 'a graph was made')
  assert.equal(await run(false), captured)
  checkpoint.model.dispose()
})

;(emulated ? test : plain.skip)(
  'shuffled data of 40 shapes: at most 12 graphs, and the bits of operators one by one',
  async () => {
    const data = batches(40)
    assert.is(new Set(data.map(shape)).size, 40)
    const run = async (graphs: boolean) => {
      const { trainer, values, dispose, adapter, optimizer } = made()
      const losses: number[] = []
      const before = graphsSoFar()
      for (let epoch = 1; epoch <= 2; epoch++) {
        for (const i of shuffled(data.length, 7, epoch)) {
          // A new trainer has seen no shape yet.
          const one = graphs ? trainer : new Trainer(checkpoint, adapter, features, optimizer)
          losses.push((await one.step([data[i]!])).loss)
          if (!graphs) one.dispose()
        }
      }
      const captured = graphsSoFar() - before
      const out = { captured, bits: [...losses, ...(await values())] }
      dispose()
      return out
    }
    const [graphs, single] = [await run(true), await run(false)]
    console.log(`40 shapes, 80 steps: ${graphs.captured} graphs`)
    assert.is(single.captured, 0)
    assert.ok(graphs.captured > 0 && graphs.captured <= 12, `${graphs.captured} graphs`)
    assert.equal(graphs.bits, single.bits)
  },
)

test('padding to common shapes changes neither loss per token nor gradients', async () => {
  const data = batches(40).filter((_, i) => i % 13 === 0)
  for (const micro of [data.map((b) => [b]), [data.slice(0, 3)]]) {
    for (const batch of micro) {
      const [padded, plain] = [made({ graphs: true }), made({ graphs: false })]
      const [a, b] = [await padded.trainer.step(batch), await plain.trainer.step(batch)]
      assert.is(a.tokens, b.tokens)
      assert.ok(Math.abs(a.loss - b.loss) <= 1e-5 * b.loss, `loss ${a.loss} against ${b.loss}`)
      const error = relativeError(padded.optimizer.gradients, plain.optimizer.gradients)
      assert.ok(error <= 1e-5, `gradients differ by ${error}`)
      padded.dispose()
      plain.dispose()
    }
  }
})

test('the third sight of a shape is the one that is captured', async () => {
  const { trainer, dispose } = made()
  const before = graphsSoFar()
  const captured: number[] = []
  for (let i = 0; i < 4; i++) {
    await trainer.step([batches(1)[0]!])
    captured.push(graphsSoFar() - before)
  }
  dispose()
  assert.equal(captured, [0, 0, 1, 1])
})

test('one batch after the other, captured or not: the same bits', async () => {
  const data = batches(8)
  const run = async (graphBytes: number) => {
    const { trainer, values, dispose } = made({ graphBytes })
    const losses: number[] = []
    const before = graphsSoFar()
    for (let i = 0; i < 24; i++)
      losses.push((await trainer.step(i % 3 ? [data[i % 8]!] : [data[i % 8]!, data[(i + 3) % 8]!])).loss)
    const out = { captured: graphsSoFar() - before, bits: [...losses, ...(await values())] }
    dispose()
    return out
  }
  const [all, none] = [await run(Infinity), await run(0)]
  assert.ok(all.captured > 1, `${all.captured} graphs`)
  assert.ok(
    none.captured > all.captured,
    `with room for none, each that is captured drives out the one before: ${none.captured} graphs`,
  )
  assert.equal(all.bits, none.bits)
})

test('graphs share memory: many take hardly more than the largest, and all of it returns', async () => {
  await settled()
  const before = deviceMemory('cuda:0').bytes
  const { trainer, dispose } = made({ graphs: true })
  const data = batches(40)
  const after: number[] = []
  for (const batch of [data[39]!, data[36]!, data[20]!, data[3]!, data[1]!]) {
    for (let i = 0; i < 3; i++) await trainer.step([batch])
    await sync()
    after.push(deviceMemory('cuda:0').bytes - before)
  }
  assert.ok(after.at(-1)! < 1.3 * after[0]!, `bytes after each graph: ${after}`)
  dispose()
  await sync()
  // Sets of masks belong to the adapter, and were disposed with it.
  assert.is(deviceMemory('cuda:0').bytes, before)
})

;(emulated ? test : plain.skip)(
  'an operator that fails in a capture: the step says which, the graph is dropped, and the next steps are right',
  async () => {
    const url = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href)
    const code = (steps: string): string => `
    const { Trainer } = await import(${url('../../lib/train/trainer.ts')}); const { Adapter } = await import(${url('../../lib/adapter/adapter.ts')})
    const { AdamW } = await import(${url('../../lib/train/optimizer.ts')}); const { openCheckpoint } = await import(${url('../../lib/session/checkpoint.ts')})
    const { Features } = await import(${url('../../lib/session/features.ts')}); const { readManifest } = await import(${url('../../lib/data/manifest.ts')})
    const { parseAdapterConfig } = await import(${url('../../lib/adapter/config.ts')})
    const checkpoint = await openCheckpoint(${JSON.stringify(world.model)}, { device: 'cuda' })
    const adapter = new Adapter(checkpoint.model.config, parseAdapterConfig({ frames: 3, lora: { r: 3, alpha: 6 }, dar: { routerHidden: 8 } }, 'config'), { device: 'cuda:0' })
    const optimizer = new AdamW(adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name) })), { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0 })
    const trainer = new Trainer(checkpoint, adapter, new Features(checkpoint, { frames: 3, sampling: { kind: 'uniform' } }), optimizer)
    const batch = (await readManifest(${JSON.stringify(world.train)})).slice(0, 2)
    const counts = () => { m.syncBlocking(); return m.native().devices().counts }
    const step = () => trainer.step([batch]).then((r) => r.loss, (e) => e.message)
    const losses = []
    ${steps}`
    // The launches of the third step, which is captured.
    const [first, last] = (
      await lines(
        code(
          'await step(); await step(); const a = counts().launches; losses.push(await step()); console.log(a, counts().launches)',
        ),
      )
    )[0]!
      .split(' ')
      .map(Number)
    const [message, graphs, losses] = await lines(
      code(
        'losses.push(await step(), await step()); console.log(await step()); for (let i = 0; i < 4; i++) losses.push(await step()); console.log(counts().graphs); console.log(losses.join())',
      ),
      `fail=launch:${Math.round((first! + last!) / 2)}`,
    )
    const [whole] = await lines(
      code('for (let i = 0; i < 6; i++) losses.push(await step()); console.log(losses.join())'),
    )
    assert.match(message!, /^\w+: cuda:0: launch: .*\(cudaErrorInvalidConfiguration\)$/)
    assert.is(graphs, '1', 'that of the fourth sight, as the third was the first')
    assert.is(losses, whole)
  },
)

plain.run()
