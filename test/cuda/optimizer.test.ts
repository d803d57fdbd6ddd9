// AdamW over all trained tensors at once, on the CPU and, where there is one, on a CUDA device (MT_ADDON: the emulator's
// addon): the same bits as by the operators of one tensor, no change where a number is not finite, and few launches.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { accumulate, adamw, addSquareSum } from '../../lib/ops/adamw.js'
import { add } from '../../lib/ops/elementwise.js'
import { copy, fill, full, write, zeros } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import { type Device, devices } from '../../lib/tensor/device.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { type Tensor, tensor } from '../../lib/tensor/tensor.js'
import { AdamW, clipScale, type Parameter } from '../../lib/train/optimizer.js'
import { emulated, lines } from './emulated.js'

const { cuda } = devices()
const places: Device[] = ['cpu', ...cuda.devices.slice(0, 1).map((d) => d.device)]
if (places.length < 2) console.error(`test/cuda/optimizer: on the CPU alone, since ${cuda.reason}`)

/** Shapes with one piece and with several, of more tensors than a launch takes. */
const shapes = [
  ...Array.from({ length: 120 }, (_, i) => [1 + (i % 7), 1 + ((5 * i) % 13)]),
  [4096],
  [4097],
  [3, 5000],
  [70, 768],
]
const lr = { a: 1e-3, b: 3e-2 }
const options = { lr, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05 } as const

function parameters(device: Device): Parameter[] {
  const random = new Random(5)
  return shapes.map((shape, i) => ({
    name: `p${i}`,
    group: i % 3 ? 'a' : 'b',
    decay: i % 2 === 0,
    tensor: keep(scope(() => random.normal(shape)).to(device)),
  }))
}
function gradients(of: Parameter[], step: number): void {
  const random = new Random(100 + step)
  // One of them has no gradient, like a parameter that nothing uses.
  for (const [i, p] of of.entries())
    if (i !== 3) p.tensor.grad = keep(random.normal(p.tensor.shape).to(p.tensor.device!))
}
const bits = async (tensors: Iterable<Tensor>): Promise<string[]> => {
  const all: string[] = []
  for (const t of tensors) all.push(Buffer.from((await t.data()).buffer).toString('base64'))
  return all
}
const state = (of: Parameter[], optimizer: AdamW) =>
  bits([...of.map((p) => p.tensor), ...[...optimizer.moments.values()].flatMap(({ m, v }) => [m, v])])

for (const device of places)
  for (const clip of [0, 2, 1e9])
    test(`${device}, clip ${clip}: three steps have the bits of one tensor after the other`, () =>
      scope(async () => {
        const [mine, theirs] = [parameters(device), parameters(device)]
        const optimizer = new AdamW(mine, { ...options, clip })
        const moments = theirs.map(
          (p) => [zeros(p.tensor.shape, 'float32', device), zeros(p.tensor.shape, 'float32', device)] as const,
        )
        for (let step = 1; step <= 3; step++) {
          gradients(mine, step)
          gradients(theirs, step)
          const factor = 1 / step
          const { norm, taken } = await optimizer.step(factor)
          const sum = zeros([1], 'float32', device)
          for (const p of theirs) if (p.tensor.grad) addSquareSum(sum, p.tensor.grad)
          assert.is(norm, Math.sqrt(await sum.item()))
          assert.ok(taken && optimizer.steps === step && mine.every((p) => !p.tensor.grad))
          const scale = clip > 0 ? full([1], clipScale(norm, clip), 'float32', device) : undefined
          for (const [i, p] of theirs.entries()) {
            if (!p.tensor.grad) continue
            const [m, v] = moments[i]!
            adamw(p.tensor, p.tensor.grad, m, v, {
              lr: lr[p.group as 'a' | 'b'] * factor,
              betas: options.betas,
              eps: options.eps,
              weightDecay: p.decay ? options.weightDecay : 0,
              step,
              ...(scale && { scale }),
            })
          }
        }
        assert.equal(await state(mine, optimizer), await bits([...theirs.map((p) => p.tensor), ...moments.flat()]))
        optimizer.dispose()
      }))

