// From a table to manifests: what is written is what the rows say, every bad row is named by line and column, and a
// split keeps groups together.
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readTable, splitByGroup, type Table, type TableOptions, type TableRow } from '../../lib/data/import-csv.js'
import { readManifest } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import { register } from '../../lib/cli/import-csv.js'
import { cli, inProcess, type Ended } from '../support/cli.js'
import { temporaryFolder } from '../support/tiny.js'
import { jsonLines } from '../support/world.js'

const root = temporaryFolder('import')
const at = (...parts: string[]): string => join(root, ...parts)
for (const n of ['a', 'b', 'c', 'd']) writeFileSync(at(`${n}.mp4`), 'a clip')
mkdirSync(at('frames'))

const file = (name: string, text: string): string => {
  writeFileSync(at(name), text)
  return at(name)
}
const read = (text: string, options?: TableOptions): Promise<Table> => readTable(file('table.csv', text), options)
const sentences = ({ problems, broken }: Table): string[] =>
  [...problems.map((p) => p.error), ...broken].map((e) => e.message.replace(/^.*?table\.csv, /, ''))
async function refused(promise: Promise<unknown>, sentence: RegExp): Promise<void> {
  const error = await promise.catch((e: unknown) => e)
  assert.instance(error, InputError, String(error))
  assert.match((error as Error).message, sentence)
}

test('every column becomes its field; empty cells are left out', async () => {
  const { rows, problems, unused } = await read(
    'ID;Video;Start;end;dialogue;question;answer;choices;task;fps;split;Notes\r\n' +
      '1;a.mp4;2,5;0:01:08,25;"A: ""hi""\nB: no";is it?;yes;yes|no | maybe ;irony;;train;x\r\n' +
      '2;frames;;;;how many?;two;;;12.5;Validation;\r\n',
  )
  assert.equal(problems, [])
  assert.equal(unused, ['Notes'])
  assert.equal(rows, [
    {
      line: 2,
      sample: {
        id: '1',
        video: at('a.mp4'),
        start: 2.5,
        end: 68.25,
        qformerText: 'A: "hi"\nB: no',
        prompt: 'is it?',
        answer: 'yes',
        choices: ['yes', 'no', 'maybe'],
        task: 'irony',
      },
      group: 'a.mp4',
      split: 'train',
    },
    {
      line: 4,
      sample: { id: '2', video: at('frames'), fps: 12.5, prompt: 'how many?', answer: 'two' },
      group: 'frames',
      split: 'val',
    },
  ])
})

test('columns that are called otherwise, or are not there; a mistyped one is not left out in silence', async () => {
  const columns = new Map([
    ['question', 'Frage'],
    ['answer', 'Antwort'],
  ] as const)
  const { rows } = await read('id,video,Frage,Antwort\n1,a.mp4,was?,nichts\n', { columns })
  assert.equal([rows[0]!.sample.prompt, rows[0]!.sample.answer], ['was?', 'nichts'])
  await refused(
    read('id,video,Frage,answer\n'),
    /line 1: expected a column question, but got \["id","video","Frage","answer"\]; if it is called otherwise, --column "question=ITS NAME"/,
  )
  await refused(
    read('id,video,question,answer,dialog\n'),
    /line 1: there is no column named "dialog"; did you mean dialogue\? If so, --column "dialogue=dialog", else --column dialogue= says/,
  )
  const without = await read('id,video,question,answer,dialog\n1,a.mp4,q,x,lost\n', {
    columns: new Map([['dialogue', '']]),
  })
  assert.equal([without.unused, without.rows[0]!.sample.qformerText], [['dialog'], undefined])
  await refused(read('id,video,question,answer,ID\n'), /columns with different names, but got "ID"; it is there twice/)
  await refused(read('id,video,question,answer\n', { columns }), /expected a column named "Frage"/)
  await refused(
    read('id,video,question,answer\n', { group: 'show' }),
    /--group: expected a column of .*: id, video, question, answer, but got "show"/,
  )
})

