import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { countParts, expectedTensors, resolveName } from '../../lib/checkpoint/names.js'

const vicuna = parseModelConfig({
  model_type: 'instructblip',
  qformer_config: { vocab_size: 30523 },
  text_config: { model_type: 'llama', vocab_size: 32001 },
})
const opt = parseModelConfig({
  model_type: 'blip-2',
  text_config: {
    model_type: 'opt',
    hidden_size: 2560,
    ffn_dim: 10240,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    word_embed_proj_dim: 2560,
    vocab_size: 50304,
  },
})

test('the full-size InstructBLIP has the published counts', () => {
  assert.equal(countParts(expectedTensors(vicuna)), [
    { part: 'vision', tensors: 474, parameters: 985_952_256 },
    { part: 'qformer', tensors: 328, parameters: 185_660_160 },
    { part: 'query', tensors: 1, parameters: 24_576 },
    { part: 'projection', tensors: 2, parameters: 3_149_824 },
    { part: 'language', tensors: 291, parameters: 6_738_423_808 },
  ])
})

test('the full-size BLIP-2 has a Q-Former without text and a tied OPT', () => {
  const [vision, qformer, query, projection, language] = countParts(expectedTensors(opt))
  assert.equal([vision!.tensors, vision!.parameters], [474, 985_952_256])
  assert.equal([qformer!.tensors, qformer!.parameters], [254, 105_137_664])
  assert.is(query!.parameters, 24_576)
  assert.is(projection!.parameters, 768 * 2560 + 2560)
  assert.is(language!.tensors, 2 + 32 * 16 + 2)
  const head = expectedTensors(opt).find((t) => t.name === 'language_model.lm_head.weight')!
  assert.equal(head, {
    name: 'language_model.lm_head.weight',
    shape: [50304, 2560],
    part: 'language',
    optional: true,
    rows: true,
  })
})

test('BLIP-2 over Flan-T5-XL: its tensors, and the aliases of its embedding', () => {
  const t5 = parseModelConfig({
    model_type: 'blip-2',
    text_config: {
      ...{ model_type: 't5', d_model: 2048, d_kv: 64, d_ff: 5120, num_layers: 24, num_heads: 32, vocab_size: 32128 },
      ...{ feed_forward_proj: 'gated-gelu', tie_word_embeddings: false },
    },
  })
  const expected = new Map(expectedTensors(t5).map((t) => [t.name, t]))
  const language = countParts(expected.values()).at(-1)!
  // shared and head, tables, final norms; 24 × (4 + 3 matrices, 2 norms) and 24 × (8 + 3, 3)
  assert.equal([language.tensors, language.parameters], [558, 2_849_757_184])
  const at = 'language_model.decoder.block.0.layer'
  assert.equal(expected.get(`${at}.0.SelfAttention.relative_attention_bias.weight`)!.shape, [32, 32])
  assert.equal(expected.get(`${at}.1.EncDecAttention.k.weight`)!.shape, [2048, 2048])
  for (const [stored, kind] of [
    ['language_model.encoder.embed_tokens.weight', 'ignored'],
    ['t5_model.decoder.embed_tokens.weight', 'ignored'],
    [`${at}.1.EncDecAttention.relative_attention_bias.weight`, 'ignored'],
    ['t5_model.shared.weight', 'tensor'],
  ])
    assert.is(resolveName(stored!, expected).kind, kind, stored)
})

test('shapes with grouped keys, without a vision bias, with another frequency', () => {
  const config = parseModelConfig({
    model_type: 'instructblip',
    vision_config: { qkv_bias: false },
    qformer_config: { cross_attention_frequency: 3 },
    text_config: { model_type: 'llama', num_key_value_heads: 8, tie_word_embeddings: true },
  })
  const tensors = new Map(expectedTensors(config).map((t) => [t.name, t]))
  assert.equal(tensors.get('language_model.model.layers.0.self_attn.k_proj.weight')!.shape, [1024, 4096])
  assert.not(tensors.has('vision_model.encoder.layers.0.self_attn.qkv.bias'))
  assert.not(tensors.has('qformer.encoder.layer.2.crossattention.output.dense.bias'))
  assert.ok(tensors.has('qformer.encoder.layer.3.crossattention.output.dense.bias'))
  assert.is(tensors.get('language_model.lm_head.weight')!.optional, true)
})

const names = new Map(expectedTensors(vicuna).map((t) => [t.name, t]))
const optNames = new Map(expectedTensors(opt).map((t) => [t.name, t]))
const tensor = (name: string) => ({ kind: 'tensor', name })

test('names of every generation are understood', () => {
  const same = (stored: string, name: string, table = names) =>
    assert.equal(resolveName(stored, table), tensor(name), stored)
  same('query_tokens', 'query_tokens')
  same('model.query_tokens', 'query_tokens')
  same('language_model.model.norm.weight', 'language_model.model.norm.weight')
  same('language_model.layers.3.mlp.up_proj.weight', 'language_model.model.layers.3.mlp.up_proj.weight')
  same('model.language_model.norm.weight', 'language_model.model.norm.weight')
  same('lm_head.weight', 'language_model.lm_head.weight')
  same(
    'base_model.model.qformer.encoder.layer.0.attention.attention.query.weight',
    'qformer.encoder.layer.0.attention.attention.query.weight',
  )
  same(
    'base_model.model.qformer.encoder.layer.0.attention.attention.query.base_layer.bias',
    'qformer.encoder.layer.0.attention.attention.query.bias',
  )
  same('base_model.model.model.language_projection.bias', 'language_projection.bias')
  same('qformer.encoder.layer.1.output.LayerNorm.gamma', 'qformer.encoder.layer.1.output.LayerNorm.weight')
  same('qformer.encoder.layer.1.output.LayerNorm.beta', 'qformer.encoder.layer.1.output.LayerNorm.bias')
  same('qformer.embeddings.LayerNorm.gamma', 'qformer.embeddings.layernorm.weight')
  same('language_model.decoder.embed_tokens.weight', 'language_model.model.decoder.embed_tokens.weight', optNames)
  assert.equal(resolveName('vision_model.encoder.layers.7.self_attn.q_bias', names), {
    kind: 'third',
    name: 'vision_model.encoder.layers.7.self_attn.qkv.bias',
    third: 'q',
  })
})

test('buffers and other heads are ignored by name, everything else is unexpected', () => {
  for (const name of [
    'qformer.embeddings.position_ids',
    'language_model.model.layers.9.self_attn.rotary_emb.inv_freq',
    'model.vision_model.embeddings.position_ids',
    'temp',
    'Qformer.cls.predictions.bias',
    'itm_head.weight',
    'vision_proj.bias',
    'text_projection.weight',
  ])
    assert.is(resolveName(name, names).kind, 'ignored', name)
  for (const name of [
    'qformer.encoder.layer.12.output.dense.bias',
    'vision_model.encoder.layers.0.self_attn.k_bias',
    'language_model.model.model.norm.weight',
    'base_model.model.qformer.encoder.layer.0.attention.attention.query.lora_A.weight',
    'temperature',
    '',
  ])
    assert.is(resolveName(name, names).kind, 'unexpected', name)
  assert.is(resolveName('qformer.encoder.layer.0.intermediate.dense.bias', optNames).kind, 'unexpected')
})

test.run()
