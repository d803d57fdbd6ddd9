import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { InputError } from '../../lib/errors.js'
import { adapterConfigFromGolden } from '../../lib/parity/adapter-config.js'
import { checkAdapterConfig, masksPerLayer, parseAdapterConfig, visualTokens } from '../../lib/adapter/config.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'

const vicuna = parseModelConfig({ model_type: 'instructblip', text_config: { model_type: 'llama' } })
const opt = parseModelConfig({ model_type: 'blip-2' })
const small = parseModelConfig({
  model_type: 'instructblip',
  qformer_config: { max_position_embeddings: 64 },
  text_config: { model_type: 'llama', max_position_embeddings: 128 },
})

function refusal(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return assert.unreachable('was not refused') as never
}

test('the defaults', () => {
  assert.equal(parseAdapterConfig(), {
    frames: 4,
    text: {},
    fusion: true,
    lateText: 'prompt',
    modality: 'both',
    aggregate: 'mean',
    temporal: { attention: 'factorized', residual: 'reuse', gateInit: 0, weights: 'reuse', maxFrames: 64 },
    dar: {
      mode: 'attention',
      choices: 4,
      routerHidden: 64,
      globalBias: 4,
      spatialMasks: 'window',
      temporalMasks: 'window',
      spatialWindows: [16, 8, 4],
      temporalWindows: [2, 1, 0],
    },
    lora: { r: 16, alpha: 16 },
  })
  assert.is(checkAdapterConfig(parseAdapterConfig(), vicuna).text.maxTokens, 128)
})

for (const [name, value, expected] of [
  ['a slip', { fussion: true }, /there is no key named fussion; did you mean fusion\?/],
  [
    'a slip inside',
    { temporal: { maxFrame: 3 } },
    /no key named temporal\.maxFrame; did you mean temporal\.maxFrames\?/,
  ],
  ['the wrong level', { maxFrames: 3 }, /no key named maxFrames; did you mean temporal\.maxFrames\?/],
  [
    'the wrong case',
    { dar: { router_hidden: 3 } },
    /no key named dar\.router_hidden; did you mean dar\.routerHidden\?/,
  ],
  ['nothing near', { lora: { qqqqqqqqqqqq: 3 } }, /no key named lora\.qqqqqqqqqqqq; known keys here: r, alpha\./],
  ['rank 0', { lora: { r: 0 } }, /lora\.r: expected .*at least 1, but got 0/],
  ['a broken rank', { lora: { r: 2.5 } }, /lora\.r: expected .*whole number.*, but got 2\.5/],
  ['a word for a number', { frames: 'four' }, /frames: expected .*, but got "four"/],
  ['no frames', { frames: 0 }, /frames: expected .*at least 1, but got 0/],
  ['a word for a switch', { fusion: 'yes' }, /fusion: expected true or false, but got "yes"/],
  [
    'an unknown choice',
    { temporal: { attention: 'space' } },
    /temporal\.attention: expected "factorized" or "joint" or "none", but got "space"/,
  ],
  ['nine masks', { dar: { choices: 9 } }, /dar\.choices: expected .*at most 8, but got 9/],
  ['no masks', { dar: { choices: 0 } }, /dar\.choices: expected .*at least 1, but got 0/],
  [
    'too few windows',
    { dar: { spatialWindows: [4, 2] } },
    /dar\.spatialWindows: expected 3 windows, one less than dar\.choices \(4\), but got \[4,2\]/,
  ],
  ['windows that have to be given', { dar: { choices: 6 } }, /dar\.spatialWindows: expected 5 windows/],
  [
    'a negative window',
    { dar: { temporalWindows: [2, -1, 0] } },
    /dar\.temporalWindows\[1\]: expected .*at least 0, but got -1/,
  ],
  ['an infinite bias', { dar: { globalBias: Infinity } }, /dar\.globalBias/],
  ['a list', [], /adapter configuration: expected an object/],
  ['an empty section', { lora: null }, /lora: expected an object, but got null/],
] as const)
  test(`refused: ${name}`, () => {
    assert.match(
      refusal(() => parseAdapterConfig(value)),
      expected,
    )
  })

test('fewer choices use the first windows', () => {
  const { dar } = parseAdapterConfig({ dar: { choices: 2 } })
  assert.equal([dar.spatialWindows, dar.temporalWindows], [[16], [2]])
  assert.equal(parseAdapterConfig({ dar: { choices: 1 } }).dar.spatialWindows, [])
})

