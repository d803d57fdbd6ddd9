/**
 * One run at full size in a process of its own, so that its peak of memory is its alone: `child.ts ask|train FOLDER
 * WEIGHTS SCRATCH`. Prints one line of JSON.
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import sharp from 'sharp'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import type { Sample } from '../../lib/data/manifest.js'
import { familyOf } from '../../lib/models/language.js'
import type { LlamaConfig } from '../../lib/models/llama.js'
import { native } from '../../lib/native.js'
import type { WeightsChoice } from '../../lib/session/budget.js'
import { openCheckpoint, openTexts, type Checkpoint } from '../../lib/session/checkpoint.js'
import { encode, imageTextConfig } from '../../lib/session/encode.js'
import { Features } from '../../lib/session/features.js'
import { askFootprint, outlineOf } from '../../lib/session/footprint.js'
import { generate } from '../../lib/session/generate.js'
import { checkedVisual } from '../../lib/session/visual.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { bytesOf } from '../../lib/tensor/dtype.js'
import { parseTrainConfig } from '../../lib/train/config.js'
import { sizesOf, trainFootprint } from '../../lib/train/footprint.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { Trainer } from '../../lib/train/trainer.js'
import { languageFlops, qformerFlops } from '../cost.js'
import { load } from '../machine.js'
import type { AskRun, TrainRun } from './record.js'

const [task, folder, weights, scratch] = process.argv.slice(2) as ['ask' | 'train', string, WeightsChoice, string]
const FRAMES = 4
const TOKENS = 8
const STEPS = 3
const BATCH = 2

const seconds = (since: number): number => (performance.now() - since) / 1000

/** The most that was ever resident, mapped pages included. */
function peakBytes(): number {
  const text = readFileSync('/proc/self/status', 'utf8')
  return 1024 * Number(/^VmHWM:\s+(\d+) kB/m.exec(text)![1])
}

/** A clip: a folder of pictures of noise. */
async function clip(number: number): Promise<{ video: string; fps: number }> {
  const video = join(scratch, `clip-${number}`)
  mkdirSync(video, { recursive: true })
  for (let i = 0; i < FRAMES; i++) {
    const pixels = Uint8Array.from(
      { length: 64 * 64 * 3 },
      (_, j) => (j * 31 + number * 97 + i * 53 + ((j * j) >> 5)) % 256,
    )
    await sharp(pixels, { raw: { width: 64, height: 64, channels: 3 } })
      .png()
      .toFile(join(video, `${i}.png`))
  }
  return { video, fps: 2 }
}

const sampleOf = (id: number, { video, fps }: { video: string; fps: number }): Sample => ({
  id: String(id),
  video,
  fps,
  prompt: 'what is happening in this video ? which way does it move and how many of them',
  answer: 'it is a video of a move',
})

async function open(): Promise<{ checkpoint: Checkpoint; loadSeconds: number }> {
  const start = performance.now()
  const checkpoint = await openCheckpoint(folder, { precision: 'auto', weights })
  return { checkpoint, loadSeconds: seconds(start) }
}

function about(
  { plan, model, form, notes }: Checkpoint,
  rates: AskRun['rates'],
  loadSeconds: number,
  plannedBytes: number,
) {
  return {
    precision: model.precision,
    form,
    // Where a machine keeps its cache says nothing about the run.
    notes: notes.map((note) => note.replace(/\S*\/(?=\S+\.safetensors)/g, '')),
    loadSeconds,
    loadBytes: plan.files.reduce((n, f) => n + f.size, 0),
    peakBytes: peakBytes(),
    plannedBytes,
    rates,
    load: load(),
  }
}

/** Rates of the machine: the best of before and after, since others may use it too. */
function ratesOf(precision: 'float32' | 'bfloat16', before?: AskRun['rates']): AskRun['rates'] {
  const { ceiling } = native().instruments
  return {
    product: Math.max(ceiling(precision), before?.product ?? 0),
    read: Math.max(ceiling('read'), before?.read ?? 0),
  }
}

