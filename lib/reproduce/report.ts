/** What an experiment found, beside the paper's figures: as JSON, and as a page of Markdown. */
import { checkAdapterConfig, visualTokens, type AdapterConfig } from '../adapter/config.js'
import type { Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { binaryScore } from '../eval/metrics/classes.js'
import type { Answered } from '../eval/metrics/metric.js'
import { checkTools, type Tools } from '../eval/metrics/metrics.js'
import { spread } from '../eval/record.js'
import { scoreAnswers } from '../eval/score.js'
import { markdownTable } from '../report/table.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { encode, type TextConfig } from '../session/encode.js'
import type { PartAccuracy } from './analysis.js'
import type { Data } from './data.js'
import type { Experiment, FigureName } from './experiments.js'
import type { RunResult } from './runs.js'
import { meanOf } from './statistics.js'

/** A figure of a variant, in percent: of each run, their mean and deviation, and the paper's. */
export interface Figure {
  name: FigureName
  values: number[]
  mean: number
  deviation?: number
  paper?: number
  /** Ours less the paper's. */
  difference?: number
}

/** A variant's runs together. */
export interface VariantReport {
  variant: string
  about: string
  runs: number
  figures: Figure[]
}

/** What a variant's runs took, the mean of them; it differs from machine to machine. */
export interface Cost {
  variant: string
  trained: number
  steps: number
  trainingSeconds: number
  answeringSeconds: number | null
  peakBytes: number
}

/** A clip, and what was answered about it. */
export interface SideBySide {
  id: string
  video: string
  prompt: string
  answer: string
  /** By variant. */
  predictions: Record<string, string>
}

/** Tokens of the language model before an answer, the mean of the test samples. */
export interface PromptTokens {
  /** Visual tokens: of the model, and with the frames one after another. */
  visual: number
  concatenated: number
  /** Prompt tokens with the text in the Q-Former, and in front of the prompt. */
  fusion: number
  withoutFusion: number
}

/** The result of `reproduce` on a published dataset. */
export interface Report {
  format: 'mtransllama-reproduce'
  version: 1
  experiment: string
  title: string
  table: string
  model: { name: string; fingerprint: string }
  /** Settings that were changed from the recipe. */
  changed: Record<string, unknown>
  seeds: number
  folds: number
  data: Omit<Data, 'folds'>
  variants: VariantReport[]
  promptTokens: PromptTokens
  sideBySide: SideBySide[]
  /** Of the full model's first run: accuracy by group, and its page about answers, relative to the report. */
  analysis: { groups: PartAccuracy[]; page: string }
  notes: string[]
  costs: Cost[]
}

/** Metrics that can be computed here, and a sentence about each that cannot. */
export function availableMetrics(names: readonly string[], tools: Tools): { metrics: string[]; notes: string[] } {
  const notes: string[] = []
  const metrics = names.filter((name) => {
    try {
      checkTools([name], tools)
      return true
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      notes.push(`${name} is not computed: ${error.message.replace(/\.$/, '')}`)
      return false
    }
  })
  return { metrics, notes }
}

/** All figures of a run's answers in percent, by name. @param positive the answer of the positive class */
export async function figuresOf(
  answers: readonly Answered[],
  metrics: readonly string[],
  tools: Tools,
  positive: string | undefined,
): Promise<Map<FigureName, number>> {
  const { lines } = await scoreAnswers(answers, { ...tools, metrics })
  const figures = new Map(
    lines.map((l) => [l.part === undefined ? l.metric : `${l.metric} / ${l.part}`, 100 * l.value]),
  )
  if (positive !== undefined) {
    const classes = binaryScore(answers, positive)
    for (const name of ['positive', 'negative'] as const) {
      figures.set(`recall of the ${name} class`, 100 * classes[name].recall)
      figures.set(`precision of the ${name} class`, 100 * classes[name].precision)
    }
  }
  return figures
}

/** The runs of each variant together, in the order of their first runs. */
export function variantReports(
  runs: readonly { variant: string; figures: ReadonlyMap<FigureName, number> }[],
  about: ReadonlyMap<string, string>,
  { paper }: Pick<Experiment, 'paper'>,
): VariantReport[] {
  return [...new Set(runs.map((r) => r.variant))].map((variant) => {
    const own = runs.filter((r) => r.variant === variant)
    const names = [...new Set(own.flatMap((r) => [...r.figures.keys()]))]
    return {
      variant,
      about: about.get(variant) ?? '',
      runs: own.length,
      figures: names.map((name): Figure => {
        const values = own.flatMap((r) => r.figures.get(name) ?? [])
        const { mean, deviation } = meanOf(values)
        const published = paper.figures[variant]?.[name.replace(/\/own-tokens$/, '')]
        return {
          name,
          values,
          mean,
          ...(deviation !== undefined && { deviation }),
          ...(published !== undefined && { paper: published, difference: mean - published }),
        }
      }),
    }
  })
}

/** What the runs of each variant took. */
export function costsOf(results: readonly RunResult[]): Cost[] {
  return [...new Set(results.map((r) => r.variant))].map((variant) => {
    const own = results.filter((r) => r.variant === variant)
    const mean = (of: (r: RunResult) => number): number => meanOf(own.map(of)).mean
    const timed = own.flatMap((r) => r.seconds.answering ?? [])
    return {
      variant,
      trained: own[0]!.trained,
      steps: own[0]!.steps,
      trainingSeconds: mean((r) => r.seconds.training),
      answeringSeconds: timed.length ? meanOf(timed).mean : null,
      peakBytes: Math.max(...own.map((r) => r.peak)),
    }
  })
}

/** Tokens that stand before an answer, with the text read early and late. */
export function promptTokens(checkpoint: Checkpoint, adapter: AdapterConfig, samples: readonly Sample[]): PromptTokens {
  const { config } = checkpoint.model
  const checked = checkAdapterConfig(adapter, config)
  const mean = (text: TextConfig): number =>
    meanOf(samples.map((s) => encode(checkpoint, text, s, undefined).prompt.length)).mean
  return {
    visual: visualTokens(adapter, config.numQueryTokens),
    concatenated: visualTokens({ ...adapter, aggregate: 'concat' }, config.numQueryTokens),
    fusion: mean(checked),
    withoutFusion: mean({ ...checked, fusion: false, lateText: 'prompt' }),
  }
}

/** Clips that are shown side by side. */
const SHOWN = 10

/** Some clips of the test, with the answers of those variants that there are. */
export function sideBySide(
  samples: readonly Sample[],
  answers: ReadonlyMap<string, readonly Answered[]>,
): SideBySide[] {
  const byVariant = [...answers].map(
    ([variant, list]) => [variant, new Map(list.map((a) => [a.id, a.prediction]))] as const,
  )
  return spread(samples, SHOWN).map(({ id, video, prompt, answer }) => ({
    id,
    video: video.replace(/^.*[\\/]/, ''),
    prompt,
    answer,
    predictions: Object.fromEntries(byVariant.map(([variant, of]) => [variant, of.get(id) ?? ''])),
  }))
}

// ------------------------------------------------------------------------------------------------------------ Markdown

const one = (x: number): string => x.toFixed(1)
const signed = (x: number): string => `${x < 0 ? '−' : '+'}${Math.abs(x).toFixed(1)}`
/** A text as one cell of a table. */
const cell = (text: string): string => text.replace(/\s*\n\s*/g, ' / ')
/** Costs as a table. */
export const costTable = (costs: readonly Cost[]): string =>
  markdownTable(
    ['variant', 'trained parameters', 'steps', 'training, s', 'answering, s', 'peak memory, MB'],
    costs.map((c) => [
      c.variant,
      c.trained.toLocaleString('en'),
      c.steps,
      c.trainingSeconds.toFixed(0),
      c.answeringSeconds === null ? '–' : c.answeringSeconds.toFixed(0),
      (c.peakBytes / 1e6).toFixed(0),
    ]),
    (column) => column > 0,
  )

/** The report as a page. */
export function reportPage(report: Report): string {
  const { data, promptTokens: tokens } = report
  const differ = data.counts.filter((c) => c.paper !== undefined && c.found !== c.paper).length
  const parts = [
    `# ${report.title}: reproduced`,
    `Model: ${report.model.name} (fingerprint ${report.model.fingerprint.slice(0, 12)}). ${report.seeds} ${report.seeds === 1 ? 'seed' : 'seeds'}, ${report.folds} ${report.folds === 1 ? 'split' : 'splits'}. Prompts: ${data.prompts}.${data.splitting === undefined ? '' : ` Split: ${data.splitting}.`} Paper: ${report.table}. All figures in %.`,
    ...(Object.keys(report.changed).length
      ? [`Changed from the recipe: \`${JSON.stringify(report.changed)}\`.`]
      : ['The recipe is unchanged.']),
    '## Figures',
    markdownTable(
      ['variant', 'metric', 'paper', 'ours', 'difference', 'deviation', 'runs'],
      report.variants.flatMap((v) =>
        v.figures.map((f) => [
          v.variant,
          f.name,
          f.paper === undefined ? '–' : one(f.paper),
          one(f.mean),
          f.difference === undefined ? '–' : signed(f.difference),
          f.deviation === undefined ? '–' : one(f.deviation),
          f.values.length,
        ]),
      ),
      (column) => column > 1,
    ),
    report.variants.map((v) => `- \`${v.variant}\`: ${v.about}.`).join('\n'),
    '## Tokens of the language model',
    markdownTable(
      ['', 'visual', 'prompt, text in the Q-Former', 'prompt, text in front of it'],
      [
        ['mean over frames', tokens.visual, one(tokens.fusion), one(tokens.withoutFusion)],
        ['frames one after another', tokens.concatenated, one(tokens.fusion), one(tokens.withoutFusion)],
      ],
      (column) => column > 0,
    ),
    '## Cost',
    costTable(report.costs),
    '## Data',
    `${differ ? `${differ} counts differ from the paper's Tables I and II.` : 'No count differs from the paper.'} ${data.leftOut.length} samples were left out, since their clip cannot be used.`,
    markdownTable(
      ['dataset', 'split', 'count', 'found', 'paper', 'with video'],
      data.counts.map((c) => [c.dataset, c.split, c.what, c.found, c.paper ?? '–', c.usable]),
      (column) => column > 2,
    ),
    `## ${report.sideBySide.length} clips side by side`,
    markdownTable(
      ['clip', 'question', 'expected', ...Object.keys(report.sideBySide[0]?.predictions ?? {})],
      report.sideBySide.map((s) => [
        s.video,
        cell(s.prompt),
        cell(s.answer),
        ...Object.values(s.predictions).map((p) => cell(p) || '–'),
      ]),
    ),
    '## Where it fails',
    `[The page about the full model's answers](${report.analysis.page.split('/').map(encodeURIComponent).join('/')}) has confusions, the worst clips with their frames, and the weights of routers by sample.`,
    ...(report.analysis.groups.length
      ? [
          markdownTable(
            ['group', 'answers', 'accuracy'],
            report.analysis.groups.map((g) => [g.part, g.answers, one(g.accuracy)]),
            (column) => column > 0,
          ),
        ]
      : []),
    '## Notes',
    report.notes.map((n) => `- ${n.charAt(0).toUpperCase()}${n.slice(1)}.`).join('\n'),
  ]
  return `${parts.join('\n\n')}\n`
}
