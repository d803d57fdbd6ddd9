/**
 * Pre-trains the tiny InstructBLIP on still images, all weights, and writes it as a Hugging Face folder:
 *
 *     npx tsx examples/tiny-world/pretrain.ts [--out FOLDER] [--seed N] [--steps N] [--t5]
 *
 * First the ViT alone learns what is where; then everything learns to answer. A share of the prompts shows two to four
 * images, so that the language model knows longer rows of visual tokens. Nothing moves in any of them. With --t5 a
 * Flan-T5 in small learns to answer, behind the ViT and the Q-Former of the checkpoint that is there.
 */

import { parseArgs } from 'node:util'
import { fileURLToPath } from 'node:url'
import { invalid } from '../../lib/errors.js'
import type { ImageModel } from '../../lib/models/image-model.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { loadImageModel } from '../../lib/session/checkpoint.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { card, scores, type Scores } from './pretrain-card.js'
import { groups, singles, type Batch } from './pretrain-batch.js'
import { checkPlace, freshHeads, freshModel, headTensors, saveCheckpoint, type Heads } from './pretrain-model.js'
import { answered, features, losses, parameters, patchLoss, rate } from './pretrain-steps.js'
import { stills } from './render.js'
import type { Speaker } from './sizes.js'
import { Random } from './world.js'

export interface Pretraining {
  seed: number
  speaker: Speaker
  /** A checkpoint's folder, whose weights begin as there where the model has them too. */
  from?: string
  /** Steps of the ViT alone, and the stills in each. */
  vision: { steps: number; images: number; lr: number }
  /** Steps of everything. */
  steps: number
  lr: number
  warmup: number
  images: number
  /** Questions of each image, where the questions of a step are about one image. */
  each: number
  /** Questions of a step about several images, and how often a step is of that kind. */
  several: number
  severalShare: number
  /**
   * Part of the steps at the beginning with one object in each image, and the part from which on several images come.
   */
  oneObject: number
  severalFrom: number
  /** Steps between measurements, and the images that they are made on. */
  every: number
  watch: number
  /** Images that the written folder is measured on. */
  heldOut: number
}

export const STANDARD: Pretraining = {
  seed: 0,
  speaker: 'llama',
  vision: { steps: 400, images: 64, lr: 2e-3 },
  steps: 4000,
  lr: 1e-3,
  warmup: 200,
  images: 16,
  each: 4,
  several: 32,
  severalShare: 0.45,
  oneObject: 0.12,
  severalFrom: 0.2,
  every: 250,
  watch: 96,
  heldOut: 500,
}

const CHECKPOINT = fileURLToPath(new URL('checkpoint', import.meta.url))

/** T5 behind what sees already. */
export const OVER_T5: Pretraining = {
  ...STANDARD,
  speaker: 't5',
  from: CHECKPOINT,
  vision: { ...STANDARD.vision, steps: 0 },
}

export interface Progress {
  log?: (line: string) => void
  signal?: AbortSignal | undefined
}

/** How many images a question about several shows. */
const FRAMES = [2, 3, 4, 4] as const

/** The batch of a step; a function of options and step alone. */
function batchOf(options: Pretraining, step: number): Batch {
  const { seed, steps, images, each, several, severalShare, oneObject, severalFrom } = options
  const random = new Random(seed, 'kind', step)
  const split = `pretrain ${step}`
  const size = { images, each, several }
  if (step >= severalFrom * steps && random.chance(severalShare)) return groups(seed, split, size, random.pick(FRAMES))
  return singles(seed, split, size, step < oneObject * steps ? 1 : 0)
}

interface Phase {
  name: string
  steps: number
  optimizer: AdamW
  factor: (step: number) => number
  /** Called a step ahead, so that drawing and computing overlap. */
  next: (step: number) => () => { total: Tensor; shown: Tensor }
  every: number
  measure?: () => Promise<string>
}

/** Trains: the step's losses, backward, clipped AdamW. Returns the last loss shown. */
async function run(
  { name, steps, optimizer, factor, next, every, measure }: Phase,
  { log = () => {}, signal }: Progress,
): Promise<number> {
  const started = performance.now()
  let smooth = NaN
  let ready = next(0)
  for (let step = 0; step < steps; step++) {
    signal?.throwIfAborted()
    const loss = await scope(async () => {
      const { total, shown } = ready()
      backward(total)
      ready = next(step + 1)
      await optimizer.step(factor(step))
      return shown.item()
    })
    if (!Number.isFinite(loss)) throw new RangeError(`the loss of step ${step} is ${loss}`)
    smooth = step ? 0.98 * smooth + 0.02 * loss : loss
    if ((step + 1) % every && step + 1 < steps) continue
    const seconds = (performance.now() - started) / 1000
    const left = (seconds / (step + 1)) * (steps - step - 1)
    const measured = measure ? `  ${await measure()}` : ''
    log(
      `${name} ${step + 1}/${steps}  loss ${smooth.toFixed(3)}${measured}  ${seconds.toFixed(0)} s, ${left.toFixed(0)} s left`,
    )
  }
  return smooth
}

