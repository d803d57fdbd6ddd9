// Things that happen to a run from outside: its manifest changes, the clock jumps, no clip can be used, its folder was
// copied half. Each is one clear error, or makes no difference.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { InputError } from '../../lib/errors.js'
import { openModel, type Model } from '../../lib/session/model.js'
import { train } from '../../lib/train/loop.js'
import { refusal } from '../support/refusal.js'
import { jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

let world: World
let model: Model
test.before(async () => {
  world = await makeWorld()
  model = await openModel(world.model)
})
test.after(() => model.dispose())

const at = (...parts: string[]): string => join(world.root, ...parts)
/** All files below a folder with their bytes, but for logs. */
const filesIn = (folder: string, of = /./): Map<string, string> =>
  new Map(
    (readdirSync(folder, { recursive: true }) as string[])
      .filter((f) => statSync(join(folder, f)).isFile() && of.test(f) && !/metrics/.test(f))
      .sort()
      .map((f) => [f, readFileSync(join(folder, f)).toString('base64')]),
  )
const weightsIn = (folder: string): Map<string, string> => filesIn(folder, /\.safetensors$/)

const settings = { train: { saveEvery: 1, keepLast: 2, evalEvery: 2 } }

test('a manifest that changes during a run changes nothing before it is resumed, which says what is different', async () => {
  const whole = trainConfig(world, 'whole', settings)
  await train(whole, { model })
  const lines = jsonLines(world.train).map(
    (line): Record<string, any> => ({
      ...line,
      video: join(world.train, '..', line.video),
    }),
  )
  const path = at('changing.jsonl')
  const put = (some: object[], end = ''): void =>
    writeFileSync(path, some.map((line) => `${JSON.stringify(line)}\n`).join('') + end)
  put(lines)
  const config = trainConfig(world, 'changing', { ...settings, data: { train: path } })
  await train(config, {
    model,
    onStart: () => put(lines.slice(0, 3), '{"id": "cut'),
    onStep: ({ step }) => step === 2 && rmSync(path),
  })
  assert.equal(weightsIn(config.output), weightsIn(whole.output))
  assert.match(await refusal(train(config, { model, resume: true })), /changing\.jsonl: expected a readable manifest/)
  put(lines.slice(0, 3), '{"id": "cut')
  assert.match(await refusal(train(config, { model, resume: true })), /changing\.jsonl, line 4: expected a JSON object/)
  put(lines.map((line, i) => (i === 2 ? { ...line, prompt: 'another question ?' } : line)))
  assert.match(
    await refusal(train(config, { model, resume: true })),
    new RegExp(`the saved run had other training samples: "${lines[2]!.id}" says something else; restore the manifest`),
  )
})

test('a clock that jumps changes no bit, no order of the logs and no time of a step', async () => {
  const config = trainConfig(world, 'jumping', { ...settings, train: { ...settings.train, log: ['jsonl', 'csv'] } })
  const Real = Date
  let offset = 0
  class Jumping extends Real {
    constructor(...given: [] | [number]) {
      if (given.length) super(...given)
      else super(Jumping.now())
    }
    static override now(): number {
      return Real.now() + offset
    }
  }
  const year = 365 * 24 * 3600 * 1000
  globalThis.Date = Jumping as DateConstructor
  try {
    await train(config, { model, onStep: ({ step }) => void (offset = [0, year, -year, 5 * year][step % 4]!) })
  } finally {
    globalThis.Date = Real
  }
  assert.equal(weightsIn(config.output), weightsIn(at('whole')))
  const steps = jsonLines(join(config.output, 'metrics.jsonl')).filter(({ kind }) => kind === 'step')
  assert.equal(
    steps.map(({ step }) => step),
    Array.from({ length: 6 }, (_, i) => i + 1),
  )
  assert.ok(
    steps.some(({ time }, i) => i > 0 && time < steps[i - 1]!.time),
    'the clock did jump',
  )
  assert.ok(steps.every(({ seconds, waiting }) => seconds > 0 && seconds < 600 && waiting >= 0 && waiting <= 1))
})

test('where no clip can be used the run says so, whatever may be left out', async () => {
  const set = (name: string, spoil: (folder: string) => void): string => {
    mkdirSync(at(name))
    spoil(at(name))
    const lines = jsonLines(world.train).map((line) => ({ ...line, video: at(name), fps: 4, start: 0, end: 1 }))
    writeFileSync(at(`${name}.jsonl`), lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
    return at(`${name}.jsonl`)
  }
  // One that opening tells of, and one that only decoding does.
  const empty = set('no-images', () => {})
  const noise = set('noise', (folder) => {
    for (let i = 0; i < 4; i++) writeFileSync(join(folder, `${i}.png`), 'this is no picture')
  })
  for (const [name, data, expected] of [
    ['early', { train: empty }, /^data: no sample is left, since no clip can be used\.$/],
    ['late', { train: noise }, /^data: no sample is left, since no clip can be used\.$/],
    ['early-val', { val: empty }, /^data: no validation sample is left, since no clip can be used\.$/],
    [
      'late-val',
      { val: noise },
      /^data: no validation sample is left, since no clip can be used; what was learned in /,
    ],
  ] as const) {
    const config = trainConfig(world, `none-${name}`, { train: { maxSkipped: 99 }, data })
    const notices: string[] = []
    assert.match(
      await refusal(train(config, { model, onNotice: (sentence) => void notices.push(sentence) })),
      expected,
      name,
    )
    assert.is(notices.length, 12, 'each sample is named once')
  }
})

test('a run folder that was copied half is one clear error, or resumes to the bit', async () => {
  const config = trainConfig(world, 'source', settings)
  const stop = new AbortController()
  await train(config, { model, signal: stop.signal, onStep: ({ step }) => step === 5 && stop.abort() }).catch(() => {})
  const names = [...filesIn(join(config.output, 'last')).keys()].filter((name) => name !== 'README.md')
  assert.ok(names.length >= 5)
  let refused = 0
  for (const name of names)
    for (const harm of ['gone', 'half'] as const) {
      const copy = trainConfig(world, `copy-${harm}-${name}`, settings)
      cpSync(config.output, copy.output, { recursive: true })
      const path = join(copy.output, 'last', name)
      if (harm === 'gone') rmSync(path)
      else truncateSync(path, Math.floor(statSync(path).size / 2))
      const before = filesIn(copy.output)
      const outcome = await train(copy, { model, resume: true }).catch((error: Error) => error)
      if (outcome instanceof Error) {
        refused++
        assert.instance(outcome, InputError, `${name} ${harm}: ${outcome.stack}`)
        assert.match(outcome.message, /last/)
        assert.equal(filesIn(copy.output), before, `${name} ${harm}`)
        // The save before is there.
        const again = await train(copy, { model, resume: 'step-4' }).catch((error: Error) => error)
        if (again instanceof Error) {
          // What is no adapter any more may be somebody's, and is not replaced.
          assert.match(again.message, /last: expected a saved adapter, an empty folder or none, but got /)
          rmSync(join(copy.output, 'last'), { recursive: true })
          await train(copy, { model, resume: 'step-4' })
        }
      }
      assert.equal(weightsIn(join(copy.output, 'last')), weightsIn(at('whole', 'last')), `${name} ${harm}`)
      rmSync(copy.output, { recursive: true })
    }
  assert.ok(refused >= 6, `${refused} of ${2 * names.length} were refused`)
  // Without the last save the one before is named; without any there is nothing to resume.
  const copy = trainConfig(world, 'copy-none', settings)
  cpSync(config.output, copy.output, { recursive: true })
  rmSync(join(copy.output, 'last'), { recursive: true })
  assert.match(await refusal(train(copy, { model, resume: true })), /--resume step-4\.$/)
  rmSync(join(copy.output, 'step-4'), { recursive: true })
  assert.match(await refusal(train(copy, { model, resume: true })), /there is no training run to go on with/)
})

test.run()
