// The recipes of the package: each is a configuration that the model of full size takes, or an overlay over one; and
// settings laid over each other.
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { checkAdapterConfig } from '../../lib/adapter/config.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { InputError } from '../../lib/errors.js'
import { EXPERIMENTS, TINY_WORLD, VARIANTS } from '../../lib/reproduce/experiments.js'
import { configOf, overlaid, readRecipe, recipeNames, type Settings } from '../../lib/reproduce/recipes.js'
import type { TrainConfig } from '../../lib/train/config.js'

const vicuna = parseModelConfig({ model_type: 'instructblip', text_config: { model_type: 'llama' } })
const config = (settings: Settings, val?: string): TrainConfig =>
  configOf(settings, { model: 'm', output: 'o', train: 't', val, cache: 'c' }, 'recipe')
const [datasets, variants] = [await recipeNames('datasets'), await recipeNames('variants')]

test('there is a recipe for every experiment, and a variant of every name that is asked for', () => {
  assert.equal(datasets, [...EXPERIMENTS.map((e) => e.name), TINY_WORLD].sort())
  for (const name of ['full', ...Object.values(VARIANTS).flat()]) assert.ok(variants.includes(name), name)
  for (const name of ['reuse', 'attention', 'window', 'both']) assert.ok(variants.includes(name), name)
})

for (const dataset of datasets)
  test(`${dataset}: the dataset's settings, and with each variant over them, fit the model of full size`, async () => {
    const base = await readRecipe('datasets', dataset)
    assert.match(base.about, /\S/)
    for (const key of ['model', 'output', 'data']) assert.not.ok(key in base.settings)
    for (const name of variants) {
      const { settings, about } = await readRecipe('variants', name)
      assert.match(about, /\S/)
      for (const key of ['model', 'output', 'data', 'train']) assert.not.ok(key in settings, name)
      checkAdapterConfig(config(overlaid(base.settings, settings)).adapter, vicuna, name)
    }
  })

test("the published datasets have the paper's hyper-parameters", async () => {
  for (const name of datasets.filter((n) => n !== TINY_WORLD)) {
    const { adapter, train } = config((await readRecipe('datasets', name)).settings, 'v')
    const long = name.startsWith('mustard')
    assert.equal(
      [adapter.frames, train.batch, train.epochs, train.lr, train.betas, train.weightDecay, train.schedule],
      [long ? 8 : 4, long ? 4 : 2, long ? 90 : 25, 1e-4, [0.9, 0.95], 0.05, 'constant'],
      name,
    )
    assert.equal([adapter.lora.r, adapter.dar.mode, adapter.temporal.residual], [16, 'attention', 'reuse'])
  }
})

test('each variant changes what its name says', async () => {
  const base = (await readRecipe('datasets', 'ur-funny')).settings
  const of = async (name: string): Promise<TrainConfig['adapter']> =>
    config(overlaid(base, (await readRecipe('variants', name)).settings)).adapter
  const full = await of('full')
  for (const name of ['reuse', 'attention', 'window', 'both']) assert.equal(await of(name), full, name)
  assert.is((await of('without-fusion')).fusion, false)
  assert.is((await of('without-dar')).dar.mode, 'off')
  const space = await of('without-mqt')
  assert.equal([space.temporal.attention, space.aggregate], ['none', 'concat'])
  const joint = await of('joint')
  assert.equal([joint.temporal.attention, joint.dar.mode], ['joint', 'off'])
  assert.is((await of('score')).dar.mode, 'score')
  assert.is((await of('gated')).temporal.residual, 'gated')
  assert.is((await of('fresh')).temporal.weights, 'fresh')
  assert.is((await of('modality')).dar.spatialMasks, 'modality')
  assert.equal([(await of('video')).modality, (await of('text')).modality], ['video', 'text'])
})

test('settings laid over each other: objects key by key, all else as a whole; below stays as it was', () => {
  const below = { train: { batch: 2, lr: { lora: 1, gate: 2 } }, dar: { spatialWindows: [3, 2, 1] } }
  const copy = structuredClone(below)
  assert.equal(overlaid(below, { train: { lr: { gate: 3 } }, dar: { spatialWindows: [4] } }, { train: { lr: 5 } }), {
    train: { batch: 2, lr: 5 },
    dar: { spatialWindows: [4] },
  })
  assert.equal(overlaid(below, { train: { lr: { gate: 3 } } }), {
    ...below,
    train: { batch: 2, lr: { lora: 1, gate: 3 } },
  })
  assert.equal(below, copy)
})

test('without samples to validate, the best is chosen by the loss of training', async () => {
  const { settings } = await readRecipe('datasets', 'qaego4d')
  assert.is(config(settings, 'v').train.metric, 'valLoss')
  assert.is(config(settings).train.metric, 'loss')
})

test('what is wrong is named: a recipe that is not there, an unknown key', async () => {
  const message = async (act: () => unknown): Promise<string> => {
    try {
      await act()
    } catch (error) {
      assert.instance(error, InputError)
      return (error as Error).message
    }
    return assert.unreachable('nothing was thrown') as never
  }
  assert.is(
    await message(() => readRecipe('variants', 'without-mtq')),
    'recipes: there is no variant named "without-mtq"; did you mean without-mqt?',
  )
  assert.match(
    await message(() => config({ tempral: {} })),
    /^recipe: there is no key named tempral; did you mean temporal\?$/,
  )
})

test('recipes are part of the package', () => {
  const about = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { files: string[] }
  assert.ok(about.files.includes('recipes'))
  assert.ok(existsSync(new URL('../../recipes/datasets/mustard.yaml', import.meta.url)))
})

test.run()
