/** `mtransllama eval --model DIR [--adapter DIR] --data MANIFEST` */
import type { Command } from 'commander'
import type { Sampling } from '../data/frames.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { InputError, invalid } from '../errors.js'
import { openModel } from '../session/model.js'
import { accuracy, predictSamples, type Prediction, type Unpredicted } from '../eval/evaluate.js'
import { textTable } from '../report/table.js'
import type { Ranks } from '../ranks/ranks.js'
import { Features } from '../session/features.js'
import { PredictionFile, runName, samplesName } from '../eval/predictions.js'
import { probe, PROBED, type Probe, type ProbeOptions } from '../eval/probe.js'
import { checkTools, metricNames, type Tools } from '../eval/metrics/metrics.js'
import { answered, scoreAnswers } from '../eval/score.js'
import { writeFileAtomic } from '../files/atomic.js'
import { openTexts, type Checkpoint } from '../session/checkpoint.js'
import { adapterOutline, outlineOf } from '../session/footprint.js'
import { ofRank, parallels, together, type Parallel } from './parallel.js'
import { fitting, measures, scoreText } from './score.js'
import { checkFits, predictingOf, type Asked } from './plan.js'
import { Bar, chance, chosen, count, interruptible, located, opens, percent, seconds, type Opens } from './common.js'
import { drawn, draws, type Draws } from './draws.js'

interface Options extends Opens, Draws, Parallel, Tools {
  data: string
  output?: string
  resume?: boolean
  batch: string
  frames?: string
  sampling: string
  cache?: string
  probe?: string | true
  metrics?: string[]
  positive?: string
  verify?: boolean
}

/** `uniform`, `first`, or `fps:2`. */
export function sampling(text: string): Sampling {
  if (text === 'uniform' || text === 'first') return { kind: text }
  const fps = Number(/^fps:(.+)$/.exec(text)?.[1])
  if (!(fps > 0)) throw invalid('--sampling', 'uniform, first or fps:NUMBER', text)
  return { kind: 'fps', fps }
}

/** The table of a probe in percent, and its findings; a video that makes no difference is a warning. */
export function probeText({ metric, samples, rows, findings, video }: Probe): string {
  const hundred = (x: number): string => (100 * x).toFixed(1)
  const table = textTable([
    ['frames', metric, 'answers changed', 'loss', '95 % interval', 'p'],
    ...rows.map(({ view, value, changed, loss }) => [
      view,
      hundred(value),
      hundred(changed),
      loss ? hundred(loss.difference) : '-',
      loss?.interval ? `${hundred(loss.interval.low)} to ${hundred(loss.interval.high)}` : '-',
      loss ? chance(loss.p) : '-',
    ]),
  ])
  const said = findings.map((finding, i) => `${!video && i === 0 ? 'warning' : 'note'}: ${finding}.`)
  return [`probe of ${samples} samples, in %; loss: against the frames as they are, paired`, table, ...said].join('\n')
}

export function register(program: Command): void {
  measures(parallels(draws(opens(program.command('eval')))))
    .description('predict every sample of a manifest and print the accuracy')
    .requiredOption('--data <manifest>', 'samples, JSONL')
    .option(
      '--output <file>',
      'where predictions are written as they come, JSONL; a sample that cannot be used is a line with its reason',
    )
    .option('--resume', 'continue the file of --output; its samples are not predicted again')
    .option('--batch <n>', 'samples at a time', '16')
    .option('--frames <n>', 'frames per clip; default: those the adapter was trained with, else 4')
    .option('--sampling <how>', 'uniform, first or fps:NUMBER', 'uniform')
    .option('--cache <dir>', 'folder for features')
    .option(
      '--probe [n]',
      `whether the video is looked at: n samples (default ${PROBED}) again with frames shuffled, one repeated, blank, of another clip, and with text alone`,
    )
    .option('--verify', 'compare the content of videos with that of cached features, which reads them whole')
    .action((o: Options) => together(o.parallel, (ranks) => run(o, ranks)))
}

