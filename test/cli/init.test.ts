// The configuration that `init` writes is one that `train` reads; its keys, comments and values are the schema's.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { parse } from 'yaml'
import { register } from '../../lib/cli/init.js'
import { parseTrainConfig, readTrainConfig, trainConfigJsonSchema } from '../../lib/train/config.js'
import { validate } from '../../lib/train/validate.js'
import type { JsonSchema } from '../../lib/report/json-schema.js'
import { cli, inProcess, type Ended } from '../support/cli.js'
import { jsonLines, makeWorld, type World, writeCheckpoint } from '../support/world.js'

let world: World
test.before(async () => void (world = await makeWorld()))
const at = (name: string): string => join(world.root, name)
const init = (name: string, ...args: string[]): Promise<Ended> =>
  inProcess(register, 'init', at(name), '--model', world.model, '--train', world.train, ...args)

test('what it writes is read, holds every default, and would train', async () => {
  const { code, out, err } = await cli(
    'init',
    at('full.yaml'),
    '--model',
    world.model,
    '--train',
    world.train,
    '--val',
    world.val,
  )
  assert.is(code, 0, err)
  assert.match(out, /full\.yaml is written\n$/)
  const config = await readTrainConfig(at('full.yaml'))
  const expected = parseTrainConfig(
    {
      model: 'model',
      output: '../run',
      data: { train: 'clips/train/manifest.jsonl', val: 'clips/val/manifest.jsonl' },
    },
    world.root,
  )
  assert.equal(
    { ...config, output: '', data: { ...config.data, cache: '' } },
    {
      ...expected,
      output: '',
      data: { ...expected.data, cache: '' },
      adapter: { ...expected.adapter, text: { maxTokens: config.adapter.text.maxTokens } },
    },
  )
  const { problems, steps } = await validate(config)
  assert.equal([problems, steps], [[], 6])
})

test('every key of the schema is there with its description; nothing else is', async () => {
  assert.is((await init('keys.yaml')).code, 0)
  const text = readFileSync(at('keys.yaml'), 'utf8')
  const words = text.replace(/\n *# /g, ' ')
  let keys = 0
  const inspect = (schema: JsonSchema, written: Record<string, unknown>): void => {
    assert.equal(
      Object.keys(written).filter((key) => !(key in schema.properties!)),
      [],
    )
    for (const [key, inner] of Object.entries(schema.properties!)) {
      keys++
      if (inner.properties) inspect(inner, written[key] as Record<string, unknown>)
      else {
        assert.ok(words.includes(inner.description!.replaceAll('`', '')), key)
        assert.match(text, new RegExp(`^ *(# )?${key}:`, 'm'))
        if (inner.default !== undefined) assert.equal(written[key], inner.default, key)
      }
    }
  }
  inspect(trainConfigJsonSchema() as JsonSchema, parse(text))
  assert.ok(keys > 40, `${keys} keys`)
  assert.ok(text.split('\n').every((line) => line.length <= 110))
})

test('what the model and the data ask for', async () => {
  const blip2 = await writeCheckpoint(at('blip2'), 'blip2')
  const open = jsonLines(world.val).map(({ choices: _, ...line }) => ({
    ...line,
    video: join(world.val, '..', line.video),
  }))
  writeFileSync(at('open.jsonl'), open.map((line) => `${JSON.stringify(line)}\n`).join(''))
  const { out } = await inProcess(
    register,
    ...['init', at('blip2.yaml'), '--model', blip2, '--train', world.train, '--val', at('open.jsonl')],
  )
  assert.match(out, /\nfusion: false, since the Q-Former of this blip-2 checkpoint reads no text\n/)
  assert.match(out, /\ntrain\.metric: valLoss, since most validation samples have no choices\n$/)
  const { adapter, train } = await readTrainConfig(at('blip2.yaml'))
  assert.equal([adapter.fusion, train.metric], [false, 'valLoss'])
})

test('recipes: the settings of a dataset, a variant on top; a strange name is refused', async () => {
  const written = await init('recipe.yaml', '--recipe', 'mustard', 'without-mqt')
  assert.is(written.code, 0, written.err)
  const { adapter, train } = await readTrainConfig(at('recipe.yaml'))
  assert.equal(
    [adapter.frames, train.batch, train.epochs, adapter.temporal.attention, adapter.aggregate],
    [8, 4, 90, 'none', 'concat'],
  )
  // Without samples to validate it cannot be chosen by their loss.
  assert.is((await init('open.yaml', '--recipe', 'qaego4d')).code, 0)
  assert.is((await readTrainConfig(at('open.yaml'))).train.metric, 'loss')
  const strange = await init('none.yaml', '--recipe', 'without-mtq')
  assert.is(strange.err, 'mtransllama: recipes: there is no variant named "without-mtq"; did you mean without-mqt?\n')
})

test('a file that is there is never replaced unless that is said; nothing is written where something is wrong', async () => {
  writeFileSync(at('mine.yaml'), 'mine')
  const refused = await init('mine.yaml')
  assert.is(refused.code, 1)
  assert.match(refused.err, /mine\.yaml: is there already; choose another name, or replace it \(--force\)\.\n$/)
  assert.is(readFileSync(at('mine.yaml'), 'utf8'), 'mine')
  const gone = await init('mine.yaml', '--force', '--val', at('gone.jsonl'))
  assert.match(gone.err, /gone\.jsonl: expected a readable manifest/)
  assert.is(readFileSync(at('mine.yaml'), 'utf8'), 'mine')
  assert.is((await init('mine.yaml', '--force')).code, 0)
  await readTrainConfig(at('mine.yaml'))
})

test.run()
