/** An experiment from its files to its report; what is on the disk already is not done again. */
import { mkdir } from 'node:fs/promises'
import { basename, join, relative, resolve, sep } from 'node:path'
import { parseAdapterConfig, type AdapterConfig } from '../adapter/config.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import type { Answered } from '../eval/metrics/metric.js'
import type { Tools } from '../eval/metrics/metrics.js'
import { readAnswers } from '../eval/score.js'
import { writeFileAtomic } from '../files/atomic.js'
import { lock } from '../files/lock.js'
import { Features, type FeatureOptions } from '../session/features.js'
import type { Model } from '../session/model.js'
import type { TrainConfig } from '../train/config.js'
import type { StepEvent } from '../train/loop.js'
import { analyse, byGroup } from './analysis.js'
import { cacheClips, prepareData, type Data, type DataOptions } from './data.js'
import { experimentNamed, TINY_WORLD, type Experiment } from './experiments.js'
import { configOf, overlaid, readRecipe, type Places, type Recipe, type Settings } from './recipes.js'
import {
  availableMetrics,
  costsOf,
  figuresOf,
  promptTokens,
  reportPage,
  sideBySide,
  variantReports,
  type Report,
} from './report.js'
import { finishRun, isFinished, type Plan, type RunResult } from './runs.js'
import { CLIPS, CURVES, firstClips, STUDIED, studyOf, tinyWorldIn, type Study, type TinyWorld } from './study.js'
import { studyCharts, studyPage } from './study-page.js'

/** What hears of the progress. */
export interface Events {
  /** Clips whose features are there. */
  onClips?: ((done: number, total: number) => void) | undefined
  /** A run begins; it may be finished already. */
  onRun?: ((run: { name: string; at: number; of: number }) => void) | undefined
  onStep?: ((event: StepEvent) => void) | undefined
  onAnswer?: ((done: number, total: number) => void) | undefined
  onNotice?: ((sentence: string) => void) | undefined
}

/** How an experiment is done. */
export interface ReproduceOptions extends Events {
  /** The folder of everything that is written. */
  out: string
  model: Model
  /** Where the published files lie; of the tiny world, its rendered sets, which are rendered where they are absent. */
  data: Partial<DataOptions>
  /** Variants beside the full model. */
  variants?: readonly string[]
  /** Seeds 0 to n − 1. Default 1. */
  seeds?: number
  /** Laid over the recipe of the dataset. */
  settings?: Settings
  tools?: Tools
  /** Of the tiny world: whether runs on fewer clips are made for the curves. */
  curves?: boolean
  /** Reports on the runs that have a result, and does no other. */
  finished?: boolean | undefined
  graphs?: boolean | undefined
  signal?: AbortSignal | undefined
}

/** Files of a report. */
export interface Written {
  json: string
  page: string
}

const UNTRAINED = {
  'zero-shot': 'the image model itself, its visual tokens averaged over frames',
  'frozen-concat': "the image model with the frames' visual tokens one after another: w/o MQT with nothing trained",
} as const

/**
 * Prepares the data, caches features, trains and evaluates every variant for every seed and fold, and writes
 * `report.json` and `report.md` into the folder. It can be stopped anywhere: called again with the same options, it
 * goes on where it was.
 *
 * @throws InputError where data, model or settings cannot be used, and for a folder of another experiment
 */
export async function reproduce(name: string, options: ReproduceOptions): Promise<Written> {
  const out = resolve(options.out)
  const experiment = name === TINY_WORLD ? undefined : experimentNamed(name)
  await mkdir(out, { recursive: true })
  const unlock = await lock(join(out, 'reproduce.lock'), `--out: ${out}`)
  try {
    const laboratory = await Laboratory.open(name, { ...options, out })
    return experiment ? await onDataset(laboratory, experiment, options) : await onTinyWorld(laboratory, options)
  } finally {
    await unlock()
  }
}

/** What all runs of an experiment share: settings, the model, the folder. */
class Laboratory {
  private constructor(
    readonly options: ReproduceOptions,
    readonly base: Settings,
    readonly variants: ReadonlyMap<string, Recipe>,
  ) {}

  static async open(name: string, options: ReproduceOptions): Promise<Laboratory> {
    const { settings } = await readRecipe('datasets', name)
    const wanted = ['full', ...(options.variants ?? [])]
    const recipes = new Map<string, Recipe>()
    for (const variant of wanted) recipes.set(variant, await readRecipe('variants', variant))
    // The report of every training would answer samples anew; ours is about all of them.
    return new Laboratory(options, overlaid(settings, { train: { report: false } }, options.settings ?? {}), recipes)
  }

  get about(): Map<string, string> {
    return new Map([...Object.entries(UNTRAINED), ...[...this.variants].map(([name, r]) => [name, r.about] as const)])
  }

  /** A variant's configuration, in a run's folder. */
  config(variant: string, run: string, data: Pick<Places, 'train' | 'val'>, more: Settings): TrainConfig {
    const settings = overlaid(this.base, this.variants.get(variant)!.settings, more)
    const { model } = this.options
    return configOf(
      settings,
      { ...data, model: model.checkpoint.folder, output: this.folder(run), cache: this.cache },
      variant,
    )
  }

