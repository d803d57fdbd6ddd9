import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseTrainConfig, readTrainConfig, trainConfigJsonSchema } from '../../lib/train/config.js'
import { InputError } from '../../lib/errors.js'

const least = { model: 'm', output: 'o', data: { train: 't.jsonl' } }
const message = (f: () => unknown): string => {
  try {
    f()
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return 'nothing was thrown'
}

test('defaults are those of docs/model.md, and paths are relative to the file', () => {
  const c = parseTrainConfig(least, '/base')
  assert.is(c.model, resolve('/base/m'))
  assert.is(c.data.cache, resolve('/base/o/features'))
  assert.equal(
    [c.train.batch, c.train.epochs, c.train.lr, c.train.betas, c.train.eps, c.train.weightDecay, c.train.schedule],
    [2, 25, 1e-4, [0.9, 0.95], 1e-8, 0.05, 'constant'],
  )
  assert.equal(
    [c.adapter.lora, c.adapter.dar.mode, c.adapter.dar.spatialWindows, c.adapter.temporal.residual],
    [{ r: 16, alpha: 16 }, 'attention', [16, 8, 4], 'reuse'],
  )
})

test('an unknown key suggests the nearest', () => {
  assert.match(
    message(() => parseTrainConfig({ ...least, train: { epoch: 3 } })),
    /no key named train\.epoch; did you mean train\.epochs\?/,
  )
  assert.match(
    message(() => parseTrainConfig({ ...least, temporal: { atention: 'none' } })),
    /temporal\.attention/,
  )
})

test('LoRA rank 0, a wrong type, a missing model and a rate without fps sampling are refused', () => {
  assert.match(
    message(() => parseTrainConfig({ ...least, lora: { r: 0 } })),
    /lora\.r: expected .*at least 1, but got 0/,
  )
  assert.match(
    message(() => parseTrainConfig({ ...least, train: { batch: 'two' } })),
    /train\.batch: expected .*number/,
  )
  assert.match(
    message(() => parseTrainConfig({ output: 'o', data: { train: 't' } })),
    /model/,
  )
  assert.match(
    message(() => parseTrainConfig({ ...least, data: { train: 't', fps: 2 } })),
    /data\.fps/,
  )
  assert.match(
    message(() => parseTrainConfig({ ...least, data: { train: 't', sampling: 'fps' } })),
    /data\.fps/,
  )
})

test('a file that is missing or not YAML is named', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'mt-config-'))
  try {
    const bad = join(dir, 'bad.yaml')
    await writeFile(bad, 'model: [unclosed\n')
    for (const [path, what] of [
      [join(dir, 'none.yaml'), /none\.yaml/],
      [bad, /bad\.yaml: not YAML/],
    ] as const) {
      const error = await readTrainConfig(path).then(
        () => undefined,
        (e: unknown) => e,
      )
      assert.instance(error, InputError)
      assert.match((error as Error).message, what)
    }
    const good = join(dir, 'good.yaml')
    await writeFile(good, 'model: m\noutput: out\ndata: { train: t.jsonl }\ndar: { spatialMasks: masks.safetensors }\n')
    const c = await readTrainConfig(good)
    assert.is(c.model, join(dir, 'm'))
    assert.is(c.adapter.dar.spatialMasks, join(dir, 'masks.safetensors'))
  } finally {
    await rm(dir, { recursive: true })
  }
})

test('docs/config.schema.json is what the code says (npm run schemas)', async () => {
  const written = JSON.parse(
    await readFile(new URL('../../docs/config.schema.json', import.meta.url), 'utf8'),
  ) as unknown
  assert.equal(written, JSON.parse(JSON.stringify(trainConfigJsonSchema())))
})

test.run()
