/** Reads what a run's folder holds. What is missing or damaged is said in a sentence, and the rest is used. */
import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { InputError, invalid } from '../errors.js'
import { readJsonObject } from '../files/json.js'
import { readText } from '../files/text.js'
import {
  ABOUT,
  EVALUATION,
  LOG,
  ROUTERS,
  readAbout,
  readEvaluation,
  routersIn,
  type About,
  type Evaluation,
  type Routers,
} from './records.js'

/** Most points of a curve; a longer run is averaged over steps that follow each other. */
const POINTS = 1500

/** Numbers of a step that have a curve. */
const CURVES = ['loss', 'lr', 'norm', 'tokensPerSecond', 'padding', 'memory', 'waiting', 'seconds'] as const

/** Curves by name, over the steps of `step`; null where the log has no finite number. */
export type Curves = Record<'step' | (typeof CURVES)[number], (number | null)[]>

/** A validation, within an epoch or at its end. */
export interface Validated {
  kind: 'validation' | 'epoch'
  epoch: number
  step: number
  /** Mean training loss per answer token. */
  loss: number | null
  accuracy?: number
  tasks?: Record<string, number>
  valLoss?: number
  best: boolean
  notFinite?: string
}

/** What the page shows of a run's log. */
export interface Course {
  curves: Curves
  /** Steps that make a point of a curve. */
  stride: number
  validations: Validated[]
  /** Steps of the whole run as it was planned, and those that are done; epochs that are complete. */
  steps: number
  done: number
  epochs: number
  /** Seconds that all steps took. */
  seconds: number
  /** When the first and the last entry were written. */
  begun?: string
  ended?: string
  /** Steps that were skipped since something was not finite, and what. */
  bad: { step: number; reason: string }[]
  /** Losses that stand out, with their samples. */
  spikes: { step: number; loss: number | null; z: number; samples: string[] }[]
}

/** What a run's folder holds. */
export interface RunRecord {
  /** The folder's name. */
  name: string
  course: Course
  about?: About
  /** The configuration, where `run.json` is missing: as the last save has it. */
  saved?: Record<string, unknown>
  /** Weights of masks at each validation. */
  routers: Routers[]
  /** The answers that were recorded. */
  evaluation?: Evaluation
  /** Sentences about what is missing or damaged. */
  gaps: string[]
}

/** Reads a run's folder. @throws InputError where it is not there or holds nothing of a run */
export async function readRun(folder: string): Promise<RunRecord> {
  const names = await readdir(folder).catch((error: unknown) => {
    throw invalid(folder, 'the folder of a run', error)
  })
  if (![LOG, ABOUT, 'last'].some((name) => names.includes(name)))
    throw new InputError(
      `${folder}: expected the folder of a run, but there is no ${LOG}, no ${ABOUT} and no last/; give the output folder of a training.`,
    )
  const gaps: string[] = []
  /** The result, or undefined with a sentence of why there is none. */
  const attempt = async <T>(read: () => Promise<T>): Promise<T | undefined> =>
    read().catch((error: unknown) => {
      if (!(error instanceof InputError)) throw error
      gaps.push(error.message)
      return undefined
    })
  let lines: object[] = []
  if (names.includes(LOG)) lines = (await attempt(() => readLines(join(folder, LOG), gaps))) ?? []
  else
    gaps.push(`${LOG} is missing, so there are no curves; the run did not write it (train.log), or it was not copied.`)
  let about: About | undefined
  let saved: Record<string, unknown> | undefined
  if (names.includes(ABOUT)) about = await attempt(() => readAbout(folder))
  else
    gaps.push(
      `${ABOUT} is missing, so versions and fingerprints are unknown; the run is of an earlier version, was started with train.report: false, or was not copied whole.`,
    )
  const state = join(folder, 'last', 'training.json')
  if (!about && existsSync(state)) {
    const { config } = (await attempt(() => readJsonObject(state))) ?? {}
    if (typeof config === 'object' && config !== null) saved = config as Record<string, unknown>
  }
  // An adapter without routers has no such file.
  const weights = names.includes(ROUTERS) ? ((await attempt(() => readLines(join(folder, ROUTERS), gaps))) ?? []) : []
  let evaluation: Evaluation | undefined
  if (names.includes(EVALUATION)) evaluation = await attempt(() => readEvaluation(folder))
  else
    gaps.push(`${EVALUATION} is missing, so there are no answers to show; mtransllama report --evaluate records them.`)
  return {
    name: basename(resolve(folder)),
    course: courseOf(lines),
    routers: routersIn(weights),
    ...(about && { about }),
    ...(saved && { saved }),
    ...(evaluation && { evaluation }),
    gaps,
  }
}

