import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { adapterConfigFromGolden } from '../../lib/parity/adapter-config.js'
import { checkAdapterConfig, parseAdapterConfig } from '../../lib/adapter/config.js'
import { countGroups, countTrained, trainedParameters } from '../../lib/adapter/parameters.js'
import { parseModelConfig, readModelConfig } from '../../lib/checkpoint/config.js'
import { readHeader } from '../../lib/files/safetensors.js'

const vicuna = parseModelConfig({
  model_type: 'instructblip',
  qformer_config: { vocab_size: 30523 },
  text_config: { model_type: 'llama' },
})
const counts = (config: object) => countGroups(trainedParameters(vicuna, parseAdapterConfig(config)))
const total = (config: object) => countTrained(trainedParameters(vicuna, parseAdapterConfig(config)))

test('full size, defaults: 2,499,126', () => {
  assert.equal(counts({}), [
    { group: 'lora', tensors: 120, parameters: 1_536_000 },
    { group: 'router', tensors: 72, parameters: 889_398 },
    { group: 'position', tensors: 2, parameters: 73_728 },
  ])
  assert.is(total({}), 2_499_126)
})

test('every switch changes what it should', () => {
  assert.is(total({ temporal: { residual: 'gated' } }), 2_499_126 + 12)
  assert.is(total({ dar: { mode: 'off' } }), 2_499_126 - 889_398)
  assert.is(total({ dar: { mode: 'score' } }), 2_499_126)
  assert.is(total({ dar: { choices: 1 } }), 2_499_126 - 889_398)
  assert.is(total({ fusion: false }), 2_499_126)
  const temporalLora = 12 * 2 * 2 * 16 * 768
  assert.is(total({ temporal: { attention: 'none' } }), 2_499_126 - temporalLora - 889_398 / 2)
  assert.is(total({ temporal: { attention: 'none', residual: 'gated' } }), total({ temporal: { attention: 'none' } }))
  assert.is(total({ temporal: { attention: 'joint' }, dar: { mode: 'off' } }), 2_499_126 - 889_398 - temporalLora)
  const fresh = 12 * (4 * (768 * 768 + 768) + 2 * 768)
  assert.is(total({ temporal: { weights: 'fresh' } }), 2_499_126 - temporalLora + fresh)
  assert.equal(counts({ temporal: { weights: 'fresh' } }).at(-1), {
    group: 'temporal',
    tensors: 120,
    parameters: fresh,
  })
  assert.is(total({ lora: { r: 1 } }), 2_499_126 - 1_536_000 + 96_000)
})

test('names are unique, decay spares biases, norms, positions and gates', () => {
  const parameters = trainedParameters(
    vicuna,
    parseAdapterConfig({ temporal: { weights: 'fresh', residual: 'gated' } }),
  )
  assert.is(new Set(parameters.map((p) => p.name)).size, parameters.length)
  for (const { name, decay } of parameters) assert.is(decay, !/position$|gate$|bias$|norm\.|\.b[12]$/.test(name), name)
})

test('shapes and starts', () => {
  const of = (name: string) =>
    trainedParameters(vicuna, parseAdapterConfig({ temporal: { residual: 'gated', gateInit: 0.25 } })).find(
      (p) => p.name === name,
    )!
  assert.equal(
    [of('layer.0.cross.v.lora_A').shape, of('layer.0.cross.v.lora_B').shape, of('layer.0.cross.q.lora_A').shape],
    [
      [16, 1408],
      [768, 16],
      [16, 768],
    ],
  )
  assert.equal(of('layer.0.cross.v.lora_A').init, { kind: 'normal', std: 1 / 16 })
  assert.equal(
    [of('layer.11.temporal.router.w2').shape, of('layer.11.temporal.router.b2').init],
    [[4, 64], { kind: 'first', value: 4 }],
  )
  assert.equal(of('layer.3.temporal.gate').init, { kind: 'fill', value: 0.25 })
  assert.is(of('layer.1.cross.q.lora_A'), undefined)
  assert.is(of('layer.2.spatial.router.w1'), undefined)
})

// ------------------------------------------------------------------------------------------------------------- goldens

const golden = fileURLToPath(new URL('../../../shared/golden/', import.meta.url))
if (!existsSync(golden)) console.error(`SKIPPED: the golden cases are not at ${golden}`)
const goldenTest = existsSync(golden) ? test : test.skip

goldenTest('names, shapes and counts of every golden case', async () => {
  const cases = readdirSync(join(golden, 'cases')).filter((name) => name.endsWith('.safetensors'))
  let seen = 0
  for (const file of cases) {
    const { metadata } = await readHeader(join(golden, 'cases', file))
    const about = JSON.parse(metadata.config ?? '{}') as {
      kind?: string
      base: string
      params: string
      T: number
      config: Record<string, unknown>
      trained?: string[]
      trained_parameters?: number
    }
    if (!about.trained) continue
    seen++
    const model = await readModelConfig(join(golden, about.base))
    const adapter = checkAdapterConfig(adapterConfigFromGolden(about.config, about.T), model)
    const parameters = trainedParameters(model, adapter)
    assert.equal(parameters.map((p) => p.name).sort(), [...about.trained].sort(), file)
    assert.is(countTrained(parameters), about.trained_parameters, file)
    const stored = (await readHeader(join(golden, 'cases', about.params))).entries
    const own = (await readHeader(join(golden, 'cases', file))).entries
    for (const { name, shape } of parameters) {
      const expected = own.get(`after.${name}`) ?? stored.get(name) ?? stored.get(`param.${name}`)
      assert.equal(shape, expected?.shape, `${file}: ${name}`)
    }
  }
  assert.ok(seen >= 10, `${seen} cases seen`)
})

test.run()
