/**
 * Stage `node`: whole models from JavaScript. A few steps of a tiny model must equal the CPU's; then a model of full
 * size with random weights and cached features is timed: Q-Former, language model, training step, decoding, memory.
 */
import { performance } from 'node:perf_hooks'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { generate } from '../../lib/session/generate.js'
import { loadImageModel } from '../../lib/session/checkpoint.js'
import type { ImageModel } from '../../lib/models/image-model.js'
import { cast } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import { type Device, devices } from '../../lib/tensor/device.js'
import { deviceMemory, resetPeak, sync, syncBlocking } from '../../lib/tensor/runtime.js'
import { Graph } from '../../lib/tensor/cuda-graph.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { tinyCheckpoint, writeTiny } from '../../test/oracle/tiny.js'
import { temporaryFolder } from '../../test/support/tiny.js'
import { inputsOf, randomModel, type Sizes, trainerOf } from '../full-model.js'
import { gpu, quick } from './record.js'
import { time, type Times } from './timing.js'
import { finish, type Gemm, type Job, measure, type Worker } from './workers.js'

const largest = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!) / Math.max(1e-12, Math.abs(b[i]!))))
const tinyAdapter = { frames: 3, lora: { r: 3, alpha: 6 }, dar: { routerHidden: 8 } }
const tinySizes: Sizes = { B: 2, T: 3, text: 6, prompt: 9, answers: 3 }

