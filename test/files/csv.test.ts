// CSV as spreadsheets and programs write it: each cell is found again, and the line on which its row begins.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import iconv from 'iconv-lite'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { InputError } from '../../lib/errors.js'
import { type Csv, type CsvOptions, readCsv } from '../../lib/files/csv.js'
import { temporaryFolder } from '../support/tiny.js'

const path = join(temporaryFolder('csv'), 'table.csv')
function read(content: string | Uint8Array, options?: CsvOptions): Promise<Csv> {
  writeFileSync(path, content)
  return readCsv(path, options)
}
async function refused(content: string | Uint8Array, sentence: RegExp, options?: CsvOptions): Promise<void> {
  const error = await read(content, options).catch((e: unknown) => e)
  assert.instance(error, InputError, JSON.stringify(error))
  assert.match((error as Error).message, sentence)
}

/** A table with what CSV makes difficult; its rows begin on lines 1, 2, 3, 6 and 9. */
const cells = [
  ['id', 'dialogue', 'question'],
  ['1', 'plain', 'is it, or not?'],
  ['2', 'A: "well"\nB: one; two | three\nC: tab\there', 'žlutý 你好 ’'],
  ['3', '', 'two lines behind\n\nan empty one'],
  ['4', '5" screen', ''],
]
const lines = [1, 2, 3, 6, 9]
const table = (delimiter: string, newline: string): string =>
  cells
    .map((row) => `${row.map((c) => `"${c.replaceAll('"', '""')}"`).join(delimiter)}\n`)
    .join('')
    .replaceAll('\n', newline)

test('any delimiter, any line ending, with and without a byte order mark', async () => {
  for (const delimiter of [',', ';', '\t', '|'])
    for (const newline of ['\n', '\r\n', '\r'])
      for (const mark of ['', '\uFEFF']) {
        const name = JSON.stringify([delimiter, newline, mark])
        const { header, rows, problems } = await read(mark + table(delimiter, newline))
        assert.equal(
          [header, ...rows].map((r) => r.cells),
          cells,
          name,
        )
        assert.equal(
          [header, ...rows].map((r) => r.line),
          lines,
          name,
        )
        assert.equal(problems, [])
      }
  const told = await read(`sep=^\r\na^b,c;d\r\n1^2\r\n`)
  assert.equal(
    [told.header, ...told.rows],
    [
      { line: 2, cells: ['a', 'b,c;d'] },
      { line: 3, cells: ['1', '2'] },
    ],
  )
  assert.equal((await read('a,b;c\n1,2;3', { delimiter: ';' })).rows, [{ line: 2, cells: ['1,2', '3'] }])
})

test('encodings: by the byte order mark, or by name; nothing is replaced in silence', async () => {
  for (const encoding of ['utf-16le', 'utf-16be'])
    assert.equal((await read(iconv.encode(table(';', '\r\n'), encoding, { addBOM: true }))).rows[1]!.cells, cells[2])
  for (const [encoding, text] of [
    ['windows-1252', 'Žena’s café – 5 €'],
    ['iso-8859-2', 'žlutý kůň'],
    ['shift_jis', '日本語のテスト'],
    ['gb18030', '你好，世界'],
    ['utf-16le', 'without a mark'],
  ] as const)
    assert.is(
      (await read(iconv.encode(`a,b\n1,"${text}"\n`, encoding), { encoding })).rows[0]!.cells[1],
      text,
      encoding,
    )
  await refused(
    iconv.encode('a,b\n1,x\n2,café\n', 'windows-1252'),
    /table\.csv, line 3: expected UTF-8 text, but got the byte 0xe9 .*name its encoding with --encoding/,
  )
  await refused('a\n1', /--encoding: expected an encoding, such as .*, but got "klingon"/, { encoding: 'klingon' })
})

test('blank rows are nothing, cells are trimmed, and rows of any length are given as they are', async () => {
  const { header, rows } = await read('\n , \n a , b \n\n1\n,,\n2 , 3 , 4\n')
  assert.equal(header, { line: 3, cells: ['a', 'b'] })
  assert.equal(rows, [
    { line: 5, cells: ['1'] },
    { line: 7, cells: ['2', '3', '4'] },
  ])
})

test('wrong quotation marks name their line, and rows behind them are read on where that is possible', async () => {
  const { rows, problems } = await read('a,b\n1,"two\nlines"\n2,x"y\n3,4\n5,"p "q" r"\n6,7\n8,"open\n9,10\n')
  assert.equal(
    rows.map((r) => [r.line, r.cells[0]]),
    [
      [2, '1'],
      [5, '3'],
      [7, '6'],
    ],
  )
  assert.equal(
    problems.map((p) => p.message.replace(/^.*table\.csv, /, '')),
    [
      'line 4: a quotation mark stands within a field; put the whole field in quotation marks, and double those within it.',
      'line 6: a quotation mark stands within a field; put the whole field in quotation marks, and double those within it.',
      'line 8: a quotation mark that opens a field in this row is never closed; close it.',
    ],
  )
})

test('what is no table', async () => {
  await refused('', /table\.csv: expected a CSV file with a header, but got an empty file/)
  await refused('\n,,\n\n', /but got blank lines/)
  await refused('PK\x03\x04\x14\x00', /but got a workbook or another zip archive; save it as CSV/)
  await refused('a,b\n1,\0\n', /line 2: .*zero byte/)
  const gone = await readCsv(`${path}.gone`).catch((e: unknown) => e)
  assert.match((gone as Error).message, /table\.csv\.gone: no such file/)
})

test.run()