/** The objects of a file of JSON lines. Lines that are none, as a power loss leaves them, are counted in `gaps`. */
export async function readLines(path: string, gaps: string[]): Promise<object[]> {
  const lines: object[] = []
  let damaged = 0
  for (const line of (await readText(path)).split('\n')) {
    if (line.trim() === '') continue
    try {
      const value: unknown = JSON.parse(line)
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw undefined
      lines.push(value)
    } catch {
      damaged++
    }
  }
  if (damaged) gaps.push(`${path}: ${damaged} ${damaged === 1 ? 'line is' : 'lines are'} damaged and left out.`)
  return lines
}

const finite = (x: unknown): number | null => (typeof x === 'number' && Number.isFinite(x) ? x : null)
const whole = (x: unknown): number | undefined => (Number.isSafeInteger(x) ? (x as number) : undefined)
const text = (x: unknown): string | undefined => (typeof x === 'string' ? x : undefined)

type Line = Record<string, unknown>

/** What the lines of a log say. Where one says a step twice, the last counts. */
function courseOf(lines: readonly object[]): Course {
  const steps = new Map<number, Line>()
  const checks = new Map<string, Validated>()
  let at = 0
  for (const line of lines as readonly Line[]) {
    const step = whole(line.step)
    if (line.kind === 'step' && step !== undefined) {
      steps.set(step, line)
      at = step
    } else if (line.kind === 'validation' || line.kind === 'epoch') {
      const { kind } = line
      const of = step ?? at
      checks.set(`${kind} ${of}`, validated(kind, line, of))
    }
  }
  const sorted = [...steps].sort(([a], [b]) => a - b).map(([, line]) => line)
  const stride = Math.max(1, Math.ceil(sorted.length / POINTS))
  const validations = [...checks.values()].sort((a, b) => a.step - b.step)
  const times = (lines as readonly Line[]).flatMap((line) => text(line.time) ?? [])
  return {
    curves: curvesOf(sorted, stride),
    stride,
    validations,
    steps: Math.max(0, ...sorted.slice(-1).map((line) => whole(line.steps) ?? 0)),
    done: whole(sorted.at(-1)?.step) ?? 0,
    epochs: Math.max(0, ...validations.filter((v) => v.kind === 'epoch').map((v) => v.epoch)),
    seconds: sorted.reduce((sum, line) => sum + (finite(line.seconds) ?? 0), 0),
    ...(times.length && { begun: times[0]!, ended: times.at(-1)! }),
    bad: sorted.flatMap((line) =>
      line.bad === undefined ? [] : [{ step: Number(line.step), reason: String(line.bad) }],
    ),
    spikes: sorted.flatMap((line) => {
      const z = finite(line.spike)
      const samples = Array.isArray(line.samples) ? line.samples.map(String) : []
      return z === null ? [] : [{ step: Number(line.step), loss: finite(line.loss), z, samples }]
    }),
  }
}

function validated(kind: 'validation' | 'epoch', line: Line, step: number): Validated {
  const [accuracy, valLoss] = [finite(line.accuracy), finite(line.valLoss)]
  const tasks = Object.entries((line.tasks ?? {}) as object).filter(([, share]) => finite(share) !== null)
  const notFinite = text(line.notFinite)
  return {
    kind,
    epoch: whole(line.epoch) ?? 0,
    step,
    loss: finite(line.loss),
    ...(accuracy !== null && { accuracy }),
    ...(tasks.length && { tasks: Object.fromEntries(tasks) as Record<string, number> }),
    ...(valLoss !== null && { valLoss }),
    best: line.best === true,
    ...(notFinite !== undefined && { notFinite }),
  }
}

/** Means over `stride` steps. A step that was skipped has no loss. */
function curvesOf(steps: readonly Line[], stride: number): Curves {
  const curves = { step: [] } as unknown as Curves
  for (const name of CURVES) curves[name] = []
  for (let from = 0; from < steps.length; from += stride) {
    const some = steps.slice(from, from + stride)
    curves.step.push(Number(some.at(-1)!.step))
    for (const name of CURVES) {
      const values = some
        .filter((line) => name !== 'loss' || line.bad === undefined)
        .map((line) => finite(line[name]))
        .filter((x) => x !== null)
      const mean = values.length ? values.reduce((a, b) => a + b, 0) / values.length : null
      curves[name].push(mean === null ? null : Number(mean.toPrecision(6)))
    }
  }
  return curves
}