async function steps(
  folder: string,
  on: Device,
  graphs: boolean,
  count: number,
): Promise<{ losses: number[]; parameters: number[] }> {
  const model = await loadImageModel(folder, { device: on })
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

/** Three steps on the CPU, as graphs, as graphs again, and one operator after another. */
async function equal(folder: string, device: Device): Promise<object> {
  const [cpu, graph, again, single] = [
    await steps(folder, 'cpu', false, 3),
    await steps(folder, device, true, 3),
    await steps(folder, device, true, 3),
    await steps(folder, device, false, 3),
  ]
  const error = Math.max(largest(graph.losses, cpu.losses), largest(single.losses, cpu.losses))
  if (!(error <= 1e-4)) throw new Error(`losses differ by ${error} from the CPU's`)
  if (graph.parameters.some((x, i) => !Object.is(x, again.parameters[i]))) throw new Error('a rerun gave other bits')
  if (graph.parameters.some((x, i) => !Object.is(x, single.parameters[i])))
    throw new Error('graphs gave other bits than their operators one by one')
  return { error, losses: graph.losses }
}

const sizes: Sizes[] = quick
  ? [tinySizes]
  : [
      { B: 4, T: 8, text: 32, prompt: 64, answers: 16 },
      { B: 2, T: 4, text: 32, prompt: 64, answers: 16 },
    ]
const nameOf = ({ B, T, text }: Sizes): string => `${B}/${T}/${text}`
const goals: Record<string, number> = {
  'model q-former 4/8/32': 1200,
  'model llm 4/8/32': 7500,
  'model step 4/8/32': 18500,
  'model llm 2/4/32': 4500,
  'model step 2/4/32': 11000,
  'model decode 1': 3350,
}

/** Microseconds of calls that wait for their end. */
async function timeSteps(step: () => Promise<unknown>, count: number): Promise<Times> {
  const us: number[] = []
  for (let i = 0; i < count; i++) {
    const start = performance.now()
    await step()
    syncBlocking()
    us.push(1000 * (performance.now() - start))
  }
  us.sort((a, b) => a - b)
  const at = (q: number): number => us[Math.floor(q * us.length)]!
  return { median: at(0.5), p10: at(0.1), p90: at(0.9), samples: us.length }
}

type What = 'equal' | 'qformer' | 'llm' | 'step' | 'launched' | 'decode'
interface Timed extends Job {
  what: What
  sizes: Sizes
  gemm: Gemm
}

/** The most important rows come first: a process has one library for its products, and each loads the model again. */
const jobs = (['own', 'cublaslt'] as const).flatMap((gemm): Timed[] => [
  ...(gemm === 'own' ? [{ id: "training steps equal the CPU's", what: 'equal' as const, sizes: tinySizes, gemm }] : []),
  ...sizes.flatMap((s, i): Timed[] => {
    const job = (id: string, what: What): Timed => ({ id, what, sizes: s, gemm })
    return [
      job(`model step ${nameOf(s)}, graph`, 'step'),
      job(`model q-former ${nameOf(s)} forward`, 'qformer'),
      job(`model llm ${nameOf(s)} forward`, 'llm'),
      ...(i === 0 ? [job('model decode 1', 'decode')] : []),
    ]
  }),
  ...sizes.map(
    (s): Timed => ({ id: `model step ${nameOf(s)}, launched one by one`, what: 'launched', sizes: s, gemm }),
  ),
])

async function open(): Promise<Worker<Timed>> {
  const { device, emulated } = gpu()
  const computes = !(emulated && /\bnull\b/.test(process.env.MT_EMULATOR ?? ''))
  if (emulated && computes && !quick)
    throw new Error(
      'models of full size are beyond the emulator; --quick has tiny ones, and with MT_EMULATOR=null nothing is computed',
    )
  const folder = temporaryFolder('bench')
  writeTiny(folder, tinyCheckpoint('instructblip', 7))
  let model: ImageModel | undefined
  const loaded = async (): Promise<ImageModel> => {
    const { free } = devices().cuda.devices[0]!
    if (!quick && !model && free < 24e9)
      throw new Error(`needs 24 GB of free device memory, there are ${(free / 1e9).toFixed(1)}`)
    return (model ??= quick ? await loadImageModel(folder, { device }) : randomModel(device, 'bfloat16'))
  }
  const configOf = (s: Sizes): object => (quick ? { ...tinyAdapter, frames: s.T } : { frames: s.T })

  const work: Record<Exclude<What, 'equal'>, (m: ImageModel, s: Sizes) => object | Promise<object>> = {
    qformer: (m, s) =>
      scope(() => {
        const [inputs, adapter] = [inputsOf(m, s), new Adapter(m.config, parseAdapterConfig(configOf(s)), { device })]
        const us = timeForward(() => m.visualTokens(inputs.features, inputs.qformer, adapter))
        adapter.dispose()
        return { item: `model q-former ${nameOf(s)}`, pass: 'forward', us }
      }),
    llm: (m, s) =>
      scope(() => {
        const inputs = inputsOf(m, s)
        const visual = cast(
          new Random(9).normal([s.B, m.config.numQueryTokens, m.config.language.hiddenSize]).to(device),
          m.precision,
        )
        return {
          item: `model llm ${nameOf(s)}`,
          pass: 'forward',
          us: timeForward(() => m.hidden(visual, inputs.text)),
          tokens: s.B * (m.config.numQueryTokens + s.prompt),
        }
      }),
    step: (m, s) => step(m, s, true),
    launched: (m, s) => step(m, s, false),
    decode: (m, s) =>
      scope(async () => {
        const visual = cast(
          new Random(9).normal([1, m.config.numQueryTokens, m.config.language.hiddenSize]).to(device),
          m.precision,
        )
        const tokens = generate(
          m,
          visual,
          Array.from({ length: s.prompt }, (_, i) => 3 + i),
          { maxTokens: quick ? 4 : 64 },
        )
        const next = async (): Promise<void> => {
          if ((await tokens.next()).done) throw new Error('the answer ended early')
        }
        await next() // the prompt
        for (let i = 0; i < (quick ? 1 : 3); i++) await next()
        const us = await timeSteps(next, quick ? 2 : 50)
        await tokens.return('stop')
        return { item: 'model decode 1', pass: 'forward', us }
      }),
  }

  /** A graph of a forward pass; the pass has run before, which uploads masks and loads what is loaded at first use. */
  function timeForward(f: () => Tensor): Times {
    const forward = (): Tensor => noGrad(f)
    forward()
    syncBlocking()
    const { graph } = Graph.capture(device, forward)
    try {
      return time(() => graph.replay(), 1)
    } finally {
      syncBlocking()
      graph.dispose()
    }
  }

  const step = (m: ImageModel, s: Sizes, graphs: boolean): Promise<object> =>
    scope(async () => {
      const t = trainerOf(m, configOf(s), inputsOf(m, s), graphs)
      try {
        const first = await t.step()
        for (let i = 0; i < 3; i++) await t.step()
        await sync()
        resetPeak(device)
        const us = await timeSteps(t.step, quick ? 2 : graphs ? 20 : 6)
        return {
          item: `model step ${nameOf(s)}${graphs ? '' : ', launched'}`,
          pass: 'forward',
          us,
          peakBytes: deviceMemory(device).peak,
          loss: first,
        }
      } finally {
        t.dispose()
      }
    })

  const run = async ({ what, sizes }: Timed): Promise<object> => {
    if (what === 'equal' && !computes) throw new Error('needs a device that computes')
    if (what === 'equal') return equal(folder, device)
    const row = (await work[what](await loaded(), sizes)) as { item: string }
    return { ...row, ...(!quick && goals[row.item] && { goalUs: goals[row.item] }) }
  }
  return { device, facts: { emulated }, run, close: () => model?.dispose() }
}

const rows = await measure({ url: import.meta.url, jobs, open })
finish(rows, `${rows.length} rows`)
