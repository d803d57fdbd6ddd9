/**
 * Stage `node`: whole models from JavaScript. A few steps of a tiny model must be those of the CPU; then a model of full
 * size with random weights and cached features is timed: Q-Former, language model, training step, memory.
 */
import { performance } from 'node:perf_hooks'
import { native } from '../../lib/native.js'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { type ModelConfig, parseModelConfig } from '../../lib/models/config.js'
import { loadModel } from '../../lib/models/load.js'
import { ImageModel, type Precision } from '../../lib/models/mtransllama.js'
import { cast, copy, full } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import { type Device, deviceMemory, devices } from '../../lib/tensor/device.js'
import { Graph } from '../../lib/tensor/graph.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { resetPeak, sync, syncBlocking, tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { forwardBackward, type StepInputs, StepGraphs } from '../../lib/train/graphs.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { expectedTensors } from '../../lib/weights/names.js'
import { tinyCheckpoint, writeTiny } from '../../test/oracle/tiny.js'
import { temporaryFolder } from '../../test/support/tiny.js'
import { drawn } from './inputs.js'
import { gpu, late, quick, type Row, save } from './record.js'
import { time } from './timing.js'

const { device, emulated } = gpu()
const rows: Row[] = []
async function row(id: string, f: () => Promise<object>): Promise<void> {
  try {
    rows.push(late() ? { id, status: 'unavailable', reason: 'no time was left' } : { id, status: 'ok', ...(await f()) })
  } catch (error) {
    const reason = (error as Error).message.split('\n')[0]!
    rows.push({ id, status: /^needs |out of memory/.test(reason) ? 'unavailable' : 'failed', reason })
  }
  save({ emulated, rows })
}

interface Sizes { B: number; T: number; text: number; prompt: number; answers: number }

/** The same numbers on every device. */
function inputsOf(model: ImageModel, { B, T, text, prompt, answers }: Sizes): StepInputs {
  const { vision, qformer, language, numQueryTokens } = model.config
  const ids = (n: number, vocabulary: number): Int32Array => Int32Array.from({ length: n }, (_, i) => 3 + ((i * 7919) % (vocabulary - 3)))
  const features = scope(() => keep(cast(new Random(5).normal([B, T, vision.tokens, vision.hiddenSize]).to(model.device), model.precision)))
  const words = ids(B * prompt, language.vocabSize)
  return {
    features, qformer: { ids: tensor(ids(B * text, qformer.vocabSize), [B, text], 'int32', model.device), mask: tensor(new Uint8Array(B * text).fill(1), [B, text], 'uint8', model.device) },
    text: model.place({ rows: B, ids: words, mask: new Uint8Array(words.length).fill(1), labels: words.map((id, i) => (i % prompt >= prompt - answers ? id : -100)) }, numQueryTokens),
    factor: full([], 1 / (B * answers), 'float32', model.device),
  }
}

/** An adapter with its optimiser, and steps on one micro-batch. */
function trainerOf(model: ImageModel, config: object, inputs: StepInputs, graphs: boolean) {
  const adapter = new Adapter(model.config, parseAdapterConfig(config), { seed: 3, device: model.device })
  const optimizer = new AdamW(adapter.table().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })), { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, clip: 1 })
  const captured = graphs ? new StepGraphs(model, adapter) : undefined
  return {
    adapter,
    step: (): Promise<number> => scope(async () => {
      const loss = captured ? captured.run(inputs) : forwardBackward(model, adapter, inputs)
      const value = await loss.item()
      optimizer.step(await optimizer.gradientNorm())
      return value
    }),
    dispose: (): void => {
      captured?.dispose()
      optimizer.dispose()
      adapter.dispose()
    },
  }
}

const largest = (a: readonly number[], b: readonly number[]): number => Math.max(...a.map((x, i) => Math.abs(x - b[i]!) / Math.max(1e-12, Math.abs(b[i]!))))
const tinyAdapter = { frames: 3, lora: { r: 3, alpha: 6 }, dar: { routerHidden: 8 } }
const tinySizes: Sizes = { B: 2, T: 3, text: 6, prompt: 9, answers: 3 }
const folder = temporaryFolder('bench')
writeTiny(folder, tinyCheckpoint('instructblip', 7))

async function steps(on: Device, graphs: boolean, count: number): Promise<{ losses: number[]; parameters: number[] }> {
  const { model } = await loadModel(folder, { device: on })
  return scope(async () => {
    const t = trainerOf(model, tinyAdapter, inputsOf(model, tinySizes), graphs)
    const losses: number[] = []
    for (let i = 0; i < count; i++) losses.push(await t.step())
    const parameters: number[] = []
    for (const p of t.adapter.parameters.values()) parameters.push(...((await p.data()) as Float32Array))
    t.dispose()
    model.dispose()
    return { losses, parameters }
  })
}