const bad = [
  'id,video,start,end,question,answer,choices,split', // line 1
  '1,a.mp4,,,q,yes,yes|no,train',
  '1,b.mp4,,,q,yes,yes|no,train', // 3
  '2,gone.mp4,,,q,yes,,train',
  '3,a.mp4,soon,,q,yes,,train', // 5
  '4,a.mp4,1:75,,q,yes,,train',
  '5,a.mp4,4,2,q,yes,,train', // 7
  '6,a.mp4,,,q,perhaps,yes|no,train',
  '7,a.mp4,,,q,yes,yes|yes,train', // 9
  '8,a.mp4,,,,yes,,train',
  '9,a.mp4,,,"q\nr",,,train', // 11 and 12
  '10,a.mp4,,,q,yes,,tomorrow',
  '11,a.mp4,,,q,yes,yes|no,train,more', // 14
  '12,a.mp4,,,q,yes',
  '13,frames,,,q,yes,,train', // 16
  '14,a.mp4,-1,,q,yes,,train',
  '15,a.mp4,,,caf\uFFFD,yes,,train', // 18
  '16,b.mp4,,,q,yes,,train',
].join('\n')

test('every bad row is named by line and column', async () => {
  const table = await read(bad)
  assert.equal(
    table.rows.map((r) => r.sample.id),
    ['1', '16'],
  )
  const expected: [number, string, RegExp][] = [
    [3, 'id', /expected a unique id, but got "1"; line 2 has it already\.$/],
    [4, 'video', /expected a video file or a folder.*gone\.mp4.*; paths are relative to .*\.$/],
    [5, 'start', /expected seconds, or hours:minutes:seconds, but got "soon"\.$/],
    [6, 'start', /expected seconds, or hours:minutes:seconds, but got "1:75"\.$/],
    [7, 'end', /expected a time after start \(4 s\), but got 2\.$/],
    [8, 'answer', /expected one of the choices \["yes","no"\], but got "perhaps"\.$/],
    [9, 'choices', /expected choices that differ.*"yes" is there twice\.$/],
    [10, 'question', /expected this field, but got nothing; it is required\.$/],
    [11, 'answer', /expected this field, but got nothing; it is required\.$/],
    [13, 'split', /expected train, val or test, but got "tomorrow"\.$/],
    [
      14,
      '',
      /expected 8 cells, as the header has, but got 9; put a text that holds the delimiter in quotation marks\.$/,
    ],
    [15, '', /expected 8 cells, as the header has, but got 6; empty cells need their delimiters too\.$/],
    [16, 'fps', /expected the frames per second of the folder/],
    [17, 'start', /expected a number, at least 0, but got -1\.$/],
    [18, 'question', /expected whole characters, .*one was lost when the text was converted/],
  ]
  const said = sentences(table)
  assert.is(said.length, expected.length, said.join('\n'))
  for (const [i, [line, column, sentence]] of expected.entries()) {
    const where = `line ${line}${column && `, column ${column}`}: `
    assert.ok(said[i]!.startsWith(where), `${said[i]} begins with ${where}`)
    assert.match(said[i]!, sentence)
  }
})

test('a split by groups: the same for the same seed in any order of rows, no group on both sides', () => {
  const row = (i: number): TableRow => ({
    line: i,
    group: `show ${i % 20}`,
    sample: { id: `${i}`, video: 'v', prompt: 'p', answer: 'a' },
  })
  const rows = Array.from({ length: 200 }, (_, i) => row(i))
  const validation = (seed: number, all = rows): string[] =>
    splitByGroup(all, 0.15, seed)
      .flatMap((r) => (r.split === 'val' ? r.sample.id : []))
      .sort()
  const first = validation(1)
  assert.is(first.length, 30)
  assert.equal(validation(1), first)
  assert.equal(validation(1, [...rows].reverse()), first)
  assert.not.equal(validation(2), first)
  const split = splitByGroup(rows, 0.15, 1)
  assert.is(new Set(split.map((r) => `${r.group} ${r.split}`)).size, 20)
  const one = rows.map((r) => ({ ...r, group: 'one' }))
  for (const share of [0.1, 0.9])
    assert.throws(
      () => splitByGroup(one, share, 1),
      /--val: expected a share that leaves whole groups .*\(200 rows of 1 groups\)/,
    )
})

// ---------------------------------------------------------------------------------------------------------- the command

