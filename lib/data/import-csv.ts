/**
 * From a table (CSV) with a row for each question to manifests: columns become fields, every row is checked as a line
 * of a manifest is, and rows are split into training and validation.
 */
import { createHash } from 'node:crypto'
import { dirname, relative, resolve, sep } from 'node:path'
import { InputError, invalid, nearest, show } from '../errors.js'
import { readCsv, type Csv, type CsvOptions, type CsvRow } from '../files/csv.js'
import { checkSample, checkVideo, videoKinds, type Place, type Sample } from './manifest.js'

/** The columns of a table: the manifest's field that each gives, and whether it has to be there. */
export const COLUMNS = {
  id: { field: 'id', required: true },
  video: { field: 'video', required: true },
  start: { field: 'start', required: false },
  end: { field: 'end', required: false },
  dialogue: { field: 'qformerText', required: false },
  question: { field: 'prompt', required: true },
  answer: { field: 'answer', required: true },
  choices: { field: 'choices', required: false },
  task: { field: 'task', required: false },
  fps: { field: 'fps', required: false },
  split: { field: undefined, required: false },
} as const satisfies Record<string, { field: keyof Sample | undefined; required: boolean }>

export type Column = keyof typeof COLUMNS
const NAMES = Object.keys(COLUMNS) as Column[]
/** The columns that have to be there. */
const REQUIRED = NAMES.filter((name) => COLUMNS[name].required)

/** Which manifest a row goes to. */
export type Split = 'train' | 'val' | 'test'
const SPLITS: Record<string, Split> = {
  train: 'train',
  training: 'train',
  val: 'val',
  valid: 'val',
  validation: 'val',
  dev: 'val',
  test: 'test',
  testing: 'test',
}

/** How a table is to be read. */
export interface TableOptions extends CsvOptions {
  /** The name in the file of a column that is called otherwise there; empty where the table does not have it. */
  columns?: ReadonlyMap<Column, string> | undefined
  /** Folder that videos are relative to. Default: that of the table. */
  videos?: string | undefined
  /** What stands between two choices; default `|`. */
  separator?: string | undefined
  /** The column of {@link TableRow.group}; default: `video`. */
  group?: string | undefined
}

/** A row that can be used. */
export interface TableRow {
  line: number
  /** `video` is absolute. */
  sample: Sample
  /** From the column `split`. */
  split?: Split
  /** Rows of one group are never split. */
  group: string
}

/** A row that cannot be used. */
export interface RowProblem {
  line: number
  /** The column that is wrong, by its name in the file; none where the row as a whole is. */
  column?: string | undefined
  error: InputError
}

/** What was read of a table. */
export interface Table {
  rows: TableRow[]
  problems: RowProblem[]
  /** Rows whose quotation marks are wrong: rows behind them may be lost, so that they cannot be left out. */
  broken: InputError[]
  /** Columns that nothing is read from. */
  unused: string[]
}

/**
 * Reads a table. What is wrong with a row is in `problems`, one for each row, and names file, line and column.
 *
 * @throws InputError where the file cannot be read, or its columns are not those of a table
 */
export async function readTable(path: string, options: TableOptions = {}): Promise<Table> {
  const { videos = dirname(path), separator = '|' } = options
  const csv = await readCsv(path, options)
  const at = columnsOf(path, csv, options.columns)
  const groupAt = options.group === undefined ? at.get('video')! : findGroup(path, csv, at, options.group)
  const { cells: header } = csv.header
  const table: Table = { rows: [], problems: [], broken: csv.problems, unused: [] }
  const used = new Set([...at.values(), groupAt])
  table.unused = header.filter((name, i) => name !== '' && !used.has(i))

  const lineOf = new Map<string, number>()
  /** Does something for a row; where that is not possible, the row has a problem. */
  const attempt = (row: CsvRow, act: (place: Place) => void): boolean => {
    let column: string | undefined
    try {
      act((key) => {
        column = key === undefined ? undefined : nameOf(key, header, at)
        return `${path}, line ${row.line}${column === undefined ? '' : `, column ${column}`}`
      })
      return true
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      table.problems.push({ line: row.line, column, error })
      return false
    }
  }
  const parsed: { row: CsvRow; found: TableRow }[] = []
  for (const row of csv.rows)
    attempt(row, (place) => {
      const { split, ...value } = fields(row, header, at, separator, place)
      const sample = checkSample(value, place)
      const before = lineOf.get(sample.id)
      if (before !== undefined) throw invalid(place('id'), 'a unique id', sample.id, `line ${before} has it already`)
      lineOf.set(sample.id, row.line)
      const group = row.cells[groupAt]!
      if (group === '') throw invalid(place(header[groupAt]), 'a group', group)
      const whole = { ...sample, video: resolve(videos, sample.video) }
      parsed.push({ row, found: { line: row.line, sample: whole, group, ...(split && { split }) } })
    })
  const kinds = await videoKinds(parsed.map(({ found }) => found.sample.video))
  for (const { row, found } of parsed) {
    const check = (place: Place): void =>
      checkVideo(found.sample, kinds.get(found.sample.video)!, place, `paths are relative to ${resolve(videos)}`)
    if (attempt(row, check)) table.rows.push(found)
  }
  table.problems.sort((a, b) => a.line - b.line)
  return table
}

// ------------------------------------------------------------------------------------------------------------- columns

