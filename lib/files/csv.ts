/**
 * CSV files as spreadsheets and programs write them: any delimiter, line ending and encoding, a byte order mark, quoted
 * fields over several lines. Each row knows the line on which it begins. A line break within a cell is one `\n`.
 */
import { readFile } from 'node:fs/promises'
import { parse, type CsvError } from 'csv-parse/sync'
import iconv from 'iconv-lite'
import { InputError, invalid } from '../errors.js'
import { decodeText, unreadable } from './text.js'

/** Cells are trimmed. */
export interface CsvRow {
  line: number
  cells: string[]
}

export interface Csv {
  header: CsvRow
  /** Rows with something in a cell, whatever number of cells. */
  rows: CsvRow[]
  /** Rows whose quotation marks are wrong; rows behind them may have been read as part of them. */
  problems: InputError[]
}

export interface CsvOptions {
  /** Default: what the byte order mark says, else UTF-8. */
  encoding?: string | undefined
  /** Default: of comma, semicolon, tab and bar the one that gives the header most columns. */
  delimiter?: string | undefined
}

const DELIMITERS = [',', ';', '\t', '|']

/** @throws InputError where the file cannot be read or decoded, or has no header */
export async function readCsv(path: string, { encoding, delimiter }: CsvOptions = {}): Promise<Csv> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw unreadable(path, error)
  })
  if (bytes.subarray(0, 4).toString('latin1') === 'PK\x03\x04')
    throw invalid(path, 'a CSV file', new Error('a workbook or another zip archive'), 'save it as CSV')
  let text = decode(bytes, path, encoding).replace(/\r\n?/g, '\n')
  // The first line by which a spreadsheet is told the delimiter
  const told = /^sep=(.)(?=\n)/.exec(text)
  if (told) text = text.slice(told[0].length)
  const chosen = delimiter ?? told?.[1] ?? delimiterOf(text)
  const data = Buffer.from(text)
  const lineAt = lines(data)
  const rows: CsvRow[] = []
  const problems = new Map<number, InputError>()
  parse(data, {
    delimiter: chosen,
    record_delimiter: '\n',
    relax_column_count: true,
    skip_records_with_error: true,
    raw: true,
    on_record(given, { bytes: end, raw }) {
      // With `raw` it is an object, which its types do not say.
      const { record } = given as unknown as { record: string[] }
      const row = { line: lineAt(end - Buffer.byteLength(raw!)), cells: record.map((cell) => cell.trim()) }
      if (row.cells.some((cell) => cell !== '')) rows.push(row)
      return null
    },
    on_skip(error) {
      // It counts from 1 where the row begins; a row may have several errors.
      const at = lineAt((error!['bytes'] as number) - 1)
      if (!problems.has(at)) problems.set(at, quotes(`${path}, line ${at}`, error!))
    },
  })
  const [header, ...rest] = rows
  if (!header)
    throw invalid(path, 'a CSV file with a header', new Error(bytes.length ? 'blank lines' : 'an empty file'))
  return { header, rows: rest, problems: [...problems.values()] }
}

function decode(bytes: Buffer, path: string, encoding = markOf(bytes)): string {
  if (encoding === undefined)
    return decodeText(bytes, path, 'save the file as UTF-8, or name its encoding with --encoding')
  if (!iconv.encodingExists(encoding))
    throw invalid('--encoding', 'an encoding, such as utf-8, utf-16le, windows-1252 or shift_jis', encoding)
  return iconv.decode(bytes, encoding)
}

/** UTF-16 by its byte order mark, as spreadsheets write "Unicode text". */
function markOf([a, b]: Buffer): string | undefined {
  if (a === 0xff && b === 0xfe) return 'utf-16le'
  return a === 0xfe && b === 0xff ? 'utf-16be' : undefined
}

function delimiterOf(text: string): string {
  const columns = (delimiter: string): number => {
    const head = { to: 1, skip_empty_lines: true, relax_quotes: true }
    return parse(text, { delimiter, record_delimiter: '\n', ...head })[0]?.length ?? 0
  }
  return DELIMITERS.reduce((best, one) => (columns(one) > columns(best) ? one : best))
}

/** The line of a byte, to be asked in order. */
function lines(data: Buffer): (offset: number) => number {
  let [line, at] = [1, 0]
  return (offset) => {
    for (; at < offset; at++) line += Number(data[at] === 10)
    return line
  }
}

/** What is wrong with quotation marks, as a sentence. */
function quotes(where: string, { code, message }: CsvError): InputError {
  if (code === 'CSV_QUOTE_NOT_CLOSED')
    return new InputError(`${where}: a quotation mark that opens a field in this row is never closed; close it.`)
  if (code === 'INVALID_OPENING_QUOTE' || code === 'CSV_INVALID_CLOSING_QUOTE')
    return new InputError(
      `${where}: a quotation mark stands within a field; put the whole field in quotation marks, and double those within it.`,
    )
  return new InputError(`${where}: not CSV: ${message}.`)
}
