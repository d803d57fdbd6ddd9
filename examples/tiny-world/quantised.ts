/**
 * The tiny world's adapter trained three times, over weights in bfloat16, in 8 and in 4 bits, and evaluated on the same
 * clips that no training has seen: what quantising the frozen weights costs. Prints the accuracies as a table.
 */
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { readManifest } from '../../lib/data/manifest.js'
import { accuracy, evaluate, type Prediction } from '../../lib/eval/evaluate.js'
import { markdownTable } from '../../lib/report/table.js'
import type { WeightsChoice } from '../../lib/session/budget.js'
import { openModel } from '../../lib/session/model.js'
import { readTrainConfig } from '../../lib/train/config.js'
import { train } from '../../lib/train/loop.js'
import { VIDEO_TASKS } from './questions.js'
import { renderClips } from './render.js'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const checkpoint = join(here, 'checkpoint')
const FORMS: WeightsChoice[] = ['bfloat16', 'int8', 'nf4']
// The demonstration's clips (demo.ts).
const clips = { dir: join(root, 'demo-out'), seed: 7 }
const CLIPS = { train: 800, val: 100, test: 250 } as const

const { epochs } = new Command('quantised')
  .description('train the tiny world over weights in bfloat16, 8 and 4 bits')
  .option('--epochs <n>', 'of each training; default: those of full.yaml')
  .parse()
  .opts<{ epochs?: string }>()

const manifests = new Map<string, string>()
for (const [split, n] of Object.entries(CLIPS) as [keyof typeof CLIPS, number][])
  manifests.set(split, await renderClips({ ...clips, split, clips: n }))
const test = await readManifest(manifests.get('test')!)
const given = await readTrainConfig(join(here, 'full.yaml'))

const rows: string[][] = []
for (const weights of FORMS) {
  const config = {
    ...given,
    output: join(clips.dir, `full-${weights}`),
    train: { ...given.train, ...(epochs && { epochs: Number(epochs) }) },
  }
  await rm(config.output, { recursive: true, force: true })
  const { best } = await train(config, {
    weights,
    onEpoch: (e) => console.error(`${weights}: epoch ${e.epoch}, loss ${e.loss.toFixed(3)}`),
  })
  using model = await openModel(checkpoint, { adapter: best, weights })
  const predictions: Prediction[] = []
  for await (const p of evaluate(model, test, { frames: config.adapter.frames, cache: join(clips.dir, 'features') }))
    predictions.push(p)
  const { tasks, overall } = accuracy(predictions)
  const all = [...VIDEO_TASKS.map((t) => tasks[t]!.accuracy), overall.accuracy]
  rows.push([weights, ...all.map((x) => (100 * x).toFixed(1))])
}
console.log(markdownTable(['frozen weights, accuracy in %', ...VIDEO_TASKS, 'overall'], rows))