  folder(run: string): string {
    return join(this.options.out, 'runs', run)
  }
  get cache(): string {
    return join(this.options.out, 'features')
  }

  /** The full model's configuration, of no data. */
  get full(): TrainConfig {
    return this.config('full', 'full', { train: '/none', val: undefined }, {})
  }
  /** Which frames are read, and where their features are kept. */
  get features(): FeatureOptions {
    const { adapter, data } = this.full
    return { frames: adapter.frames, sampling: data.sampling, timeout: data.timeout, cache: this.cache }
  }

  /** An adapter that does nothing yet and puts frames one after another. */
  get concatenated(): AdapterConfig {
    const { frames, text } = this.full.adapter
    return parseAdapterConfig({
      ...{ frames, text, aggregate: 'concat', temporal: { attention: 'none' }, dar: { mode: 'off' }, lora: { r: 1 } },
      fusion: this.options.model.checkpoint.model.config.qformer.hasText,
    })
  }

  /** Does every run that has no result yet. */
  async finish(plans: readonly Plan[]): Promise<RunResult[]> {
    const { model, onRun, onStep, onAnswer, onNotice, signal, graphs, finished = false } = this.options
    const results: RunResult[] = []
    for (const [at, plan] of plans.entries()) {
      signal?.throwIfAborted()
      if (finished && !isFinished(this.folder(plan.name))) continue
      onRun?.({ name: plan.name, at, of: plans.length })
      const events = { onStep, onAnswer, onNotice, signal, graphs }
      results.push(await finishRun(this.folder(plan.name), model, plan, events))
    }
    for (const needed of ['zero-shot', 'full'])
      if (!results.some((r) => r.variant === needed))
        throw new InputError(`reproduce: no run of ${needed} is finished yet, so that there is nothing to report.`)
    return results
  }

  /** The predictions of a run beside their samples. */
  answers(run: RunResult, questions: string, samples: readonly Sample[]): Promise<Answered[]> {
    return readAnswers(join(this.folder(run.name), run.predictions[questions]!), samples)
  }

  async write(report: Report | Study, page: string, charts: ReadonlyMap<string, string> = new Map()): Promise<Written> {
    const written = { json: join(this.options.out, 'report.json'), page: join(this.options.out, 'report.md') }
    await writeFileAtomic(written.json, `${JSON.stringify(report, null, 2)}\n`)
    for (const [name, chart] of charts) await writeFileAtomic(join(this.options.out, `report-${name}.svg`), chart)
    await writeFileAtomic(written.page, page)
    return written
  }
}

// ----------------------------------------------------------------------------------------------------- published data

async function onDataset(laboratory: Laboratory, experiment: Experiment, options: ReproduceOptions): Promise<Written> {
  const { model, data: where, seeds = 1, tools = {}, settings = {}, onClips, signal } = options
  const { out } = laboratory.options
  const { source } = where
  if (source === undefined)
    throw new InputError('--source: expected the folder with the published files, but got nothing.')
  const { checkpoint } = model
  const features = laboratory.features
  const depends = JSON.stringify([checkpoint.fingerprint, features.frames, features.sampling])
  const data = await prepareData(
    experiment,
    { ...where, source },
    { folder: join(out, 'data'), features: new Features(checkpoint, features), name: depends },
    { onClips, signal },
  )
  const tests = new Map<number | undefined, Sample[]>()
  for (const { fold, test } of data.folds) tests.set(fold, await readManifest(test))
  const plans = datasetPlans(laboratory, data, tests, seeds)
  const results = await laboratory.finish(plans)
  const first = plans.find((plan) => plan.variant === 'full')!
  const analysed = await analyse(laboratory.folder(first.name), model, first, options)

  const { metrics, notes } = availableMetrics(experiment.testOn.metrics, tools)
  const figures: { variant: string; figures: Map<string, number> }[] = []
  const shown = new Map<string, Answered[]>()
  for (const run of results) {
    const answers = await laboratory.answers(run, 'test', tests.get(run.fold)!)
    figures.push({ variant: run.variant, figures: await figuresOf(answers, metrics, tools, data.positive) })
    const shows = run.fold === data.folds[0]!.fold && (run.seed ?? 0) === 0
    if (shows && ['zero-shot', 'without-mqt', 'full'].includes(run.variant)) shown.set(run.variant, answers)
  }
  const test = tests.get(data.folds[0]!.fold)!
  const { folds, ...about } = data
  const report: Report = {
    format: 'mtransllama-reproduce',
    version: 1,
    experiment: experiment.name,
    title: experiment.title,
    table: experiment.paper.table,
    model: { name: basename(checkpoint.folder), fingerprint: checkpoint.fingerprint },
    changed: settings,
    seeds,
    folds: folds.length,
    data: about,
    variants: variantReports(figures, laboratory.about, experiment),
    promptTokens: promptTokens(checkpoint, laboratory.full.adapter, test),
    sideBySide: sideBySide(
      test,
      new Map(['zero-shot', 'without-mqt', 'full'].flatMap((v) => (shown.has(v) ? [[v, shown.get(v)!] as const] : []))),
    ),
    analysis: { groups: byGroup(shown.get('full')!), page: relative(out, analysed).split(sep).join('/') },
    notes: [...experiment.notes, ...notes, ...data.notices],
    costs: costsOf(results),
  }
  return laboratory.write(report, reportPage(report))
}