/** Predicts as one of the ranks; the first one writes and prints. */
async function run(o: Options, ranks: Ranks): Promise<void> {
  const [batch, choice, timeout] = [count('--batch', o.batch), sampling(o.sampling), seconds('--timeout', o.timeout)]
  const asked = o.frames === undefined ? undefined : count('--frames', o.frames)
  const choose = drawn(o)
  if (o.resume && o.output === undefined) throw invalid('--resume', 'an --output to continue', new Error('none'))
  const probed = o.probe === undefined ? undefined : o.probe === true ? PROBED : count('--probe', o.probe)
  const samples = await readManifest(o.data)
  const metrics = o.metrics && metricNames(o.metrics)
  if (metrics) checkTools(metrics, o)
  const { graphs, say, ...where } = chosen(ofRank(o))
  const folder = await located(o.model, o)
  await checkFits(await predictions(folder, o.adapter, samples, batch, asked, choose.beams), where)
  const model = await openModel(folder, { ...where, adapter: o.adapter })
  const { checkpoint, adapter } = model
  if (ranks.first) say(checkpoint)
  const { signal, done } = interruptible(
    o.output === undefined ? 'stopping' : `stopping; what is predicted is in ${o.output}, and --resume goes on`,
    ranks.first,
  )
  try {
    const features = new Features(checkpoint, {
      frames: asked ?? adapter?.config.frames ?? 4,
      sampling: choice,
      timeout,
      cache: o.cache,
      verify: o.verify,
    })
    const name = await runName(checkpoint, adapter, features.options, choose)
    await ranks.requireSame({ '--data': samplesName(samples), 'model, adapter and frames': name })
    const file =
      o.output === undefined || !ranks.first
        ? undefined
        : await PredictionFile.open(o.output, name, samples, { resume: o.resume ?? false })
    // What the file has no prediction of, as the first rank sees it.
    const [todo] = await ranks.gather(file?.left.map((s) => s.id))
    const left = todo && new Set(todo)
    const [predictions, unpredicted]: [Prediction[], Unpredicted[]] = [file?.predictions ?? [], []]
    const bar = new Bar('eval', samples.length)
    const progress = (): void => bar.update(predictions.length + unpredicted.length)
    try {
      const onUnpredicted = async (line: Unpredicted): Promise<void> => {
        unpredicted.push(line)
        await file?.add(line)
        progress()
      }
      const asked = left ? samples.filter((s) => left.has(s.id)) : samples
      const options = { adapter, batch, ranks, graphs, signal, choose, onUnpredicted }
      for await (const p of predictSamples(checkpoint, features, asked, options)) {
        predictions.push(p)
        await file?.add(p)
        progress()
      }
    } finally {
      bar.stop()
    }
    await file?.finish()
    if (ranks.first && predictions.length) await printScores(samples, predictions, metrics, o)
    if (probed !== undefined) {
      // The first rank has those of an earlier run, too.
      const [known = []] = await ranks.gather(ranks.first ? predictions : undefined)
      const how = { adapter, batch, graphs, signal, choose, most: probed, known, ranks }
      if (known.length) await runProbe(checkpoint, features, samples, how, o.output)
    }
    if (ranks.first && unpredicted.length) {
      const [{ error }] = unpredicted as [Unpredicted]
      throw new InputError(
        `eval: ${unpredicted.length} of ${samples.length} samples have no prediction and are not counted; the first: ${error.replace(/\.$/, '')}${file ? `; the reasons are in ${file.path}, and --resume tries these samples again` : ''}.`,
      )
    }
  } finally {
    done()
    model.dispose()
  }
}

/** Probes with the samples that have predictions; the first rank prints and writes what is found. */
async function runProbe(
  checkpoint: Checkpoint,
  features: Features,
  samples: readonly Sample[],
  options: ProbeOptions & { known: readonly Prediction[]; ranks: Ranks },
  output: string | undefined,
): Promise<void> {
  const usable = new Set(options.known.map((p) => p.id))
  const asked = samples.filter((s) => usable.has(s.id))
  const bar = new Bar('probe', 0)
  const onProgress = (done: number, total: number): void => bar.update(done, {}, total)
  const found = await probe(checkpoint, features, asked, { ...options, onProgress }).finally(() => bar.stop())
  if (!options.ranks.first) return
  console.log(probeText(found))
  if (output !== undefined)
    await writeFileAtomic(`${output.replace(/\.jsonl$/, '')}.probe.json`, `${JSON.stringify(found, null, 2)}\n`)
}

/** Prints the accuracy of predictions, and the figures that were asked for. */
async function printScores(
  samples: readonly Sample[],
  predictions: readonly Prediction[],
  metrics: readonly string[] | undefined,
  { wordnet, meteor, ptb, java, positive: positiveLabel }: Options,
): Promise<void> {
  const { overall, tasks } = accuracy(predictions)
  const row = (name: string, a: typeof overall): string[] => [name, percent(a.accuracy), `${a.correct}/${a.total}`]
  console.log(textTable([...Object.entries(tasks).map(([name, a]) => row(name, a)), row('overall', overall)]))
  if (!metrics && positiveLabel === undefined) return
  const given = new Map(predictions.map((p) => [p.id, p.prediction]))
  const answers = samples.map((s) => answered(s, given.get(s.id)))
  const how = { wordnet, meteor, ptb, java, positiveLabel, metrics: metrics ?? fitting(samples) }
  console.log(scoreText(await scoreAnswers(answers, how)))
}

/** The evaluation as its footprint knows it. */
async function predictions(
  model: string,
  folder: string | undefined,
  samples: readonly Sample[],
  batch: number,
  frames: number | undefined,
  beams: number | undefined,
): Promise<Asked> {
  const outline = await outlineOf(model)
  const texts = { ...(await openTexts(model, outline.config)), model: { config: outline.config } }
  const adapter = folder === undefined ? undefined : await adapterOutline(folder)
  return predictingOf(outline, { texts, samples, adapter, frames: frames ?? adapter?.config.frames ?? 4, batch, beams })
}