/** Where each column stands. */
function columnsOf(path: string, { header }: Csv, named: ReadonlyMap<Column, string> = new Map()): Map<Column, number> {
  const where = `${path}, line ${header.line}`
  const lower = header.cells.map((name) => name.toLowerCase())
  const twice = header.cells.find((name, i) => name !== '' && lower.indexOf(name.toLowerCase()) !== i)
  if (twice !== undefined) throw invalid(where, 'columns with different names', twice, 'it is there twice')
  const at = new Map<Column, number>()
  for (const name of NAMES) {
    const wanted = named.get(name) ?? name
    const i = wanted === '' ? -1 : lower.indexOf(wanted.toLowerCase())
    if (i >= 0) at.set(name, i)
    else if (named.get(name)) throw invalid(where, `a column named ${show(wanted)}`, header.cells)
  }
  // A mistyped name would else be a column that is silently left out.
  const taken = new Set(at.values())
  for (const [i, name] of header.cells.entries()) {
    const meant = nearest(
      name,
      NAMES.filter((n) => !at.has(n) && named.get(n) !== ''),
    )
    if (meant && name.length > 3 && !taken.has(i))
      throw new InputError(
        `${where}: there is no column named ${show(name)}; did you mean ${meant}? ` +
          `If so, --column "${meant}=${name}", else --column ${meant}= says that there is none.`,
      )
  }
  for (const name of REQUIRED)
    if (!at.has(name))
      throw invalid(where, `a column ${name}`, header.cells, `if it is called otherwise, --column "${name}=ITS NAME"`)
  return at
}

function findGroup(path: string, { header }: Csv, at: ReadonlyMap<Column, number>, group: string): number {
  const i = header.cells.findIndex((name) => name.toLowerCase() === group.toLowerCase())
  const found = i >= 0 ? i : at.get(group as Column)
  if (found === undefined) throw invalid('--group', `a column of ${path}: ${header.cells.join(', ')}`, group)
  return found
}

/** The name in the file of what a manifest's key, or a column, is read from. */
function nameOf(key: string, header: readonly string[], at: ReadonlyMap<Column, number>): string {
  const field = key.split('.')[0]!
  const column = NAMES.find((name) => COLUMNS[name].field === field) ?? (field as Column)
  return header[at.get(column) ?? -1] ?? column
}

/** A row as a line of a manifest, and its split; empty cells are left out. */
function fields(
  row: CsvRow,
  header: readonly string[],
  at: ReadonlyMap<Column, number>,
  separator: string,
  place: Place,
): Record<string, unknown> & { split?: Split } {
  const cells = row.cells.filter((cell, i) => i < header.length || cell !== '')
  if (cells.length !== header.length)
    throw invalid(
      place(),
      `${header.length} cells, as the header has`,
      cells.length,
      cells.length > header.length
        ? 'put a text that holds the delimiter in quotation marks'
        : 'empty cells need their delimiters too',
    )
  const found: Record<string, unknown> & { split?: Split } = {}
  for (const [name, i] of at) {
    const { field } = COLUMNS[name]
    const text = cells[i]!
    if (field === undefined) {
      const split = SPLITS[text.toLowerCase()]
      if (split === undefined) throw invalid(place(name), 'train, val or test', text)
      found.split = split
    } else if (text === '') continue
    else if (field === 'start' || field === 'end') found[field] = secondsOf(text, place(field))
    else if (field === 'fps') found[field] = numberOf(text) ?? text
    else if (field === 'choices') found[field] = text.split(separator).map((choice) => choice.trim())
    else found[field] = text
  }
  return found
}

/** A number with a point, or with the comma that some spreadsheets write. */
const numberOf = (text: string): number | undefined =>
  /^[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text.replace(',', '.')) : undefined

/** Seconds of `83.5`, `1:23.5` or `00:01:23,500`. */
function secondsOf(text: string, where: string): number {
  const [last = '', minutes = '0', hours = '0', ...more] = text.split(':').reverse()
  const seconds = numberOf(last)
  const whole = /^\d+$/.test(minutes) && /^\d+$/.test(hours) && more.length === 0
  const carried = text.includes(':') && (seconds! >= 60 || (hours !== '0' && Number(minutes) >= 60))
  if (seconds === undefined || !whole || carried) throw invalid(where, 'seconds, or hours:minutes:seconds', text)
  return Number(hours) * 3600 + Number(minutes) * 60 + seconds
}

// -------------------------------------------------------------------------------------------------------------- splits

/**
 * Gives rows without a split one: about `share` of all for validation, whole groups at a time. The choice depends on
 * the groups and the seed alone, not on the order of rows.
 *
 * @throws InputError where no such choice leaves something on both sides
 */
export function splitByGroup(rows: readonly TableRow[], share: number, seed: number): TableRow[] {
  const sizes = new Map<string, number>()
  for (const { group } of rows) sizes.set(group, (sizes.get(group) ?? 0) + 1)
  const key = (group: string): string => createHash('sha256').update(`${seed}\n${group}`).digest('hex')
  const order = [...sizes.keys()].map((group) => [key(group), group] as const).sort(([a], [b]) => (a < b ? -1 : 1))
  const wanted = share * rows.length
  const chosen = new Set<string>()
  let count = 0
  for (const [, group] of order) {
    const size = sizes.get(group)!
    if (Math.abs(count + size - wanted) >= Math.abs(count - wanted)) continue
    chosen.add(group)
    count += size
  }
  if (count === 0 || count === rows.length)
    throw invalid(
      '--val',
      `a share that leaves whole groups for training and for validation (${rows.length} rows of ${sizes.size} groups)`,
      share,
      'give another share, or other groups with --group',
    )
  return rows.map((row) => ({ ...row, split: chosen.has(row.group) ? 'val' : 'train' }))
}

/** The lines of a manifest in `folder`: videos are relative to it. */
export function manifestText(samples: readonly Sample[], folder: string): string {
  const line = (sample: Sample): string => {
    const path = relative(folder, sample.video).split(sep).join('/')
    return `${JSON.stringify({ ...sample, video: path })}\n`
  }
  return samples.map(line).join('')
}