/** Seeds and folds are the outer loops, so that what is finished first has every variant. */
function datasetPlans(
  laboratory: Laboratory,
  { folds }: Data,
  tests: ReadonlyMap<number | undefined, Sample[]>,
  seeds: number,
): Plan[] {
  const plans: Plan[] = []
  for (const { fold, train, val } of folds) {
    const of = fold === undefined ? {} : { fold }
    const suffix = fold === undefined ? '' : `.fold-${fold}`
    const questions = { test: { samples: tests.get(fold)!, features: laboratory.features } }
    plans.push(
      { name: `zero-shot${suffix}`, variant: 'zero-shot', ...of, questions },
      { name: `frozen-concat${suffix}`, variant: 'frozen-concat', ...of, questions, start: laboratory.concatenated },
    )
    for (let seed = 0; seed < seeds; seed++)
      for (const variant of laboratory.variants.keys()) {
        const name = `${variant}${suffix}.seed-${seed}`
        plans.push({
          ...{ name, variant, seed, ...of, questions },
          adapter: val === undefined ? 'last' : 'best',
          config: laboratory.config(variant, name, { train, val }, { train: { seed } }),
        })
      }
  }
  return plans
}

// --------------------------------------------------------------------------------------------------------- tiny world

async function onTinyWorld(laboratory: Laboratory, options: ReproduceOptions): Promise<Written> {
  const { model, data, seeds = 1, curves = true, settings = {}, onClips, signal } = options
  const { out } = laboratory.options
  const world = await tinyWorldIn(data.source ?? join(out, 'clips'), signal)
  const [train, val, test, stills] = (await Promise.all(
    [world.train, world.val, world.test, world.stills].map((path) => readManifest(path)),
  )) as [Sample[], Sample[], Sample[], Sample[]]
  const features = new Features(model.checkpoint, laboratory.features)
  const [lost] = await cacheClips([...train, ...val, ...test], features, { onClips, signal })
  if (lost) throw new InputError(`${lost.id}: ${lost.error}`)
  const trainClips = new Set(train.map((s) => s.video)).size
  const plans = await tinyWorldPlans(laboratory, world, { test, stills, trainClips, seeds, curves })
  const results = await laboratory.finish(plans)
  const study: Study = {
    format: 'mtransllama-study',
    version: 1,
    seeds,
    precision: model.checkpoint.model.precision,
    unfinished: plans.map((p) => p.name).filter((name) => !results.some((r) => r.name === name)),
    changed: settings,
    ...(await studyOf(results, laboratory.about, { train, test, stills }, (run, questions) =>
      laboratory.answers(run, questions, questions === 'test' ? test : stills),
    )),
  }
  return laboratory.write(study, studyPage(study), studyCharts(study))
}

async function tinyWorldPlans(
  laboratory: Laboratory,
  world: TinyWorld,
  {
    test,
    stills,
    trainClips,
    seeds,
    curves,
  }: { test: Sample[]; stills: Sample[]; trainClips: number; seeds: number; curves: boolean },
): Promise<Plan[]> {
  const { features } = laboratory
  const clips = { samples: test, features }
  const questions = { test: clips, stills: { samples: stills, features: { ...features, frames: 1 } } }
  const plans: Plan[] = [
    { name: 'zero-shot', variant: 'zero-shot', questions },
    { name: 'frozen-concat', variant: 'frozen-concat', questions, start: laboratory.concatenated },
  ]
  const fewer = new Map<number, string>()
  if (curves)
    for (const n of CURVES.clips)
      if (n < trainClips) fewer.set(n, await firstClips(world.train, n, laboratory.options.out))
  for (let seed = 0; seed < seeds; seed++) {
    for (const variant of laboratory.variants.keys()) {
      const name = `${variant}.seed-${seed}`
      const config = laboratory.config(variant, name, world, { train: { seed } })
      plans.push({ ...{ name, variant, seed, questions }, adapter: 'last', config })
    }
    for (const [n, manifest] of fewer)
      for (const variant of CURVES.variants.filter((v) => laboratory.variants.has(v))) {
        const fewerClips = `${variant}${CLIPS}${n}`
        const name = `${fewerClips}.seed-${seed}`
        // As many steps as with all clips, so that clips alone differ.
        const epochs = Math.round((laboratory.full.train.epochs * trainClips) / n)
        const config = laboratory.config(
          variant,
          name,
          { train: manifest, val: undefined },
          { train: { seed, epochs } },
        )
        const own = { name, variant: fewerClips, seed, questions: { test: clips } }
        plans.push({ ...own, adapter: 'last', config })
      }
  }
  return plans
}

/** Variants of the study beside the full model. */
export const STUDY_VARIANTS = STUDIED.filter((variant) => variant !== 'full')