for (const [name, value, model, expected] of [
  [
    'too many frames',
    { frames: 65 },
    vicuna,
    /frames: expected at most temporal\.maxFrames \(64\), but got 65; raise temporal\.maxFrames/,
  ],
  [
    'fusion without a text path',
    {},
    opt,
    /fusion: the Q-Former of a blip-2 checkpoint has no text path.*set fusion: false.*or use an InstructBLIP checkpoint/,
  ],
  [
    'routing with joint',
    { temporal: { attention: 'joint' } },
    vicuna,
    /dar\.mode: expected "off" with temporal\.attention: joint, but got "attention"/,
  ],
  [
    'fresh weights without a temporal block',
    { temporal: { attention: 'none', weights: 'fresh' } },
    vicuna,
    /temporal\.weights/,
  ],
  ['modalities of frames', { dar: { temporalMasks: 'modality' } }, vicuna, /dar\.temporalMasks: expected window/],
  [
    'five modality masks',
    { dar: { choices: 5, spatialMasks: 'modality', temporalWindows: [3, 2, 1, 0] } },
    vicuna,
    /dar\.choices: expected at most 4 with dar\.spatialMasks: modality/,
  ],
  ['a rank beyond the matrices', { lora: { r: 769 } }, vicuna, /lora\.r: expected at most 768/],
  [
    'more text than positions',
    { text: { maxTokens: 65 } },
    small,
    /text\.maxTokens: expected at most 64, the positions of this Q-Former, but got 65/,
  ],
  [
    'more visual tokens than context',
    { aggregate: 'concat', frames: 4 },
    small,
    /fewer than 128 visual tokens.*but got 128; with aggregate: concat they are 4 frames x 32/,
  ],
] as const)
  test(`refused for this model: ${name}`, () => {
    assert.match(
      refusal(() => checkAdapterConfig(parseAdapterConfig(value), model)),
      expected,
    )
  })

test('accepted for these models', () => {
  assert.is(checkAdapterConfig(parseAdapterConfig(), small).text.maxTokens, 64)
  checkAdapterConfig(parseAdapterConfig({ fusion: false }), opt)
  checkAdapterConfig(parseAdapterConfig({ temporal: { attention: 'joint' }, dar: { mode: 'off' } }), vicuna)
  checkAdapterConfig(parseAdapterConfig({ frames: 64 }), vicuna)
  assert.is(visualTokens(parseAdapterConfig({ frames: 8, aggregate: 'concat' }), 32), 256)
  assert.is(visualTokens(parseAdapterConfig({ frames: 8 }), 32), 32)
})

test('choices grow with depth', () => {
  assert.equal(masksPerLayer(12, 4), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4])
  assert.equal(masksPerLayer(4, 4), [1, 2, 3, 4])
  assert.equal(masksPerLayer(3, 1), [1, 1, 1])
  assert.equal(masksPerLayer(2, 8), [1, 5])
})

test('the golden form', () => {
  const config = adapterConfigFromGolden(
    {
      aggregate: 'concat',
      t_max: 32,
      fusion: false,
      lora: { r: 4, alpha: 6 },
      temporal: { attention: 'none', residual: 'gated', gate_init: 0.5 },
      dar: {
        mode: 'score',
        choices: 4,
        router_hidden: 32,
        spatial_windows: [4, 8, 16],
        temporal_windows: [1, 2, 4],
        spatial_masks: 'modality',
      },
      train: { lr: 1 },
    },
    5,
  )
  assert.equal(
    config,
    parseAdapterConfig({
      frames: 5,
      aggregate: 'concat',
      fusion: false,
      lora: { r: 4, alpha: 6 },
      temporal: { attention: 'none', residual: 'gated', gateInit: 0.5, maxFrames: 32 },
      dar: {
        mode: 'score',
        choices: 4,
        routerHidden: 32,
        spatialWindows: [4, 8, 16],
        temporalWindows: [1, 2, 4],
        spatialMasks: 'modality',
      },
    }),
  )
  assert.match(
    refusal(() => adapterConfigFromGolden({ lorra: {} })),
    /golden configuration: there is no key named lorra; did you mean lora/,
  )
})

test.run()
