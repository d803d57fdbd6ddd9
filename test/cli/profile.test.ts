// `train --profile FILE` as users run it: the trace, the table, and the same results as without it.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { cli } from '../support/cli.js'
import { configOf, jsonLines, makeWorld, type World } from '../support/world.js'

let world: World
test.before(async () => void (world = await makeWorld()))

const at = (...parts: string[]): string => join(world.root, ...parts)
function config(name: string, train: object): string {
  writeFileSync(at(`${name}.yaml`), stringify(configOf(world, name, { train, data: { val: undefined } })))
  return at(`${name}.yaml`)
}
const train = (name: string, options: object, ...more: string[]) =>
  cli('train', config(name, options), '--device', 'cpu', ...more)
/** What a log says of the training, without times and memory. */
const computed = (file: string, name: string): string =>
  JSON.stringify(
    jsonLines(at(name, file)).map(({ kind, epoch, step, loss, norm, tokens }) => [
      kind,
      epoch,
      step,
      loss,
      norm,
      tokens,
    ]),
  )
/** Everything that a run has computed, by file. */
const written = (name: string): Map<string, string> =>
  new Map(
    (readdirSync(at(name), { recursive: true }) as string[])
      .filter((f) => /\.(safetensors|jsonl)$/.test(f))
      .sort()
      .map((f) => [f, f.endsWith('.jsonl') ? computed(f, name) : readFileSync(at(name, f), 'base64')]),
  )
/** How often each operator is in a trace. */
function calls(path: string): Map<string, number> {
  const { traceEvents } = JSON.parse(readFileSync(path, 'utf8')) as {
    traceEvents: { ph: string; name: string; ts: number; dur: number; args: { read: number; written: number } }[]
  }
  const all = new Map<string, number>()
  for (const e of traceEvents.filter((e) => e.ph === 'X')) {
    assert.ok(e.ts >= 0 && e.dur >= 0 && e.args.read >= 0 && e.args.written > 0, JSON.stringify(e))
    all.set(e.name, (all.get(e.name) ?? 0) + 1)
  }
  return all
}
const UPDATE = 'adamw_all' // of all trained tensors, once a step

test('a short epoch is profiled whole; table and trace agree, and the run gives the same bits', async () => {
  const [plain, profiled] = await Promise.all([
    train('plain', { epochs: 2 }),
    train('profiled', { epochs: 2 }, '--profile', at('trace.json')),
  ])
  assert.is(plain.code, 0, plain.err)
  assert.is(profiled.code, 0, profiled.err)
  assert.equal(written('profiled'), written('plain'))
  const counted = calls(at('trace.json'))
  assert.is(counted.get(UPDATE), 3, 'the 3 steps of the first epoch of 2')
  const lines = profiled.out.split('\n')
  const head = lines.findIndex((l) => /^operator +calls +total ms +share +mean µs +GB +GB\/s$/.test(l))
  const sum = lines.findIndex((l) => l.startsWith('all '))
  assert.equal(
    new Map(
      lines
        .slice(head + 1, sum)
        .map((l) => l.split(/ +/))
        .map(([name, n]) => [name!, Number(n)]),
    ),
    counted,
  )
  assert.match(lines[sum + 1]!, /^operators ran for \d+\.\d{3} of \d+\.\d{3} seconds$/)
  assert.is(lines[sum + 2], `trace, for chrome://tracing or ui.perfetto.dev: ${at('trace.json')}`)
  assert.match(lines[sum + 3]!, /^epoch 1: loss /)
  assert.equal(
    readdirSync(world.root).filter((f) => f.endsWith('.tmp')),
    [],
    'nothing half-written is left',
  )
})

test('of a longer epoch, steps 3 to 12', async () => {
  const { code, err } = await train('long', { epochs: 1, batch: 1 }, '--profile', at('long.json'))
  assert.is(code, 0, err)
  assert.is(calls(at('long.json')).get(UPDATE), 10)
})

test('a file that cannot be written is refused before anything is', async () => {
  mkdirSync(at('folder'))
  const cases: [string, RegExp][] = [
    [
      at('missing', 'trace.json'),
      /^mtransllama: --profile: expected a file that can be written, but got ".*trace\.json"; the folder .*missing does not exist; make it first\.\n$/,
    ],
    [
      at('folder'),
      /^mtransllama: --profile: expected a file that can be written, but got ".*folder"; that is a folder; name a file in it\.\n$/,
    ],
  ]
  for (const [file, sentence] of cases) {
    const { code, out, err } = await train('refused', {}, '--profile', file)
    assert.equal([code, out], [1, ''])
    assert.match(err, sentence)
    assert.not.ok(existsSync(at('refused')))
  }
})

test.run()