const good =
  'id,video,question,answer,choices\n' +
  ['a', 'b', 'c', 'd'].map((n) => `${n},${n}.mp4,what?,x,x|y\n${n}2,${n}.mp4,who?,z,\n`).join('')
const failed = ({ code, out, err }: Ended, sentence: RegExp): void => {
  assert.is(code, 1, out)
  assert.is(out, '')
  assert.match(err.trim().split('\n').at(-1)!, sentence)
}

test('import-csv writes manifests that are read again, relative to their folder', async () => {
  const { code, out, err } = await cli(
    'import-csv',
    file('good.csv', good),
    '--output',
    at('out', 'sets'),
    '--val',
    '0.25',
    '--seed',
    '3',
  )
  assert.is(code, 0, err)
  assert.match(
    out,
    /^split +samples +clips +without choices +file\ntrain +6 +3 +3  \S+train\.jsonl\nval +2 +1 +1  \S+val\.jsonl\n$/,
  )
  const lines = jsonLines(at('out', 'sets', 'train.jsonl'))
  assert.match(lines[0]!.video, /^\.\.\/\.\.\/[abcd]\.mp4$/)
  const [train, val] = await Promise.all(['train', 'val'].map((n) => readManifest(at('out', 'sets', `${n}.jsonl`))))
  assert.equal([...train!, ...val!].map((s) => s.id).sort(), ['a', 'a2', 'b', 'b2', 'c', 'c2', 'd', 'd2'])
  // What is there is not replaced, unless that is said; without a split there is one manifest.
  failed(
    await inProcess(register, 'import-csv', at('good.csv'), '--output', at('out', 'sets')),
    /train\.jsonl: is there already; .*--force/,
  )
  assert.is((await inProcess(register, 'import-csv', at('good.csv'), '--output', at('out', 'sets'), '--force')).code, 0)
  assert.is(jsonLines(at('out', 'sets', 'train.jsonl')).length, 8)
})

test('import-csv: one sentence for each bad row and one for the table; nothing is written, unless rows may be left out', async () => {
  const path = file('bad.csv', bad)
  const ended = await inProcess(register, 'import-csv', path, '--output', at('bad'))
  failed(
    ended,
    /bad\.csv: 15 of 17 rows cannot be used \(id 1, video 1, start 3, .*\); correct them, or allow --max-skipped 15\. Nothing was written\.$/,
  )
  assert.is(ended.err.match(/^problem: .*bad\.csv, line \d+.*\.$/gm)!.length, 15)
  assert.not.ok(existsSync(at('bad')))
  const allowed = await inProcess(register, 'import-csv', path, '--output', at('bad'), '--max-skipped', '15')
  assert.is(allowed.code, 0, allowed.err)
  assert.match(allowed.out, /train +2 [^]*\n15 rows were left out\n$/)
  assert.equal(readdirSync(at('bad')), ['train.jsonl'])
  assert.equal(
    jsonLines(at('bad', 'train.jsonl')).map((l) => l.id),
    ['1', '16'],
  )
  // A quotation mark that is never closed hides rows: those cannot be left out.
  failed(
    await inProcess(
      register,
      'import-csv',
      file('open.csv', `${good}e,"a.mp4,q,x,\nf,a.mp4,q,x,\n`),
      '--max-skipped',
      '9',
      '--output',
      at('open'),
    ),
    /open\.csv: 1 rows cannot be used \(quotation marks 1\), and wrong quotation marks may hide others; correct them\./,
  )
  assert.not.ok(existsSync(at('open')))
})

test('import-csv: options that cannot be used', async () => {
  const cases: [string[], RegExp][] = [
    [['--val', '1.5'], /--val: expected a number between 0 and 1, but got "1\.5"/],
    [['--seed', 'x'], /--seed: expected a whole number of at least 0, but got "x"/],
    [
      ['--column', 'colour=red'],
      /--column: expected NAME=HEADER with one of id, video, .* as NAME, but got "colour=red"/,
    ],
    [['--videos', at('nowhere')], /8 of 8 rows cannot be used \(video 8\)/],
  ]
  for (const [options, sentence] of cases)
    failed(await inProcess(register, 'import-csv', at('good.csv'), ...options), sentence)
  assert.is(readFileSync(at('good.csv'), 'utf8'), good)
})

test.run()
