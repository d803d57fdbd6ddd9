/**
 * The demonstration: an image language model that has never seen anything move learns to answer questions about videos,
 * on two cores in some minutes. Renders clips, trains the adapter, evaluates on clips it has not seen, asks one
 * question.
 */
import { rm, writeFile } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { countTrained } from '../../lib/adapter/parameters.js'
import { Bar, count, interruptible, Interrupted, number, percent } from '../../lib/cli/common.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { InputError, invalid } from '../../lib/errors.js'
import { textTable } from '../../lib/report/table.js'
import { openModel } from '../../lib/session/model.js'
import { accuracy, evaluate, type Prediction } from '../../lib/eval/evaluate.js'
import { readTrainConfig, type TrainConfig } from '../../lib/train/config.js'
import { train } from '../../lib/train/loop.js'
import { VIDEO_TASKS } from './questions.js'
import { renderClips, renderStills, type Order } from './render.js'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const out = join(root, 'demo-out')

/** Clips of each split, and the seed that all of them follow from. */
const SEED = 7
const CLIPS = { train: 800, val: 100, test: 250 }
const STILLS = 250

const options = new Command('demo')
  .description('learn to answer questions about videos of coloured shapes')
  .option('--json <file>', 'write the accuracies there as well')
  .option('--model <folder>', 'the image model that learns; default: the checkpoint beside this file')
  .option('--clips <n>', `clips to train on; default: ${CLIPS.train}`)
  .option('--epochs <n>', 'passes over the training questions; default: those of the configurations')
  .option('--rate <factor>', 'what the learning rates of the configurations are multiplied by', '1')
  .parse()
  .opts<{ json?: string; model?: string; clips?: string; epochs?: string; rate: string }>()
const { json, model: given } = options
const checkpoint = given === undefined ? join(here, 'checkpoint') : resolve(given)

/** The configuration of a training, with the changes that were asked for. */
async function configOf(name: string): Promise<TrainConfig> {
  const { train, ...rest } = await readTrainConfig(join(here, `${name}.yaml`))
  const epochs = options.epochs === undefined ? train.epochs : count('--epochs', options.epochs)
  const rate = number('--rate', options.rate)!
  if (!(rate > 0)) throw invalid('--rate', 'a number above 0', options.rate)
  const rates = Object.entries(train.lr as Record<string, number>).map(([group, lr]) => [group, rate * lr])
  return { ...rest, model: checkpoint, train: { ...train, epochs, lr: Object.fromEntries(rates) } }
}

/** Accuracies from 0 to 1; `tasks` has the same columns for each task. */
interface Result {
  overall: Record<string, number>
  tasks: Record<string, Record<string, number>>
}

const { signal, done } = interruptible()

async function render(split: keyof typeof CLIPS, order: Order = 'normal'): Promise<string> {
  const bar = new Bar(`render ${split}${order === 'normal' ? '' : ` (${order})`}`, CLIPS[split])
  try {
    return await renderClips({
      dir: out,
      split,
      seed: SEED,
      clips: CLIPS[split],
      order,
      progress: (n) => bar.update(n),
      signal,
    })
  } finally {
    bar.stop()
  }
}

async function learn(name: string): Promise<string> {
  const config = await configOf(name)
  await rm(config.output, { recursive: true, force: true })
  console.log(`\ntraining ${name} (${config.train.epochs} epochs)`)
  let bar: Bar | undefined
  try {
    const { best } = await train(config, {
      signal,
      onStart: ({ counts, adapter }) =>
        console.log(
          `  trained parameters: ${counts.map((c) => `${c.group} ${c.parameters.toLocaleString('en')}`).join(', ')}; ${countTrained(adapter.trained()).toLocaleString('en')} in all`,
        ),
      onStep: (e) => (bar ??= new Bar('  steps', e.steps, 'loss {loss}')).update(e.step, { loss: e.loss.toFixed(3) }),
      onEpoch: (e) =>
        process.stderr.isTTY ||
        console.log(`  epoch ${e.epoch}: loss ${e.loss.toFixed(3)}, validation ${percent(e.accuracy!)}`),
    })
    return best
  } finally {
    bar?.stop()
  }
}

async function predict(samples: readonly Sample[], frames: number, adapter?: string): Promise<Prediction[]> {
  using model = await openModel(checkpoint, { adapter })
  const predictions: Prediction[] = []
  for await (const p of evaluate(model, samples, { frames, cache: join(out, 'features'), signal })) predictions.push(p)
  return predictions
}

