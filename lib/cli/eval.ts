/** `mtransllama eval --model DIR [--adapter DIR] --data MANIFEST` */
import type { Command } from 'commander'
import { loadAdapter } from '../adapter/save.js'
import type { Sampling } from '../data/frames.js'
import { readManifest } from '../data/manifest.js'
import { invalid } from '../errors.js'
import { openBundle } from '../eval/bundle.js'
import { accuracy, evaluate, type Prediction } from '../eval/evaluate.js'
import { Features } from '../eval/features.js'
import { writeFileAtomic } from '../weights/atomic.js'
import { Bar, chosen, computes, interruptible, percent, table, type Where } from './common.js'

interface Options extends Where {
  model: string
  adapter?: string
  data: string
  output?: string
  batch: string
  frames?: string
  sampling: string
  cache?: string
}

/** A whole number of at least 1 from an option's text. */
export function count(name: string, text: string): number {
  const n = Number(text)
  if (!Number.isInteger(n) || n < 1) throw invalid(name, 'a whole number of at least 1', text)
  return n
}

/** `uniform`, `first`, or `fps:2`. */
export function sampling(text: string): Sampling {
  if (text === 'uniform' || text === 'first') return { kind: text }
  const fps = Number(/^fps:(.+)$/.exec(text)?.[1])
  if (!(fps > 0)) throw invalid('--sampling', 'uniform, first or fps:NUMBER', text)
  return { kind: 'fps', fps }
}

export function register(program: Command): void {
  computes(program.command('eval'))
    .description('predict every sample of a manifest and print the accuracy')
    .requiredOption('--model <dir>', 'image model in the Hugging Face layout')
    .option('--adapter <dir>', 'trained adapter; without one the image model answers')
    .requiredOption('--data <manifest>', 'samples, JSONL')
    .option('--output <file>', 'where predictions are written, JSONL')
    .option('--batch <n>', 'samples at a time', '16')
    .option('--frames <n>', 'frames per clip; default: those the adapter was trained with, else 4')
    .option('--sampling <how>', 'uniform, first or fps:NUMBER', 'uniform')
    .option('--cache <dir>', 'folder for features')
    .action(async (o: Options) => {
      const samples = await readManifest(o.data)
      const where = chosen(o)
      const bundle = await openBundle(o.model, where)
      where.say()
      const { signal, done } = interruptible()
      try {
        const adapter = o.adapter === undefined ? undefined : await loadAdapter(o.adapter, bundle)
        const frames = o.frames === undefined ? (adapter?.config.frames ?? 4) : count('--frames', o.frames)
        const features = new Features(bundle, { frames, sampling: sampling(o.sampling), cache: o.cache })
        const bar = new Bar('eval', samples.length)
        const predictions: Prediction[] = []
        try {
          for await (const p of evaluate(bundle, features, samples, { adapter, batch: count('--batch', o.batch), signal })) {
            predictions.push(p)
            bar.update(predictions.length)
          }
        } finally {
          bar.stop()
        }
        if (o.output !== undefined) await writeFileAtomic(o.output, predictions.map((p) => `${JSON.stringify(p)}\n`).join(''))
        const { overall, tasks } = accuracy(predictions)
        const row = (name: string, a: typeof overall): string[] => [name, percent(a.accuracy), `${a.correct}/${a.total}`]
        console.log(table([...Object.entries(tasks).map(([name, a]) => row(name, a)), row('overall', overall)]))
        adapter?.dispose()
      } finally {
        done()
        bundle.model.dispose()
      }
    })
}
