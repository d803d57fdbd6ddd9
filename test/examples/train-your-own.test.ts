// docs/train-your-own.md from top to bottom: its commands, run one after another on clips that are rendered here, with
// the tiny world's model as `checkpoint`. Needs node-av and sharp.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { renderClips } from '../../examples/tiny-world/render.js'
import { COLUMNS, readTable } from '../../lib/data/import-csv.js'
import { temporaryFolder } from '../support/tiny.js'
import { jsonLines, missing } from '../support/world.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const page = readFileSync(join(root, 'docs', 'train-your-own.md'), 'utf8')
const block = (language: string): string => new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\``, 'm').exec(page)![1]!
const folder = temporaryFolder('own')
const why = (await missing('node-av/lib')) ?? (await missing('sharp'))

/** A row of the table; every cell in quotation marks. */
const row = (cells: readonly string[]): string => `${cells.map((c) => `"${c.replaceAll('"', '""')}"`).join(',')}\n`

/** A folder of clips, a table with the columns that the page shows, and a model. */
async function prepare(): Promise<void> {
  const manifest = await renderClips({ dir: join(folder, 'rendered'), seed: 2, split: 'own', clips: 8 })
  cpSync(dirname(manifest), join(folder, 'clips'), { recursive: true })
  const [header] = block('csv').split('\n')
  const rows = jsonLines(manifest).map((line, i) => {
    const cells: Record<string, string> = {
      id: `${i}`,
      video: basename(line['video']),
      dialogue: line['qformerText'],
      question: line['prompt'],
      answer: line['answer'],
      choices: line['choices'].join('|'),
    }
    return row(header!.split(',').map((name) => cells[name] ?? ''))
  })
  writeFileSync(join(folder, 'clips.csv'), `${header}\n${rows.join('')}`)
  symlinkSync(join(root, 'examples', 'tiny-world', 'checkpoint'), join(folder, 'checkpoint'), 'junction')
}

/** The words of a command line, without its comment. */
const words = (line: string): string[] =>
  [...line.replace(/\s#.*$/, '').matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare!)

test('the commands of the page, from a folder of clips and a table to an answer', async () => {
  if (why) return console.error(`test/examples/train-your-own: skipped: ${why}`)
  await prepare()
  const lines = block('sh').trim().split('\n')
  assert.is(lines.length, 10)
  const said = new Map<string, string>()
  for (const line of lines) {
    const [npx, name, command, ...args] = words(line)
    assert.equal([npx, name], ['npx', 'mtransllama'], line)
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [join(root, 'bin', 'mtransllama.mjs'), command!, ...args],
      { cwd: folder, encoding: 'utf8' },
    )
    assert.is(status, 0, `${line}\n${stdout}${stderr}`)
    said.set(command!, stdout)
  }
  const at = (...parts: string[]): string => join(folder, ...parts)
  const [train, val] = [jsonLines(at('train.jsonl')), jsonLines(at('val.jsonl'))]
  assert.is(train.length + val.length, readFileSync(at('clips.csv'), 'utf8').trim().split('\n').length - 1)
  assert.match(said.get('doctor')!, /\nTraining would work here, on (cpu|cuda:0)\.\n$/)
  assert.match(said.get('validate')!, /\ntraining would start\n$/)
  assert.match(said.get('check-data')!, /: 8 can be used$/m)
  const losses = jsonLines(at('run', 'metrics.jsonl')).flatMap((l) => (l['kind'] === 'epoch' ? [l['loss']] : []))
  assert.ok(losses.at(-1)! < losses[0]!, `it learns: ${losses}`)
  for (const name of ['best', 'last']) assert.ok(existsSync(at('run', name, 'adapter_config.json')), name)
  assert.match(readFileSync(at('run', 'report.html'), 'utf8'), /^<!doctype html>/i)
  assert.match(said.get('ask')!, /^\w+( \w+)*\n$/)
})

test("the page's table is one, and every column is described", async () => {
  const table = join(folder, 'page.csv')
  writeFileSync(table, block('csv'))
  writeFileSync(join(folder, '000000.mp4'), '')
  const { rows, problems } = await readTable(table)
  assert.equal([rows.length, problems], [2, []])
  const described = [...page.matchAll(/^\| (`[a-z`, ]+`) \|/gm)].flatMap(([, names]) => names!.match(/\w+/g)!)
  assert.equal(described, Object.keys(COLUMNS))
})

test.run()
