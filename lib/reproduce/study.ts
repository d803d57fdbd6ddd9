/**
 * The study of the tiny world: variants of the model on generated clips, over several seeds; their differences from the
 * full model, paired by seed and clip; and how accuracy grows with clips and with steps.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeManifests } from '../data/datasets/prepare.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import type { Answered } from '../eval/metrics/metric.js'
import { accuracyScore } from '../eval/metrics/classes.js'
import { costsOf, type Cost } from './report.js'
import type { RunResult } from './runs.js'
import { meanOf, pairedBySeed, type Difference, type Scores } from './statistics.js'

/** The sets of the tiny world, by name: manifests. */
export interface TinyWorld {
  train: string
  val: string
  test: string
  stills: string
}

const script = fileURLToPath(new URL('../../examples/tiny-world/sets.ts', import.meta.url))
/** The image model of the tiny world, where the repository is. */
export const TINY_MODEL = fileURLToPath(new URL('../../examples/tiny-world/checkpoint', import.meta.url))

/** The sets in a folder, rendered where they are absent. @throws InputError where nothing renders them */
export async function tinyWorldIn(folder: string, signal?: AbortSignal): Promise<TinyWorld> {
  const at = (set: string): string => join(folder, set, 'manifest.jsonl')
  const sets = { train: at('train'), val: at('val'), test: at('test'), stills: at('test-stills') }
  if (Object.values(sets).every((path) => existsSync(path))) return sets
  if (!existsSync(script))
    throw new InputError(
      `${folder}: expected the sets train, val, test and test-stills of the tiny world; examples/tiny-world/sets.ts of the repository renders them, and --source names their folder.`,
    )
  await mkdir(folder, { recursive: true })
  const child = spawn(process.execPath, ['--import', 'tsx', script, folder], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    stdio: ['ignore', 'inherit', 'inherit'],
    ...(signal && { signal }),
  })
  const code = await new Promise<number | null>((resolve, reject) => child.on('close', resolve).on('error', reject))
  signal?.throwIfAborted()
  if (code !== 0)
    throw new InputError(`${folder}: the clips of the tiny world could not be rendered; the reason stands above.`)
  return sets
}

/** The first clips of a manifest with their questions, as a manifest in `folder`. */
export async function firstClips(manifest: string, clips: number, folder: string): Promise<string> {
  const samples = await readManifest(manifest)
  const kept = new Set([...new Set(samples.map((s) => s.video))].slice(0, clips))
  const path = join(folder, `first-${clips}.jsonl`)
  await writeManifests(
    path,
    samples.filter((s) => kept.has(s.video)),
  )
  return path
}

/** Variants of the study, the full model first. */
export const STUDIED = [
  'full',
  'without-mqt',
  'reuse',
  'fresh',
  'score',
  'without-dar',
  'joint',
  'without-fusion',
] as const
/** Of the curves: which variants, and over how many of the clips. */
export const CURVES = { variants: ['full', 'fresh', 'without-mqt'], clips: [64, 250] } as const
/** Between the variant's name and the number of clips. */
export const CLIPS = '-on-'

/** The answers of a run to a set of questions. */
export type AnswersOf = (run: RunResult, questions: 'test' | 'stills') => Promise<readonly Answered[]>

/** A mean over seeds, in percent. */
export interface OverSeeds {
  values: number[]
  mean: number
  deviation?: number
}

/** Accuracy in percent after so many optimiser steps. */
export interface CurvePoint {
  step: number
  accuracy: number
}

/** The result of the study. */
export interface Study {
  format: 'mtransllama-study'
  version: 1
  seeds: number
  /** What the model computed in. */
  precision: string
  /** Runs that had no result yet, of a report with `--finished`. */
  unfinished: string[]
  clips: { train: number; test: number }
  questions: { test: number; stills: number }
  tasks: string[]
  /** Of the test questions, in percent, all of them and by task. */
  chance: Record<string, number>
  variants: {
    variant: string
    about: string
    runs: number
    /** Accuracy on all test questions and by task. */
    accuracy: Record<string, OverSeeds>
    /** On questions about still pictures. */
    stills: OverSeeds
  }[]
  /** Each variant less the full model, from −1 to 1. */
  differences: { variant: string; test: Record<string, Difference>; stills: Difference }[]
  /** The full model less the untrained image model, on still pictures. */
  retention: Difference
  /** Mean accuracy by clips to train on, with as many steps for each; absent without curves. */
  byClips: { variant: string; clips: number; accuracy: Record<string, OverSeeds> }[]
  /** Mean accuracy on validation clips by optimiser step. */
  bySteps: { variant: string; points: CurvePoint[] }[]
  /** The same of the full model by task. */
  byTask: { task: string; points: CurvePoint[] }[]
  /** Questions to train on, by task. */
  trainQuestions: Record<string, number>
  /** Settings that were changed from the recipe. */
  changed: Record<string, unknown>
  costs: Cost[]
}

/** The mean of several runs at each of their validations. */
const curve = (
  runs: readonly RunResult[],
  of: (validation: RunResult['validations'][number]) => number,
): CurvePoint[] =>
  runs[0]!.validations.map(({ step }, i) => ({
    step,
    accuracy: 100 * meanOf(runs.flatMap((r) => (r.validations[i] ? [of(r.validations[i])] : []))).mean,
  }))