for (const device of places)
  test(`${device}: a gradient or loss that is not finite leaves parameters, moments and the count of steps as they are; the next step is taken`, () =>
    scope(async () => {
      const mine = parameters(device)
      const optimizer = new AdamW(mine, { ...options, clip: 1 })
      gradients(mine, 0)
      await optimizer.step()
      const before = await state(mine, optimizer)
      for (const poison of [NaN, Infinity, -Infinity, 1e30]) {
        // its square is infinite
        for (const where of ['gradient', 'loss'] as const) {
          if (where === 'loss' && poison === 1e30) continue
          gradients(mine, 1)
          if (where === 'gradient')
            write(mine[121]!.tensor.grad!.view([1], [1], 4096), full([1], poison, 'float32', device))
          optimizer.prepare()
          const { taken, norm, losses } = await optimizer.finish(
            optimizer.update(tensor([1, where === 'loss' ? poison : 2], [2], 'float32', device)),
          )
          assert.ok(!taken && optimizer.steps === 1, `${poison} in the ${where}`)
          assert.is(Number.isFinite(norm), where === 'loss')
          assert.is(losses[0], 1)
          assert.is(await optimizer.firstBad(), where === 'gradient' && poison !== 1e30 ? 'p121' : undefined)
          assert.equal(await state(mine, optimizer), before, `${poison} in the ${where}`)
          optimizer.zeroGrad()
        }
      }
      gradients(mine, 1)
      assert.ok((await optimizer.step()).taken)
      assert.not.equal(await state(mine, optimizer), before)
      optimizer.dispose()
    }))

for (const device of places)
  test(`${device}: gradients of several micro-batches add up to the bits of add`, () =>
    scope(async () => {
      const all = [0, 1, 2].map((step) => {
        const p = parameters(device)
        gradients(p, step)
        return p.flatMap(({ tensor: t }) => (t.grad ? [t.grad] : []))
      })
      const sums = all[0]!.map((g) => {
        const sum = copy(g)
        fill(sum, 0)
        return sum
      })
      for (const gs of all) accumulate(sums, gs)
      assert.equal(await bits(sums), await bits(all[0]!.map((g, i) => add(add(g, all[1]![i]!), all[2]![i]!))))
      for (const gs of all) for (const g of gs) g.dispose()
    }))

;(emulated ? test : test.skip)(
  'the adapter of the full model, 194 tensors: a step takes six launches, no memory and no wait beside the one for its report',
  async () => {
    const url = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href)
    const [count, launches, more] = await lines(
      `
    const { Adapter } = await import(${url('../../lib/adapter/adapter.ts')}); const { AdamW } = await import(${url('../../lib/train/optimizer.ts')})
    const { parseAdapterConfig } = await import(${url('../../lib/adapter/config.ts')}); const { parseModelConfig } = await import(${url('../../lib/checkpoint/config.ts')})
    const model = parseModelConfig({ model_type: 'instructblip', vision_config: {}, text_config: { model_type: 'llama', vocab_size: 32001 } })
    const adapter = new Adapter(model, parseAdapterConfig({ frames: 8 }, 'config'), { device: 'cuda:0' })
    const optimizer = new AdamW(adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name) })), { lr: 1e-4, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, clip: 1 })
    const counts = () => { m.syncBlocking(); return m.native().devices().counts }
    for (const p of adapter.parameters.values()) p.grad = m.keep(m.zeros(p.shape, 'float32', 'cuda:0'))
    optimizer.prepare()
    const before = counts()
    const report = optimizer.update(m.full([1], 0, 'float32', 'cuda:0'))
    const after = counts()
    console.log(adapter.parameters.size); console.log(after['ops/adamw.cu'] - (before['ops/adamw.cu'] ?? 0))
    const losses = m.full([1], 0, 'float32', 'cuda:0')
    const { graph } = m.Graph.capture('cuda:0', () => { optimizer.update(losses, undefined, report) })
    const captured = counts(); console.log(captured.nodes - after.nodes)`,
      'null',
    )
    assert.equal([count, launches, more], ['194', '6', '6'])
  },
)

test.run()
