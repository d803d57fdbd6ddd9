/** `mtransllama score PREDICTIONS --data MANIFEST`: metrics of predictions that were written before. */
import type { Command } from 'commander'
import { readManifest, type Sample } from '../data/manifest.js'
import { invalid, show } from '../errors.js'
import { readAnswers, scoreAnswers, type Scored } from '../eval/score.js'
import { metricNames, METRICS, type Tools } from '../eval/metrics/metrics.js'
import type { Interval } from '../eval/metrics/intervals.js'
import { writeFileAtomic } from '../files/atomic.js'
import { textTable } from '../report/table.js'
import { chance, number } from './common.js'

interface Options extends Tools {
  data: string
  metrics?: string[]
  positive?: string
  split?: string
  by: string
  against?: string
  seed: string
  json?: string
}

/** Adds the options that say which metrics are computed, and with what. */
export const measures = (command: Command): Command =>
  command
    .option('--metrics <names...>', `which: ${METRICS.join(', ')}, or the part before a colon for all of its kind`)
    .option('--positive <label>', 'of questions with two answers: precision, recall and F1 of this one, and of both')
    .option('--wordnet <dir>', "WordNet 3.0 for meteor:nltk3.7; default: where Debian's wordnet-base has it")
    .option('--meteor <jar>', 'the jar of METEOR 1.5')
    .option('--ptb <jar>', "Stanford CoreNLP 3.4.1, for the exact words of COCO's metrics")
    .option('--java <command>', 'what runs the jars', 'java')

/** The samples of one split. @throws InputError where there is none */
export function ofSplit(samples: Sample[], split: string | undefined, path: string): Sample[] {
  if (split === undefined) return samples
  const some = samples.filter((s) => s.split === split)
  const known = [...new Set(samples.flatMap((s) => s.split ?? []))]
  if (!some.length)
    throw invalid('--split', known.length ? known.map(show).join(', ') : `samples with a split in ${path}`, split)
  return some
}

/** Metrics that fit the samples, for who names none. */
export const fitting = (samples: readonly Sample[]): string[] =>
  samples.every((s) => s.choices) ? ['accuracy'] : ['accuracy', 'exact', 'rougeL:google']

const hundred = (value: number): string => (100 * value).toFixed(1)
const between = (interval: Interval | undefined): string =>
  interval ? `${hundred(interval.low)} to ${hundred(interval.high)}` : '-'

/** The tables of scores, in percent, and their notes. */
export function scoreText({ lines, binary, unpredicted }: Scored): string {
  const parts = [
    textTable([
      ['metric', 'part', '%', '95 % interval', 'answers'],
      ...lines.map((l) => [l.metric, l.part ?? 'all', hundred(l.value), between(l.interval), l.answers]),
    ]),
  ]
  const compared = lines.filter((l) => l.paired)
  if (compared.length)
    parts.push(
      textTable([
        ['metric', 'part', 'this', 'other', 'difference', '95 % interval', 'p'],
        ...compared.map(({ metric, part = 'all', value, paired: p }) => [
          metric,
          part,
          hundred(value),
          hundred(p!.other),
          hundred(p!.difference),
          between(p!.interval),
          chance(p!.p),
        ]),
      ]),
    )
  if (binary) {
    const row = (name: string, r: { precision: number; recall: number; f1: number }, n: string | number): string[] => [
      name,
      ...[r.precision, r.recall, r.f1].map(hundred),
      `${n}`,
    ]
    const { positive, negative } = binary
    parts.push(
      textTable([
        ['class', 'precision', 'recall', 'F1', 'answers'],
        row(`${show(positive.label)} (positive)`, positive, positive.support),
        row(show(negative.label), negative, negative.support),
        row('macro', binary.macro, ''),
        row('weighted', binary.weighted, ''),
      ]),
      `${binary.unparsed} answers name neither class, or both, and are wrong.`,
    )
  }
  const notes = new Map(lines.flatMap((l) => (l.notes.length ? [[l.metric, l.notes.join('; ')] as const] : [])))
  for (const [metric, note] of notes) parts.push(`${metric}: ${note}.`)
  if (unpredicted) parts.push(`${unpredicted} samples have no prediction and count as wrong.`)
  return parts.join('\n')
}

export function register(program: Command): void {
  measures(program.command('score <predictions>'))
    .description('metrics of predictions that eval wrote, each by its name, with intervals; no model is opened')
    .requiredOption('--data <manifest>', 'the samples that were predicted, JSONL')
    .option('--split <name>', 'only the samples of this split')
    .option('--by <what>', 'task or group: what figures are broken down by', 'task')
    .option('--against <predictions>', "another run's predictions of the same samples: differences, paired")
    .option('--seed <n>', 'seed of intervals and tests', '0')
    .option('--json <file>', 'where the figures are written as JSON as well')
    .action(
      async (predictions: string, { data, metrics, positive, split, by, against, seed, json, ...tools }: Options) => {
        if (by !== 'task' && by !== 'group') throw invalid('--by', 'task or group', by)
        const samples = ofSplit(await readManifest(data, { videos: false }), split, data)
        const names = metricNames(metrics ?? fitting(samples))
        const answers = await readAnswers(predictions, samples)
        const scored = await scoreAnswers(answers, {
          ...tools,
          metrics: names,
          positiveLabel: positive,
          by,
          against: against === undefined ? undefined : await readAnswers(against, samples),
          seed: number('--seed', seed),
        })
        if (json !== undefined) {
          const { lines, binary, unpredicted } = scored
          const record = {
            predictions,
            data,
            split,
            against,
            samples: samples.length,
            unpredicted,
            scores: lines,
            binary,
          }
          await writeFileAtomic(json, `${JSON.stringify(record, null, 2)}\n`)
        }
        console.log(scoreText(scored))
      },
    )
}