/** Accuracy of always giving a task's most frequent training answer. */
function majority(training: readonly Sample[], test: readonly Sample[]): Prediction[] {
  const favourite = (task: string | undefined): string => {
    const counts = new Map<string, number>()
    for (const s of training) if (s.task === task) counts.set(s.answer, (counts.get(s.answer) ?? 0) + 1)
    return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? ''
  }
  const answers = new Map(VIDEO_TASKS.map((t) => [t as string, favourite(t)]))
  return test.map((s) => ({
    id: s.id,
    task: s.task,
    prompt: s.prompt,
    answer: s.answer,
    prediction: answers.get(s.task!)!,
    correct: answers.get(s.task!) === s.answer,
  }))
}

function chance(samples: readonly Sample[]): number {
  return samples.reduce((sum, s) => sum + 1 / s.choices!.length, 0) / samples.length
}

const TITLES: Record<string, string> = {
  chance: 'chance',
  majority: 'majority class',
  untrained: 'image model, untrained',
  withoutMqt: 'w/o MQT (concatenated frames)',
  full: 'full model',
  shuffled: 'full model, frames shuffled',
  oneFrame: 'full model, one frame repeated',
}

async function main(): Promise<void> {
  if (options.clips !== undefined) CLIPS.train = count('--clips', options.clips)
  const start = performance.now()
  await configOf('full')
  const manifests = { train: await render('train'), val: await render('val'), test: await render('test') }
  const [training, test] = [await readManifest(manifests.train), await readManifest(manifests.test)]
  const [shuffled, oneFrame] = [
    await readManifest(await render('test', 'shuffled')),
    await readManifest(await render('test', 'still')),
  ]
  const stills = (
    await readManifest(await renderStills({ dir: out, split: 'test-stills', seed: SEED, stills: STILLS, signal }))
  ).filter((s) => s.choices)
  console.log(
    `${training.length} training questions on ${CLIPS.train} clips, ${test.length} test questions on ${CLIPS.test} others`,
  )

  const full = await learn('full')
  const withoutMqt = await learn('without-mqt')

  console.log('\nevaluating on held-out clips')
  const {
    adapter: { frames },
  } = await readTrainConfig(join(here, 'full.yaml'))
  const rows: Record<string, Prediction[]> = {
    majority: majority(training, test),
    untrained: await predict(test, frames),
    withoutMqt: await predict(test, frames, withoutMqt),
    full: await predict(test, frames, full),
    shuffled: await predict(shuffled, frames, full),
    oneFrame: await predict(oneFrame, frames, full),
  }
  const still = accuracy(await predict(stills, 1)).overall.accuracy
  const result: Result = {
    overall: { chance: chance(test) },
    tasks: Object.fromEntries(VIDEO_TASKS.map((t) => [t, { chance: chance(test.filter((s) => s.task === t)) }])),
  }
  for (const [name, predictions] of Object.entries(rows)) {
    const a = accuracy(predictions)
    result.overall[name] = a.overall.accuracy
    for (const t of VIDEO_TASKS) result.tasks[t]![name] = a.tasks[t]!.accuracy
  }
  result.overall.still = still
  console.log(
    `\n${textTable([['accuracy in %', ...VIDEO_TASKS, 'overall'], ...Object.keys(TITLES).map((k) => [TITLES[k]!, ...[...VIDEO_TASKS.map((t) => result.tasks[t]![k]!), result.overall[k]!].map((x) => (100 * x).toFixed(1))])])}`,
  )
  console.log(
    `The untrained image model answers ${percent(still)} of ${stills.length} held-out questions about still images.`,
  )
  await show(full, test)
  console.log(
    `\n${((performance.now() - start) / 60_000).toFixed(1)} minutes in all. The clips are in ${relative(process.cwd(), out) || '.'}, the adapters in its folders full and without-mqt.`,
  )
  if (json !== undefined)
    await writeFile(json, `${JSON.stringify(result, null, 2)}\n`).catch((error: unknown) =>
      Promise.reject(invalid('--json', 'a file that can be written', error)),
    )
}

/** One question, as a user would ask it. */
async function show(folder: string, test: readonly Sample[]): Promise<void> {
  const sample = test.find((s) => s.task === 'direction')!
  using model = await openModel(checkpoint, { adapter: folder })
  const at = (path: string): string => relative(process.cwd(), path)
  console.log(
    `\n$ npx mtransllama ask --model ${at(checkpoint)} --adapter ${at(folder)} --video ${at(sample.video)} --prompt "${sample.prompt}"`,
  )
  for await (const piece of model.ask(sample, { signal })) process.stdout.write(piece)
  console.log(`   (the answer is: ${sample.answer})`)
}

main()
  .catch((error: unknown) => {
    if (error instanceof Interrupted || signal.aborted) process.exitCode = 130
    else {
      console.error(error instanceof InputError ? `demo: ${error.message}` : error)
      process.exitCode = 1
    }
  })
  .finally(done)