/** A pre-trained model (the caller disposes it) and its loss on answers at the end. */
export async function pretrain(
  options: Pretraining,
  progress: Progress = {},
): Promise<{ model: ImageModel; loss: number }> {
  const { seed, speaker, from, vision, steps, lr, warmup } = options
  const known = from === undefined ? undefined : await loadImageModel(from, { trained: true })
  const model = freshModel(seed, speaker, known?.weights)
  known?.dispose()
  const heads = freshHeads(seed)
  const settings = { betas: [0.9, 0.98], eps: 1e-8, weightDecay: 0.02, clip: 1 } as const
  const optimizers: AdamW[] = []
  const optimizer = (tensors: Iterable<Tensor>, rate: number): AdamW => {
    const made = new AdamW(parameters(tensors), { ...settings, lr: rate })
    optimizers.push(made)
    return made
  }
  const seeing = [...model.weights.values()].filter((t) => t.label!.startsWith('vision_model'))
  const { word, ...patch } = heads
  try {
    if (vision.steps)
      await run(
        {
          name: 'images',
          steps: vision.steps,
          every: options.every,
          optimizer: optimizer([...seeing, ...headTensors({ ...patch } as Heads)], vision.lr),
          factor: (step) => rate(step, vision.steps, 50),
          next: (step) => {
            const list = stills(seed, vision.images, { split: `images ${step}`, questions: 0 })
            return () => {
              const total = patchLoss(heads, features(model, list), list)
              return { total, shown: total }
            }
          },
        },
        progress,
      )
    const held = heldOut(seed, options.watch)
    const loss = await run(
      {
        name: 'answers',
        steps,
        every: options.every,
        optimizer: optimizer([...model.weights.values(), ...headTensors(heads)], lr),
        factor: (step) => rate(step, steps, warmup),
        next: (step) => {
          const batch = batchOf(options, step)
          return () => {
            const { total, answer } = losses(model, heads, batch)
            return { total, shown: answer }
          }
        },
        measure: async () => {
          const [one, several] = [await answered(model, held.one), await answered(model, held.several)]
          return `held out: one image ${percent(one)}, four ${percent(several)}  (${byTask(held.one, one)})`
        },
      },
      progress,
    )
    return { model, loss }
  } catch (error) {
    model.dispose()
    throw error
  } finally {
    for (const made of optimizers) made.dispose()
    for (const t of headTensors(heads)) t.dispose()
  }
}

/** Small sets to watch the training with; the scores of the card are from another. */
function heldOut(seed: number, images: number): { one: Batch; several: Batch } {
  const size = { images, each: 4, several: images }
  return { one: singles(seed, 'watch', size), several: groups(seed, 'watch groups', size, 4, 0) }
}

const percent = (right: readonly boolean[]): string =>
  `${((100 * right.filter(Boolean).length) / right.length).toFixed(1)} %`

function byTask({ questions }: Batch, right: readonly boolean[]): string {
  const tasks = [...new Set(questions.map((q) => q.task))].sort()
  return tasks
    .map((task) => `${task} ${percent(right.filter((_, i) => questions[i]!.task === task)).replace(/\.\d %/, '')}`)
    .join(', ')
}

/** Pre-trains and writes the folder; returns the scores of what it holds. */
export async function pretrainTo(folder: string, options: Pretraining, progress: Progress = {}): Promise<Scores> {
  await checkPlace(folder)
  const started = performance.now()
  const { model } = await pretrain(options, progress)
  const seconds = (performance.now() - started) / 1000
  try {
    let result: Scores | undefined
    await saveCheckpoint(folder, model, async (part) => {
      progress.log?.('measuring what was written')
      result = await scores(part, options.seed, options.heldOut)
      progress.signal?.throwIfAborted()
      return card(options, result, seconds)
    })
    return result!
  } finally {
    model.dispose()
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { out: { type: 'string' }, seed: { type: 'string' }, steps: { type: 'string' }, t5: { type: 'boolean' } },
  })
  const standard = values.t5 ? OVER_T5 : STANDARD
  const whole = (name: 'seed' | 'steps', least: number): number => {
    const value = values[name] === undefined ? standard[name] : Number(values[name])
    if (!Number.isSafeInteger(value) || value < least)
      throw invalid(`--${name}`, `a whole number, at least ${least}`, values[name])
    return value
  }
  if (values.t5 && values.out === undefined) throw invalid('--out', 'a folder beside --t5', undefined)
  const options = { ...standard, seed: whole('seed', 0), steps: whole('steps', 1) }
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())
  try {
    const result = await pretrainTo(values.out ?? CHECKPOINT, options, {
      log: console.log,
      signal: stop.signal,
    })
    console.log(
      `one image ${(100 * result.one.accuracy).toFixed(1)} %, four images ${(100 * result.several.accuracy).toFixed(1)} %`,
    )
  } catch (error) {
    if (!stop.signal.aborted) throw error
    console.error('stopped; nothing was written')
    process.exitCode = 130
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
