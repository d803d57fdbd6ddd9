/** `mtransllama prepare NAME --source DIR --out manifest.jsonl`: a published dataset as a manifest. */
import type { Command } from 'commander'
import { DATASETS, datasetNamed, promptsOf } from '../data/datasets/datasets.js'
import { prepare, writeManifests, type Prepared } from '../data/datasets/prepare.js'
import { InputError, invalid } from '../errors.js'
import { writeFileAtomic } from '../files/atomic.js'
import { textTable } from '../report/table.js'
import { count, number } from './common.js'

interface Options {
  source?: string
  videos?: string
  out?: string
  splitting?: string
  fold?: string
  seed: string
  trainLimit?: string
  ids?: string
  prompts?: string
  promptFile?: string
  listPrompts?: boolean
  listNeeded?: boolean
  open?: boolean
  strict?: boolean
  json?: string
}

const optional = (name: string, text: string | undefined): number | undefined =>
  text === undefined ? undefined : count(name, text)

/** Counts, differences from the paper's, missing videos, notices. */
function report({ counts, missing, needed, notices, prompts, splitting, samples }: Prepared): string {
  const parts = [
    `${splitting === undefined ? '' : `Split: ${splitting}. `}Prompts: ${prompts}.`,
    textTable(
      [
        ['split', 'count', 'found', 'paper', 'difference', 'with video'],
        ...counts.map((c) => [
          c.split,
          c.what,
          c.found,
          c.paper ?? '-',
          c.paper === undefined
            ? '-'
            : c.found === c.paper
              ? '0'
              : `${c.found > c.paper ? '+' : ''}${c.found - c.paper}`,
          c.usable,
        ]),
      ],
      (column) => column > 1,
    ),
  ]
  const differ = counts.filter((c) => c.paper !== undefined && c.found !== c.paper)
  parts.push(
    differ.length
      ? `${differ.length} counts differ from the paper's Tables I and II.`
      : "All counts are those of the paper's Tables I and II.",
  )
  if (missing.length)
    parts.push(
      `${missing.length} of ${needed.length} videos are missing, the first: ${missing.slice(0, 3).join(', ')}; ${counts
        .filter((c) => c.what === 'samples')
        .map((c) => `${c.split} keeps ${c.usable} of ${c.found} samples`)
        .join(', ')}. --list-needed prints the names of all videos.`,
    )
  for (const notice of notices) parts.push(`${notice.charAt(0).toUpperCase()}${notice.slice(1)}.`)
  parts.push(`${samples.length} samples.`)
  return parts.join('\n')
}

export function register(program: Command): void {
  program
    .command('prepare <dataset>')
    .description(`a manifest from the published files of ${DATASETS.map((d) => d.name).join(', ')}`)
    .option('--source <dir>', 'folder with the published files, unpacked')
    .option('--videos <dir>', 'folder with the videos; default: the source')
    .option('--out <manifest>', 'the manifest, JSONL; one per split is written beside it')
    .option('--splitting <name>', 'how the data are split, where there are several ways')
    .option('--fold <n>', 'which fold is tested, from 1')
    .option('--seed <n>', 'seed of splits that are drawn and of shuffled options', '0')
    .option('--train-limit <n>', 'at most so many samples to train on, the first ones')
    .option('--ids <file>', 'JSON of ids by split, for --splitting ids')
    .option('--prompts <name>', 'a set of prompts')
    .option(
      '--prompt-file <file>',
      'sets of prompts instead of the own ones, JSON or YAML, as --list-prompts prints them',
    )
    .option('--list-prompts', 'print the sets of prompts and end')
    .option('--list-needed', 'print the name of every video that the samples need, and end: for a partial download')
    .option('--open', 'without choices: answers are generated')
    .option('--strict', "fail where a count differs from the paper's, or a video is missing")
    .option('--json <file>', 'where the counts and missing videos are written')
    .action(async (name: string, o: Options) => {
      const dataset = datasetNamed(name)
      if (o.listPrompts) return console.log(JSON.stringify(await promptsOf(dataset, o.promptFile), null, 2))
      const { source } = o
      if (source === undefined) throw invalid('--source', 'the folder with the published files', new Error('nothing'))
      const prepared = await prepare(dataset, {
        ...o,
        source,
        fold: optional('--fold', o.fold),
        seed: number('--seed', o.seed)!,
        trainLimit: optional('--train-limit', o.trainLimit),
      })
      if (o.listNeeded) return console.log(prepared.needed.join('\n'))
      const { samples, counts, missing, needed, notices } = prepared
      if (o.out === undefined) throw invalid('--out', 'where the manifest goes', new Error('nothing'))
      console.log(report(prepared))
      if (o.json !== undefined) {
        const record = {
          dataset: name,
          splitting: prepared.splitting,
          prompts: prepared.prompts,
          counts,
          missing,
          notices,
        }
        await writeFileAtomic(o.json, `${JSON.stringify(record, null, 2)}\n`)
      }
      if (!samples.length)
        throw new InputError(
          `${o.videos ?? source}: none of the ${needed.length} videos is there, such as ${needed[0]}; give their folder with --videos.`,
        )
      const differ = counts.filter((c) => c.paper !== undefined && c.found !== c.paper).length
      if (o.strict && (differ || missing.length))
        throw new InputError(
          `prepare: ${differ} counts differ from the paper's, and ${missing.length} videos are missing.`,
        )
      console.log((await writeManifests(o.out, samples)).map((path) => `wrote ${path}`).join('\n'))
    })
}
