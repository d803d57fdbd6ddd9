/** `mtransllama import-csv TABLE`: manifests from a table with a row for each question. */
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import type { Command } from 'commander'
import {
  COLUMNS,
  manifestText,
  readTable,
  splitByGroup,
  type Column,
  type RowProblem,
  type Split,
  type TableRow,
} from '../data/import-csv.js'
import { clipKey } from '../data/frames.js'
import { InputError, invalid } from '../errors.js'
import { writeFileAtomic } from '../files/atomic.js'
import { textTable } from '../report/table.js'
import { fraction, whole } from './common.js'

interface Options {
  output?: string
  videos?: string
  column: Map<Column, string>
  val?: string
  group?: string
  seed: string
  maxSkipped: string
  separator: string
  delimiter?: string
  encoding?: string
  force?: boolean
}

/** Adds `NAME=HEADER` to the columns that were named before. */
function named(text: string, before: Map<Column, string>): Map<Column, string> {
  const [, name = '', header = ''] = /^([^=]+)=(.*)$/s.exec(text) ?? []
  if (!(name in COLUMNS))
    throw invalid('--column', `NAME=HEADER with one of ${Object.keys(COLUMNS).join(', ')} as NAME`, text)
  return new Map(before).set(name as Column, header.trim())
}

export function register(program: Command): void {
  program
    .command('import-csv <table>')
    .description(`write manifests from a CSV file with the columns ${Object.keys(COLUMNS).join(', ')}`)
    .option('--output <dir>', 'folder for train.jsonl and, where there are such rows, val.jsonl and test.jsonl')
    .option('--videos <dir>', 'folder that the column video is relative to (default: the folder of the table)')
    .option('--column <name=header>', 'a column that is called otherwise in the table; repeatable', named, new Map())
    .option('--val <share>', 'share of the rows for validation, where the table has no column split')
    .option('--group <column>', 'column whose values --val never splits (default: video)')
    .option('--seed <number>', 'seed of --val', '0')
    .option('--max-skipped <number>', 'rows that may be left out since they cannot be used', '0')
    .option('--separator <text>', 'what stands between two choices', '|')
    .option('--delimiter <character>', 'what stands between two cells (default: the one that fits the header)')
    .option('--encoding <name>', 'such as windows-1252 or shift_jis (default: by the byte order mark, else UTF-8)')
    .option('--force', 'replace manifests that are there')
    .action(async (path: string, options: Options) => {
      const share = options.val === undefined ? undefined : fraction('--val', options.val)
      const seed = whole('--seed', options.seed)
      const limit = whole('--max-skipped', options.maxSkipped)
      const folder = resolve(options.output ?? dirname(path))
      const table = await readTable(path, { ...options, columns: options.column })
      for (const name of table.unused) console.error(`note: nothing is read from the column ${name}`)
      for (const { error } of table.problems) console.error(`problem: ${error.message}`)
      for (const { message } of table.broken) console.error(`problem: ${message}`)
      refuse(path, table.rows.length, table.problems, table.broken, limit)
      if (share !== undefined && table.rows[0]!.split)
        throw new InputError(`--val: ${path} has a column split already; leave one of them out (--column split=).`)
      const rows = share === undefined ? table.rows : splitByGroup(table.rows, share, seed)
      await write(folder, rows, options.force ?? false)
      if (table.problems.length) console.log(`${table.problems.length} rows were left out`)
    })
}

/** Refuses a table with more bad rows than may be left out, and one of which nothing is left. */
function refuse(path: string, good: number, problems: readonly RowProblem[], broken: Error[], limit: number): void {
  const bad = problems.length + broken.length
  const counts = new Map<string, number>()
  for (const { column = 'number of cells' } of problems) counts.set(column, (counts.get(column) ?? 0) + 1)
  if (broken.length) counts.set('quotation marks', broken.length)
  const list = [...counts].map(([column, n]) => `${column} ${n}`).join(', ')
  if (broken.length)
    throw new InputError(
      `${path}: ${bad} rows cannot be used (${list}), and wrong quotation marks may hide others; correct them. Nothing was written.`,
    )
  if (bad > limit)
    throw new InputError(
      `${path}: ${bad} of ${good + bad} rows cannot be used (${list}); correct them, or allow --max-skipped ${bad}. Nothing was written.`,
    )
  if (good === 0) throw invalid(path, 'at least one row that can be used', bad)
}

async function write(folder: string, rows: readonly TableRow[], force: boolean): Promise<void> {
  const splits = (['train', 'val', 'test'] as const)
    .map((name: Split) => {
      const samples = rows.filter(({ split = 'train' }) => split === name).map(({ sample }) => sample)
      return { name, samples, file: join(folder, `${name}.jsonl`) }
    })
    .filter(({ samples }) => samples.length)
  for (const { file } of splits)
    if (!force && existsSync(file))
      throw new InputError(`${file}: is there already; choose another folder (--output), or replace it (--force).`)
  await mkdir(folder, { recursive: true })
  for (const { file, samples } of splits) await writeFileAtomic(file, manifestText(samples, folder))
  const rowsOfTable = splits.map(({ name, samples, file }) => [
    name,
    samples.length,
    new Set(samples.map(clipKey)).size,
    samples.filter((s) => s.choices === undefined).length,
    file,
  ])
  const table = [['split', 'samples', 'clips', 'without choices', 'file'], ...rowsOfTable]
  console.log(textTable(table, (column) => column > 0 && column < 4))
}
