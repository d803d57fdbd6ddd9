import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InputError } from '../../lib/errors.js'
import { parseModelConfig, readGenerationConfig, readModelConfig } from '../../lib/checkpoint/config.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-config-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))

function refusal(json: unknown): string {
  try {
    parseModelConfig(json)
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return assert.unreachable('was not refused') as never
}

const llama = { model_type: 'llama' }
const instructblip = { model_type: 'instructblip', text_config: llama }

test('an almost empty InstructBLIP config is the full-size model', () => {
  assert.equal(parseModelConfig(instructblip), {
    family: 'instructblip',
    numQueryTokens: 32,
    vision: {
      hiddenSize: 1408,
      layers: 39,
      heads: 16,
      mlpSize: 6144,
      patchSize: 14,
      imageSize: 224,
      eps: 1e-6,
      qkvBias: true,
      channels: 3,
      tokens: 257,
    },
    qformer: {
      hiddenSize: 768,
      layers: 12,
      heads: 12,
      mlpSize: 3072,
      eps: 1e-12,
      maxPositions: 512,
      crossFrequency: 2,
      encoderHiddenSize: 1408,
      vocabSize: 30522,
      hasText: true,
    },
    language: {
      kind: 'llama',
      hiddenSize: 4096,
      mlpSize: 11008,
      layers: 32,
      heads: 32,
      kvHeads: 32,
      eps: 1e-6,
      ropeTheta: 10000,
      maxPositions: 2048,
      vocabSize: 32000,
      tied: false,
      padId: null,
      bosId: 1,
      eosId: 2,
    },
  })
})

test('BLIP-2 without a text_config is OPT, and its Q-Former takes no text', () => {
  const config = parseModelConfig({ model_type: 'blip-2', image_token_index: 50265 })
  assert.is(config.qformer.hasText, false)
  assert.is(config.imageTokenId, 50265)
  assert.equal(config.language, {
    kind: 'opt',
    hiddenSize: 768,
    mlpSize: 3072,
    layers: 12,
    heads: 12,
    maxPositions: 2048,
    positionOffset: 2,
    vocabSize: 50272,
    eps: 1e-5,
    tied: true,
    padId: 1,
    bosId: 2,
    eosId: 2,
    activation: 'relu',
  })
})

test('instructblipvideo is InstructBLIP under another name, whatever else differs', () => {
  const video = {
    ...instructblip,
    model_type: 'instructblipvideo',
    vision_config: { model_type: 'instructblipvideo_vision_model' },
    qformer_config: { model_type: 'instructblipvideo_qformer' },
  }
  const { videoTokenId, ...same } = parseModelConfig({ ...video, video_token_index: 32002 })
  assert.is(videoTokenId, 32002)
  assert.equal(same, parseModelConfig(instructblip))
  const opt = parseModelConfig({ ...video, num_query_tokens: 10, text_config: { model_type: 'opt' } })
  assert.equal([opt.language.kind, opt.qformer.hasText, opt.numQueryTokens], ['opt', true, 10])
})

test('the tokens that stand for pictures, the dtype, and the length under its older name', () => {
  for (const [json, image, video, dtype] of [
    [{ image_token_index: 32001, video_token_index: 32002, torch_dtype: 'float32' }, 32001, 32002, 'float32'],
    [{ image_token_id: 32100, video_token_id: 32101, dtype: 'bfloat16' }, 32100, 32101, 'bfloat16'],
    [{ image_token_index: null, image_token_id: 7, video_token_index: null }, 7, undefined, undefined],
  ] as const) {
    const config = parseModelConfig({ ...instructblip, ...json })
    assert.equal([config.imageTokenId, config.videoTokenId, config.dtype], [image, video, dtype])
  }
  const positions = (text: object): number =>
    parseModelConfig({ ...instructblip, text_config: { ...llama, ...text } }).language.maxPositions
  assert.equal(
    [
      positions({ max_sequence_length: 1024 }),
      positions({ max_sequence_length: 1024, max_position_embeddings: 4096 }),
      positions({}),
    ],
    [1024, 4096, 2048],
  )
})

test('both generations of names are read', () => {
  const config = parseModelConfig({
    model_type: 'instructblip',
    image_token_id: 32001,
    num_query_tokens: null,
    text_config: {
      model_type: 'llama',
      rope_parameters: { rope_type: 'default', rope_theta: 5e5 },
      num_key_value_heads: 8,
      eos_token_id: [7, 9],
      pad_token_id: 32000,
    },
  })
  assert.is(config.imageTokenId, 32001)
  assert.is(config.numQueryTokens, 32)
  const { language } = config
  assert.is(language.kind === 'llama' && language.ropeTheta, 5e5)
  assert.is(language.kind === 'llama' && language.kvHeads, 8)
  assert.is(language.eosId, 7)
  assert.is(language.padId, 32000)
  const parsed = parseModelConfig({
    ...instructblip,
    text_config: { ...llama, rope_theta: 2e4, rope_scaling: null },
  }).language
  assert.is(parsed.kind === 'llama' && parsed.ropeTheta, 2e4)
})

const t5 = (t: object) => ({
  model_type: 'blip-2',
  text_config: { model_type: 't5', feed_forward_proj: 'gated-gelu', ...t },
})
test("Flan-T5's fields, its defaults, and the ids that it has whatever a config says", () => {
  const { language } = parseModelConfig(
    t5({ d_model: 2048, d_kv: 64, d_ff: 5120, num_layers: 24, num_heads: 32, dense_act_fn: 'gelu', bos_token_id: 1 }),
  )
  assert.equal(language, {
    kind: 't5',
    hiddenSize: 2048,
    headSize: 64,
    mlpSize: 5120,
    layers: 24,
    decoderLayers: 24,
    heads: 32,
    buckets: 32,
    maxDistance: 128,
    activation: 'gelu',
    eps: 1e-6,
    maxPositions: 512,
    vocabSize: 32128,
    tied: true,
    padId: 0,
    bosId: null,
    eosId: 1,
    startId: 0,
  })
  const plain = parseModelConfig(t5({ num_decoder_layers: 3, decoder_start_token_id: 7 })).language
  assert.ok(plain.kind === 't5' && plain.activation === 'gelu_new' && plain.decoderLayers === 3 && plain.startId === 7)
})

const text = (t: object) => ({ ...instructblip, text_config: { ...llama, ...t } })
const opt = (t: object) => ({ model_type: 'blip-2', text_config: { model_type: 'opt', ...t } })
for (const [name, json, expected] of [
  ['nothing', null, /model_type: expected instructblip or blip-2, but got undefined/],
  ['another family', { model_type: 'llava' }, /expected instructblip or blip-2, but got "llava"/],
  [
    'another language model',
    { ...instructblip, text_config: { model_type: 'mt5' } },
    /text_config.model_type: expected llama or opt or t5, but got "mt5"/,
  ],
  ['T5 without a gate', t5({ feed_forward_proj: 'relu' }), /feed_forward_proj: "relu" is not supported; .*gated-gelu/],
  ['another activation', t5({ dense_act_fn: 'silu' }), /dense_act_fn: expected gelu or gelu_new, but got "silu"/],
  ['odd buckets', t5({ relative_attention_num_buckets: 6 }), /num_buckets: expected a multiple of 4, but got 6/],
  ['near distances', t5({ relative_attention_max_distance: 16 }), /max_distance: expected more than 16, .*but got 16/],
  [
    'text for a number',
    { ...instructblip, vision_config: { hidden_size: 'wide' } },
    /vision_config\.hidden_size: expected .*, but got "wide"/,
  ],
  [
    'a fraction',
    { ...instructblip, qformer_config: { num_hidden_layers: 1.5 } },
    /qformer_config\.num_hidden_layers: expected .*whole number.*, but got 1\.5/,
  ],
  ['zero layers', text({ num_hidden_layers: 0 }), /text_config\.num_hidden_layers: expected .*at least 1, but got 0/],
  [
    'vision heads',
    { ...instructblip, vision_config: { num_attention_heads: 15 } },
    /hidden_size: expected a multiple of num_attention_heads \(15\), but got 1408/,
  ],
  [
    'vision activation',
    { ...instructblip, vision_config: { hidden_act: 'quick_gelu' } },
    /"quick_gelu" is not supported/,
  ],
  [
    'image size',
    { ...instructblip, vision_config: { image_size: 225 } },
    /image_size: expected a multiple of patch_size/,
  ],
  [
    'encoder width',
    { ...instructblip, qformer_config: { encoder_hidden_size: 1024 } },
    /encoder_hidden_size: expected the vision width 1408, but got 1024/,
  ],
  [
    'relative positions',
    { ...instructblip, qformer_config: { position_embedding_type: 'relative_key' } },
    /not supported/,
  ],
  [
    'rope scaling',
    text({ rope_scaling: { type: 'linear', factor: 2 } }),
    /rope_scaling\.rope_type: "linear" is not supported/,
  ],
  ['rope parameters', text({ rope_parameters: { rope_type: 'yarn' } }), /"yarn" is not supported/],
  [
    'llama activation',
    text({ hidden_act: 'gelu' }),
    /hidden_act: "gelu" is not supported; this project runs "silu" only/,
  ],
  ['llama bias', text({ attention_bias: true }), /attention_bias: true is not supported/],
  ['llama head width', text({ head_dim: 64 }), /head_dim: 64 is not supported/],
  [
    'llama groups',
    text({ num_key_value_heads: 5 }),
    /num_attention_heads: expected a multiple of num_key_value_heads \(5\)/,
  ],
  [
    'opt projection',
    opt({ word_embed_proj_dim: 512 }),
    /word_embed_proj_dim: 512 is not supported; this project runs 768 only/,
  ],
  ['opt post-norm', opt({ do_layer_norm_before: false }), /do_layer_norm_before: false is not supported/],
  ['opt activation', opt({ activation_function: 'gelu' }), /"gelu" is not supported/],
  [
    'a text path in BLIP-2',
    { model_type: 'blip-2', qformer_config: { use_qformer_text_input: true } },
    /use_qformer_text_input: true is not supported/,
  ],
] as const)
  test(`refused: ${name}`, () => {
    assert.match(refusal(json), expected)
  })

test('special ids come from generation_config.json where the config has none', async () => {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(instructblip))
  assert.equal(await readGenerationConfig(folder), {})
  assert.is((await readModelConfig(folder)).language.padId, null)
  writeFileSync(join(folder, 'generation_config.json'), '{"bos_token_id":5,"eos_token_id":[2,3],"pad_token_id":0}')
  assert.equal(await readGenerationConfig(folder), { bosId: 5, eosIds: [2, 3], padId: 0 })
  const { language } = await readModelConfig(join(folder, 'config.json'))
  assert.equal([language.padId, language.bosId, language.eosId], [0, 1, 2])
})

test('a missing or broken config.json is named', async () => {
  const empty = join(folder, 'empty')
  mkdirSync(empty)
  const fails = async (expected: RegExp) => {
    let message = ''
    await readModelConfig(empty).catch((error: Error) => {
      message = error.message
    })
    assert.match(message, expected)
    assert.ok(message.startsWith(join(empty, 'config.json')))
  }
  await fails(/no such file/)
  writeFileSync(join(empty, 'config.json'), '{"model_type":')
  await fails(/not JSON/)
  writeFileSync(join(empty, 'config.json'), '[]')
  await fails(/expected a JSON object, but it holds a list/)
})

test.run()