/** Accuracy on all questions. */
export const ALL = 'all'

/** Puts the runs of a study together. */
export async function studyOf(
  results: readonly RunResult[],
  about: ReadonlyMap<string, string>,
  { train, test, stills }: { train: readonly Sample[]; test: readonly Sample[]; stills: readonly Sample[] },
  answersOf: AnswersOf,
): Promise<Omit<Study, 'format' | 'version' | 'seeds' | 'precision' | 'unfinished' | 'changed'>> {
  const tasks = [...new Set(test.flatMap((s) => s.task ?? []))]
  const trainClips = new Set(train.map((s) => s.video)).size
  const places = (task: string): number[] => [...test.keys()].filter((i) => task === ALL || test[i]!.task === task)
  const names = [ALL, ...tasks]
  const scores = new Map<RunResult, { test: Scores; stills: Scores }>()
  for (const run of results) {
    const of = async (questions: 'test' | 'stills'): Promise<Scores> =>
      accuracyScore(await answersOf(run, questions)).items
    scores.set(run, { test: await of('test'), stills: run.predictions['stills'] ? await of('stills') : [] })
  }
  const runsOf = (variant: string): RunResult[] => results.filter((r) => r.variant === variant)
  const percent = (list: Scores): number => 100 * meanOf(list.map((s) => s ?? 0)).mean
  const overSeeds = (values: number[]): OverSeeds => {
    const { mean, deviation } = meanOf(values)
    return { values, mean, ...(deviation !== undefined && { deviation }) }
  }
  const accuracy = (runs: readonly RunResult[]): Record<string, OverSeeds> =>
    Object.fromEntries(
      names.map((task) => [
        task,
        overSeeds(runs.map((run) => percent(places(task).map((i) => scores.get(run)!.test[i])))),
      ]),
    )
  const variants = [...new Set(results.map((r) => r.variant))].filter((v) => !v.includes(CLIPS))
  const pairs = (variant: string): [RunResult[], RunResult[]] => {
    const own = runsOf(variant)
    const full = runsOf('full').filter((f) => own.some((o) => o.seed === f.seed))
    // A variant that is not trained is the same for every seed.
    return own.length === 1 && own[0]!.seed === undefined
      ? [runsOf('full').map(() => own[0]!), runsOf('full')]
      : [full.map((f) => own.find((o) => o.seed === f.seed)!), full]
  }
  const clipsOf = (samples: readonly Sample[], at: readonly number[]): string[] => at.map((i) => samples[i]!.video)
  const everyStill = [...stills.keys()]
  const difference = (first: readonly RunResult[], second: readonly RunResult[], task: string): Difference => {
    const at = places(task)
    const of = (runs: readonly RunResult[]): Scores[] => runs.map((r) => at.map((i) => scores.get(r)!.test[i]))
    return pairedBySeed(of(first), of(second), clipsOf(test, at))
  }
  const stillDifference = (first: readonly RunResult[], second: readonly RunResult[]): Difference => {
    const of = (runs: readonly RunResult[]): Scores[] => runs.map((r) => scores.get(r)!.stills)
    return pairedBySeed(of(first), of(second), clipsOf(stills, everyStill))
  }
  const full = runsOf('full')
  const validated = CURVES.variants.filter((v) => runsOf(v).some((r) => r.validations.length))
  return {
    clips: { train: trainClips, test: new Set(test.map((s) => s.video)).size },
    questions: { test: test.length, stills: stills.length },
    tasks,
    chance: Object.fromEntries(
      names.map((task) => [task, 100 * meanOf(places(task).map((i) => 1 / test[i]!.choices!.length)).mean]),
    ),
    variants: variants.map((variant) => ({
      variant,
      about: about.get(variant) ?? '',
      runs: runsOf(variant).length,
      accuracy: accuracy(runsOf(variant)),
      stills: overSeeds(runsOf(variant).map((run) => percent(scores.get(run)!.stills))),
    })),
    differences: variants
      .filter((v) => v !== 'full')
      .map((variant) => {
        const [own, other] = pairs(variant)
        return {
          variant,
          test: Object.fromEntries(names.map((task) => [task, difference(own, other, task)])),
          stills: stillDifference(own, other),
        }
      }),
    retention: stillDifference(
      full,
      full.map(() => runsOf('zero-shot')[0]!),
    ),
    byClips: CURVES.variants.flatMap((variant) =>
      [...CURVES.clips, trainClips].flatMap((clips) => {
        const runs = runsOf(clips === trainClips ? variant : `${variant}${CLIPS}${clips}`)
        return runs.length ? [{ variant, clips, accuracy: accuracy(runs) }] : []
      }),
    ),
    bySteps: validated.map((variant) => ({ variant, points: curve(runsOf(variant), (v) => v.accuracy) })),
    byTask: validated.includes('full')
      ? tasks.map((task) => ({ task, points: curve(full, (v) => v.tasks[task] ?? 0) }))
      : [],
    trainQuestions: Object.fromEntries(tasks.map((t) => [t, train.filter((s) => s.task === t).length])),
    costs: costsOf(results),
  }
}
