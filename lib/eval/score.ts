/** Predictions that were written to a file, scored: metrics by name, intervals, two runs compared. */
import { invalid, InputError, show } from '../errors.js'
import { sampleName, type Sample } from '../data/manifest.js'
import { parseJson } from '../files/json.js'
import { readText } from '../files/text.js'
import { binaryScore, type Binary } from './metrics/classes.js'
import { bootstrap, paired, type Interval, type Paired } from './metrics/intervals.js'
import type { Answered, Score } from './metrics/metric.js'
import { computeMetrics, type Tools } from './metrics/metrics.js'

/** A sample with what was predicted for it. */
export const answered = (
  { id, prompt, answer, references, choices, task, group, video }: Sample,
  prediction: string | undefined,
): Answered => ({ id, prompt, answer, references, choices, task, group, video, prediction })

/**
 * Reads a file of predictions, as `eval --output` writes it, beside its samples.
 *
 * @returns an answer per sample, in the order of the samples; without a prediction where the file has none
 * @throws InputError for a file without a prediction, a line that is none, an id that is there twice or is none of the
 *   samples', and a prediction for another text than the sample's
 */
export async function readAnswers(path: string, samples: readonly Sample[]): Promise<Answered[]> {
  const text = await readText(path)
  const byId = new Map(samples.map((s) => [s.id, s]))
  const lines = new Map<string, string | undefined>()
  const strange: string[] = []
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue
    const where = `${path}, line ${i + 1}`
    const value = parseJson(
      line,
      (error) => invalid(where, 'a prediction as JSON', line, error.message),
      (key) => invalid(where, 'every key once', key),
    )
    const { id, prediction, answer, error } = (value ?? {}) as Record<string, unknown>
    if (typeof id !== 'string' || (typeof prediction !== 'string' && typeof error !== 'string'))
      throw invalid(where, 'an object with id and prediction', line)
    if (lines.has(id)) throw invalid(`${where}, id`, 'every sample once', id)
    const sample = byId.get(id)
    if (!sample) strange.push(id)
    else if (answer !== undefined && answer !== sample.answer)
      throw invalid(`${where}, answer`, `${show(sample.answer)}, as ${sampleName(sample)} has it`, answer)
    lines.set(id, typeof prediction === 'string' ? prediction : undefined)
  }
  if (!lines.size) throw invalid(path, 'at least one prediction', new Error('an empty file'))
  if (strange.length)
    throw new InputError(
      `${path}: ${strange.length} of ${lines.size} predictions are of no sample of the manifest, the first of ${show(strange[0])}; they are of another dataset or split.`,
    )
  return samples.map((sample) => answered(sample, lines.get(sample.id)))
}

/** A metric with how sure it is, of all samples or of a part of them. */
export interface ScoreLine {
  metric: string
  /** The task, or the group, that the samples have in common; absent for all samples together. */
  part?: string
  value: number
  interval: Interval | undefined
  /** Answers that the metric counts. */
  answers: number
  notes: readonly string[]
  /** Against another run. */
  paired?: Paired & { other: number }
}

/** What is known of a file of predictions. */
export interface Scored {
  lines: ScoreLine[]
  binary: Binary | undefined
  /** Samples without a prediction: wrong for every metric that counts them. */
  unpredicted: number
}

/** How predictions are scored. */
export interface ScoreOptions extends Tools {
  metrics: readonly string[]
  /** Of closed questions of two classes: the class that precision and recall are of. */
  positiveLabel?: string | undefined
  /** What figures are broken down by. Default: `task`. */
  by?: 'task' | 'group' | undefined
  /** Predictions of another run for the same samples. */
  against?: readonly Answered[] | undefined
  /** Seed of the bootstrap. Default 0. */
  seed?: number | undefined
}

/** Scores answers by every metric asked for, each in all and by task or group. @throws InputError as the metrics do */
export async function scoreAnswers(
  answers: readonly Answered[],
  { metrics, positiveLabel, by = 'task', against, seed = 0, ...tools }: ScoreOptions,
): Promise<Scored> {
  const parts = [...new Set(answers.flatMap((a) => a[by] ?? []))].sort()
  const lines: ScoreLine[] = []
  for (const part of parts.length > 1 ? [...parts, undefined] : [undefined]) {
    const places = [...answers.keys()].filter((i) => part === undefined || answers[i]![by] === part)
    const some = places.map((i) => answers[i]!)
    const groups = some.map((a) => a.video)
    const scores = await computeMetrics(metrics, some, tools)
    const others = against
      ? await computeMetrics(
          metrics,
          places.map((i) => against[i]!),
          tools,
        )
      : []
    for (const [i, score] of scores.entries())
      lines.push({
        ...(part !== undefined && { part }),
        metric: score.metric,
        value: score.value,
        interval: bootstrap(score, groups, { seed }),
        answers: counted(score),
        notes: score.notes,
        ...(others[i]?.weights && {
          paired: { ...paired(score, others[i], groups, { seed }), other: others[i].value },
        }),
      })
  }
  return {
    lines,
    binary: positiveLabel === undefined ? undefined : binaryScore(answers, positiveLabel),
    unpredicted: answers.filter((a) => a.prediction === undefined).length,
  }
}

const counted = ({ items }: Score): number => items.filter((item) => item !== undefined).length