async function ask(): Promise<AskRun> {
  const outline = await outlineOf(folder)
  const sample = sampleOf(0, await clip(0))
  const texts = { ...(await openTexts(folder, outline.config)), model: { config: outline.config } }
  const encoded = encode(texts, imageTextConfig(texts, FRAMES), { prompt: sample.prompt })
  const planned = await askFootprint(
    outline,
    {
      frames: FRAMES,
      qformerTokens: encoded.qformer?.length ?? 0,
      promptTokens: encoded.prompt.length,
      answerTokens: TOKENS,
    },
    { device: 'cpu', weights, precision: 'auto' },
  )
  const before = ratesOf(planned.policy.precision)
  const began = performance.now()
  const { checkpoint, loadSeconds } = await open()
  const { model } = checkpoint
  const { language } = model.config
  const features = new Features(checkpoint, { frames: FRAMES, sampling: { kind: 'uniform' } })
  let start = performance.now()
  await features.of(sample)
  const featureSeconds = seconds(start)
  start = performance.now()
  const visual = await scope(() =>
    noGrad(async () => keep(await checkedVisual(checkpoint, features, [sample], [encoded], undefined))),
  )
  const times: number[] = []
  // No id ends this answer: it is to be as long as asked.
  for await (const _ of generate(model, visual, encoded.prompt, { maxTokens: TOKENS })) {
    times.push(seconds(start))
    start = performance.now()
  }
  const totalSeconds = seconds(began)
  const peak = peakBytes()
  // Once more, in turn with plain reads of memory: how fast that is changes within seconds where others share it.
  const [tokenSeconds, tokenReads]: [number[], number[]] = [[], []]
  start = performance.now()
  for await (const _ of generate(model, visual, encoded.prompt, { maxTokens: TOKENS })) {
    tokenSeconds.push(seconds(start))
    tokenReads.push(native().instruments.ceiling('read'))
    start = performance.now()
  }
  visual.dispose()
  const rates = ratesOf(model.precision, before)
  const read = [...checkpoint.plan.entries.values()]
    .filter(({ name }) => name.startsWith('language_model.') && name !== familyOf(language).embedding)
    .map(({ name }) => model.weights.get(name)!)
    .filter((t) => t.rank === 2)
    .reduce((n, t) => n + bytesOf(t.dtype, t.shape), 0)
  return {
    ...about(checkpoint, rates, loadSeconds, planned.total),
    peakBytes: peak,
    featureSeconds,
    firstTokenSeconds: times[0]!,
    tokenSeconds: tokenSeconds.slice(1),
    tokenReads: tokenReads.slice(0, -1),
    tokens: times.length,
    promptTokens: model.config.numQueryTokens + encoded.prompt.length,
    weightBytes: read,
    totalSeconds,
  }
}

async function train(): Promise<TrainRun> {
  const clips = [await clip(0)]
  const samples = Array.from({ length: BATCH * STEPS }, (_, i) => sampleOf(i, clips[i % clips.length]!))
  const config = parseTrainConfig({ model: folder, output: scratch, data: { train: 'none' }, train: { batch: BATCH } })
  const outline = await outlineOf(folder)
  const planned = await trainFootprint(outline, config, await sizesOf(folder, outline, config, samples), {
    device: 'cpu',
    weights,
    precision: 'auto',
  })
  const before = ratesOf(planned.policy.precision)
  const { checkpoint, loadSeconds } = await open()
  const { model } = checkpoint
  const adapter = new Adapter(model.config, parseAdapterConfig({ frames: FRAMES }), { seed: 1 })
  const optimizer = new AdamW(
    adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
    { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05 },
  )
  const features = new Features(checkpoint, { frames: FRAMES, sampling: { kind: 'uniform' } })
  const featureSeconds: number[] = []
  for (const sample of samples.slice(0, clips.length)) {
    const start = performance.now()
    await features.of(sample)
    featureSeconds.push(seconds(start))
  }
  const trainer = new Trainer(checkpoint, adapter, features, optimizer)
  const [stepSeconds, losses]: [number[], number[]] = [[], []]
  for (let i = 0; i < STEPS; i++) {
    const start = performance.now()
    const { loss, bad } = await trainer.step([samples.slice(i * BATCH, (i + 1) * BATCH)])
    if (bad !== undefined) throw new Error(`step ${i + 1}: ${bad} is not finite`)
    stepSeconds.push(seconds(start))
    losses.push(loss)
  }
  const peak = peakBytes()
  let reached = 0
  for (const { v } of optimizer.moments.values()) {
    const squares = (await v.data()) as Float32Array
    if (squares.every(Number.isFinite) && squares.some((x) => x > 0)) reached++
  }
  const encoded = encode(checkpoint, adapter.config, samples[0]!)
  const { language, qformer, vision, numQueryTokens: L } = model.config
  const sequence = L + encoded.prompt.length + encoded.answer.length
  const pass = 'forward+backward'
  const stepFlops =
    languageFlops(language as LlamaConfig, sequence, { batch: BATCH, rows: encoded.answer.length, pass }) +
    qformerFlops(
      qformer,
      { videos: BATCH, frames: FRAMES, queries: L, text: encoded.qformer?.length ?? 0, imageTokens: vision.tokens },
      { pass, rank: adapter.config.lora.r },
    )
  return {
    ...about(checkpoint, ratesOf(model.precision, before), loadSeconds, planned.total),
    peakBytes: peak,
    featureSeconds,
    stepSeconds,
    losses,
    tensors: optimizer.moments.size,
    reached,
    batch: BATCH,
    frames: FRAMES,
    sequence,
    stepFlops,
  }
}

console.log(JSON.stringify(await (task === 'ask' ? ask() : train())))