await row('training steps equal the CPU\'s', async () => {
  const [cpu, graph, again, single] = [await steps('cpu', false, 3), await steps(device, true, 3), await steps(device, true, 3), await steps(device, false, 3)]
  const error = Math.max(largest(graph.losses, cpu.losses), largest(single.losses, cpu.losses))
  if (!(error <= 1e-4)) throw new Error(`losses differ by ${error} from the CPU's`)
  if (graph.parameters.some((x, i) => !Object.is(x, again.parameters[i]))) throw new Error('a rerun gave other bits')
  if (graph.parameters.some((x, i) => !Object.is(x, single.parameters[i]))) throw new Error('graphs gave other bits than their operators one by one')
  return { error, losses: graph.losses }
})

/** InstructBLIP over a LLaMA of 7 B, without the image tower's blocks: features are given. */
function randomModel(precision: Precision): ImageModel {
  const config: ModelConfig = parseModelConfig({ model_type: 'instructblip', vision_config: {}, text_config: { model_type: 'llama', vocab_size: 32001 } })
  config.vision.layers = 0
  const first = new Map<string, Tensor>()
  let stream = 0
  return new ImageModel(config, new Map(expectedTensors(config).map(({ name, shape }) => [name, scope(() => {
    const matrix = shape.length === 2 && name.endsWith('.weight') && !name.includes('position')
    if (!matrix) return keep(full(shape, /norm.*weight$/i.test(name) ? 1 : 0, 'float32', device))
    // Drawn once for each shape, then copied: their values do not matter, their places in memory do.
    const known = first.get(`${shape}`)
    const t = keep(known ? copy(known) : cast(drawn(shape, device, (row) => native().ops.random_normal(11, stream++, 0, 0.02, row.handle)), precision))
    first.set(`${shape}`, t)
    return t
  })])), precision)
}

const { cuda } = devices()
const free = cuda.devices[0]!.free
const big = !quick && !emulated
const model = !big ? (await loadModel(folder, { device })).model : free > 24e9 ? randomModel('bfloat16') : undefined
const needed = (): ImageModel => {
  if (!model) throw new Error(`needs 24 GB of free device memory, there are ${(free / 1e9).toFixed(1)}`)
  return model
}
const sizes: Sizes[] = big ? [{ B: 4, T: 8, text: 32, prompt: 64, answers: 16 }, { B: 2, T: 4, text: 32, prompt: 64, answers: 16 }] : [tinySizes]
const goals: Record<string, Record<string, number>> = { '4/8/32': { qformer: 1200, llm: 7500, step: 18500 }, '2/4/32': { llm: 4500, step: 11000 } }

for (const s of sizes) {
  const name = `${s.B}/${s.T}/${s.text}`
  const goal = (what: string): object => (big && goals[name]?.[what] ? { goalUs: goals[name][what] } : {})
  const config = big ? { frames: s.T } : { ...tinyAdapter, frames: s.T }
  await row(`model q-former ${name} forward`, async () => scope(() => {
    const m = needed()
    const [inputs, adapter] = [inputsOf(m, s), new Adapter(m.config, parseAdapterConfig(config), { device })]
    const forward = (): Tensor => noGrad(() => m.visualTokens(inputs.features, inputs.qformer, adapter))
    forward() // which uploads masks, once
    const { graph } = Graph.capture(device, forward)
    const us = time(() => graph.replay(), 1)
    graph.dispose()
    adapter.dispose()
    return { item: `model q-former ${name}`, pass: 'forward', us, ...goal('qformer') }
  }))
  await row(`model llm ${name} forward`, async () => scope(() => {
    const m = needed()
    const inputs = inputsOf(m, s)
    const visual = cast(new Random(9).normal([s.B, m.config.numQueryTokens, m.config.language.hiddenSize]).to(device), m.precision)
    const { graph } = Graph.capture(device, () => noGrad(() => m.hidden(visual, inputs.text)))
    const us = time(() => graph.replay(), 1)
    graph.dispose()
    return { item: `model llm ${name}`, pass: 'forward', us, tokens: s.B * (m.config.numQueryTokens + s.prompt), ...goal('llm') }
  }))
  for (const graphs of [true, false])
    await row(`model step ${name}, ${graphs ? 'graph' : 'launched one by one'}`, async () => scope(async () => {
      const t = trainerOf(needed(), config, inputsOf(needed(), s), graphs)
      for (let i = 0; i < 3; i++) await t.step()
      await sync()
      resetPeak(device)
      const us: number[] = []
      for (let i = 0; i < (quick ? 2 : 20); i++) {
        const start = performance.now()
        await t.step()
        syncBlocking()
        us.push(1000 * (performance.now() - start))
      }
      us.sort((a, b) => a - b)
      const peakBytes = deviceMemory(device).peak
      t.dispose()
      const at = (q: number): number => us[Math.floor(q * us.length)]!
      return { item: `model step ${name}${graphs ? '' : ', launched'}`, pass: 'forward', us: { median: at(0.5), p10: at(0.1), p90: at(0.9), samples: us.length }, peakBytes, ...(graphs ? goal('step') : {}) }
    }))
}
model?.dispose()

const failed = rows.find((r) => r.status === 'failed')
console.log(failed ? `${failed.id}: ${failed.reason}` : rows.map((r) => r.id).join(' · '))
process.exit(failed ? 1 : 0)
