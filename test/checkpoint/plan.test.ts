import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { InputError } from '../../lib/errors.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { countParts, expectedTensors } from '../../lib/checkpoint/names.js'
import {
  assertComplete,
  fingerprint,
  planCheckpoint,
  readPlanned,
  visionFingerprint,
} from '../../lib/checkpoint/plan.js'
import { writeSafetensors, type TensorData } from '../../lib/files/safetensors.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-plan-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))

const json = {
  model_type: 'instructblip',
  num_query_tokens: 3,
  vision_config: {
    hidden_size: 8,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    intermediate_size: 12,
    patch_size: 2,
    image_size: 4,
  },
  qformer_config: {
    hidden_size: 6,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 10,
    vocab_size: 11,
    max_position_embeddings: 7,
  },
  text_config: {
    model_type: 'llama',
    hidden_size: 8,
    intermediate_size: 12,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    vocab_size: 13,
    max_position_embeddings: 16,
  },
}

/** Every tensor of the tiny model, each with numbers of its own. */
function tensors(config: object = json): TensorData[] {
  return expectedTensors(parseModelConfig(config))
    .filter((t) => !t.optional)
    .map(({ name, shape }, k) => ({
      name,
      shape,
      dtype: 'F32',
      data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => k + i / 64),
    }))
}

let counter = 0
async function checkpoint(
  files: Record<string, TensorData[]>,
  config: object = json,
  index?: Record<string, string>,
): Promise<string> {
  const at = join(folder, String(counter++))
  mkdirSync(at)
  writeFileSync(join(at, 'config.json'), JSON.stringify(config))
  for (const [name, data] of Object.entries(files)) await writeSafetensors(join(at, name), data)
  if (index)
    writeFileSync(join(at, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: index }))
  return at
}

const one = (data: TensorData[], config?: object) => checkpoint({ 'model.safetensors': data }, config)
const map = (data: TensorData[], file: string) => Object.fromEntries(data.map((t) => [t.name, file]))
const change = (data: TensorData[], name: string, to: Partial<TensorData> | undefined) =>
  data.flatMap((t) => (t.name !== name ? [t] : to ? [{ ...t, ...to }] : []))

async function refusal(act: () => Promise<unknown>): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return assert.unreachable('nothing was refused') as never
}

test('a whole checkpoint: every tensor loaded, nothing else', async () => {
  const data = tensors()
  const plan = await planCheckpoint(
    await one([
      ...data,
      { name: 'qformer.embeddings.position_ids', dtype: 'I64', shape: [1, 7], data: new BigInt64Array(7) },
    ]),
  )
  assertComplete(plan)
  assert.equal(plan.loaded.sort(), data.map((t) => t.name).sort())
  assert.equal(plan.ignored, ['qformer.embeddings.position_ids'])
  assert.equal([plan.missing, plan.wrong, plan.unexpected, plan.notes], [[], [], [], []])
  const bytes = await readPlanned(plan.entries.get('query_tokens')!)
  assert.equal(new Float32Array(bytes.buffer), data.find((t) => t.name === 'query_tokens')!.data)
})

test('shards and prefixes do not change the fingerprint, one changed number does', async () => {
  const data = tensors()
  const [a, b] = [data.slice(0, 20), data.slice(20)]
  const whole = await fingerprint(await planCheckpoint(await one(data)))
  const sharded = await checkpoint({ 'a.safetensors': b, 'b.safetensors': a }, json, {
    ...map(a, 'b.safetensors'),
    ...map(b, 'a.safetensors'),
  })
  const plan = await planCheckpoint(sharded)
  assertComplete(plan)
  assert.is(plan.files.length, 2)
  assert.is(await fingerprint(plan), whole)
  const prefixed = await planCheckpoint(await one([...data].reverse().map((t) => ({ ...t, name: `model.${t.name}` }))))
  assertComplete(prefixed)
  assert.is(await fingerprint(prefixed), whole)
  const other = (data[5]!.data as Float32Array).slice()
  other[other.length - 1]! += 1
  assert.is.not(await fingerprint(await planCheckpoint(await one(change(data, data[5]!.name, { data: other })))), whole)
  assert.match(whole, /^[0-9a-f]{64}$/)
})

test('split vision biases become one fused bias with zeros between', async () => {
  const name = 'vision_model.encoder.layers.0.self_attn.qkv.bias'
  const q = Float32Array.from({ length: 8 }, (_, i) => i + 1)
  const v = Float32Array.from({ length: 8 }, (_, i) => -i - 1)
  const rest = change(tensors(), name, undefined)
  const third = (t: string, data: Float32Array): TensorData => ({
    name: `vision_model.encoder.layers.0.self_attn.${t}_bias`,
    dtype: 'F32',
    shape: [data.length],
    data,
  })
  const plan = await planCheckpoint(await one([...rest, third('v', v), third('q', q)]))
  assertComplete(plan)
  assert.equal(
    [...new Float32Array((await readPlanned(plan.entries.get(name)!)).buffer)],
    [...q, ...new Float32Array(8), ...v],
  )
  assert.is((await fingerprint(plan)).length, 64)

  const half = await planCheckpoint(await one([...rest, third('q', q)]))
  assert.equal(half.missing, [`${name} (of its thirds there is q_bias alone)`])
  const short = await planCheckpoint(await one([...rest, third('q', q), third('v', v.slice(1))]))
  assert.equal(short.wrong, [
    { name: 'vision_model.encoder.layers.0.self_attn.v_bias', expected: 'a float of shape [8]', actual: 'F32 [7]' },
  ])
  const both = await one([...tensors(), third('q', q)])
  assert.match(await refusal(() => planCheckpoint(both)), /qkv\.bias is there twice/)
})

test('what is missing, of a wrong shape or dtype, or unexpected is listed in one error', async () => {
  const data = tensors()
  const gone = data.filter((t) => t.name.startsWith('vision_model')).map((t) => t.name)
  let rest = data.filter((t) => !gone.includes(t.name))
  rest = change(rest, 'language_projection.weight', { shape: [6, 8] })
  rest = change(rest, 'language_projection.bias', { dtype: 'I32', data: new Int32Array(8) })
  rest.push({ name: 'surprise', dtype: 'F32', shape: [1], data: new Float32Array(1) })
  const plan = await planCheckpoint(await one(rest))
  assert.equal(plan.missing, gone)
  assert.equal(plan.wrong, [
    { name: 'language_projection.weight', expected: 'a float of shape [8,6]', actual: 'F32 [6,8]' },
    { name: 'language_projection.bias', expected: 'a float of shape [8]', actual: 'I32 [8]' },
  ])
  assert.equal(plan.unexpected, ['surprise'])
  const message = await refusal(async () => assertComplete(plan))
  assert.match(
    message,
    new RegExp(
      `${gone.length} missing \\(vision_model.*and ${gone.length - 10} more\\); 2 wrong \\(.*language_projection.bias: expected a float of shape \\[8\\], but got I32 \\[8\\]\\); 1 unexpected \\(surprise\\)`,
    ),
  )
})

test('vocabularies are taken from the tensors', async () => {
  const data = tensors({
    ...json,
    qformer_config: { ...json.qformer_config, vocab_size: 12 },
    text_config: { ...json.text_config, vocab_size: 64 },
  })
  const plan = await planCheckpoint(await one(data))
  assertComplete(plan)
  assert.is(plan.config.language.vocabSize, 64)
  assert.is(plan.config.qformer.vocabSize, 12)
  assert.is(plan.notes.length, 2)
  const head = await planCheckpoint(
    await one(change(tensors(), 'language_model.lm_head.weight', { shape: [12, 8], data: new Float32Array(96) })),
  )
  assert.equal(head.wrong, [
    { name: 'language_model.lm_head.weight', expected: '13 rows as in the embedding', actual: '12 rows' },
  ])
})

test('a tied head may be there, alone, twice or not at all', async () => {
  const config = {
    ...json,
    model_type: 'blip-2',
    text_config: {
      model_type: 'opt',
      hidden_size: 8,
      ffn_dim: 12,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      vocab_size: 13,
      max_position_embeddings: 16,
    },
  }
  const data = tensors(config)
  const embedding = data.find((t) => t.name.endsWith('embed_tokens.weight'))!
  const head = { ...embedding, name: 'language_model.lm_head.weight' }
  const none = await planCheckpoint(await one(data, config))
  const both = await planCheckpoint(await one([...data, head], config))
  const alone = await planCheckpoint(await one([...change(data, embedding.name, undefined), head], config))
  for (const plan of [none, both, alone]) {
    assertComplete(plan)
    assert.not(plan.entries.has(head.name))
    assert.ok(plan.entries.has(embedding.name))
    assert.is(await fingerprint(plan), await fingerprint(none))
  }
  assert.equal(both.ignored, [head.name])
})

test('the same tensor under two names is refused', async () => {
  const data = tensors()
  const at = await one([...data, { ...data[0]!, name: `model.${data[0]!.name}` }])
  assert.match(await refusal(() => planCheckpoint(at)), /class_embedding is there twice/)
})

test('faulty indexes are refused', async () => {
  const data = tensors()
  const [a, b] = [data.slice(0, 20), data.slice(20)]
  const fails = async (files: Record<string, TensorData[]>, index: Record<string, string>, expected: RegExp) => {
    const at = await checkpoint(files, json, index)
    assert.match(await refusal(() => planCheckpoint(at)), expected)
  }
  const index = { ...map(a, 'a.safetensors'), ...map(b, 'b.safetensors') }
  await fails({ 'a.safetensors': a }, index, /1 of the 2 files named in the index are not there: b\.safetensors/)
  await fails(
    { 'a.safetensors': a, 'b.safetensors': b.slice(1) },
    index,
    /says that the tensor \S+ is in b\.safetensors, but it is in none/,
  )
  await fails(
    { 'a.safetensors': a, 'b.safetensors': [a[0]!, ...b] },
    index,
    /is in two files, a\.safetensors and b\.safetensors/,
  )
  await fails({ 'a.safetensors': b, 'b.safetensors': a }, index, /is in a\.safetensors, but it is in b\.safetensors/)
  await fails({ 'a.safetensors': a }, { x: '../a.safetensors' }, /weight_map: expected an object/)
})

test('a folder without safetensors says what to do', async () => {
  const at = await checkpoint({})
  assert.match(await refusal(() => planCheckpoint(at)), /there is no model\.safetensors/)
  writeFileSync(join(at, 'blip2.pth'), '')
  assert.match(await refusal(() => planCheckpoint(at)), /as blip2\.pth alone; "mtransllama convert" reads \.pth files/)
  writeFileSync(join(at, 'pytorch_model.bin'), '')
  assert.match(await refusal(() => planCheckpoint(at)), /pytorch_model\.bin: not a usable file of torch/)
})

// ------------------------------------------------------------------------------------------------------------- goldens

const golden = fileURLToPath(new URL('../../../shared/golden/', import.meta.url))
if (!existsSync(golden)) console.error(`SKIPPED: the golden checkpoints are not at ${golden}`)
const goldenTest = existsSync(golden) ? test : test.skip

for (const [name, files, counts] of [
  ['tiny-instructblip', 1, [30, 112, 1, 2, 21]],
  ['tiny-instructblip-sharded', 2, [30, 112, 1, 2, 21]],
  ['tiny-blip2-opt', 1, [30, 86, 1, 2, 36]],
] as const) {
  goldenTest(`golden ${name} is complete`, async () => {
    const plan = await planCheckpoint(join(golden, name))
    assertComplete(plan)
    assert.equal([plan.ignored, plan.notes], [[], []])
    assert.is(plan.files.length, files)
    const stored = plan.files.reduce((n, file) => n + file.entries.size, 0)
    assert.is(plan.loaded.length, stored)
    assert.equal(
      countParts(plan.entries.values()).map((c) => c.tensors),
      [...counts],
    )
    assert.equal(countParts(plan.entries.values()), countParts(expectedTensors(plan.config)))
    assert.match(await fingerprint(plan), /^[0-9a-f]{64}$/)
  })
}

test('an index may name a tensor that is not needed and in no file', async () => {
  const data = tensors()
  const [a, b] = [data.slice(0, 9), data.slice(9)]
  const files = { 'a.safetensors': a, 'b.safetensors': b }
  const index = { ...map(a, 'a.safetensors'), ...map(b, 'b.safetensors') }
  const none = await planCheckpoint(await checkpoint(files, json, index))
  for (const extra of [
    { 'qformer.embeddings.position_ids': 'a.safetensors' },
    { 'language_model.model.layers.0.self_attn.rotary_emb.inv_freq': 'b.safetensors' },
    { 'itm_head.weight': 'c.safetensors' }, // not even its file is there
  ] as Record<string, string>[]) {
    const plan = await planCheckpoint(await checkpoint(files, json, { ...index, ...extra }))
    assertComplete(plan)
    assert.is(await fingerprint(plan), await fingerprint(none))
  }
  const tied = { ...json, text_config: { ...json.text_config, tie_word_embeddings: true } }
  const bare = change(data, 'language_model.lm_head.weight', undefined)
  assertComplete(
    await planCheckpoint(
      await checkpoint({ 'a.safetensors': bare }, tied, {
        ...map(bare, 'a.safetensors'),
        'language_model.lm_head.weight': 'a.safetensors',
      }),
    ),
  )
  for (const [extra, sentence] of [
    [
      { 'language_model.lm_head.weight': 'a.safetensors' },
      /it says that the tensor language_model\.lm_head\.weight is in a\.safetensors, but it is in none of the files/,
    ],
    [{ 'some.other.weight': 'a.safetensors' }, /some\.other\.weight is in a\.safetensors, but it is in none/],
    [
      { 'language_projection.weight': 'c.safetensors' },
      /1 of the 3 files named in the index are not there: c\.safetensors/,
    ],
  ] as const) {
    const left = change(data, Object.keys(extra)[0]!, undefined)
    const [c, d] = [left.slice(0, 9), left.slice(9)]
    const at = await checkpoint({ 'a.safetensors': c, 'b.safetensors': d }, json, {
      ...map(c, 'a.safetensors'),
      ...map(d, 'b.safetensors'),
      ...extra,
    })
    assert.match(await refusal(() => planCheckpoint(at)), sentence)
  }
})

test("the vision tower's fingerprint is of all of its numbers and its configuration, and of nothing else", async () => {
  const data = tensors()
  const of = async (d: TensorData[], config: object = json): Promise<string> =>
    visionFingerprint(await planCheckpoint(await one(d, config)))
  const whole = await of(data)
  assert.is(await of([...data].reverse()), whole)
  const touched = (name: string, at: number): TensorData[] => {
    const numbers = (data.find((t) => t.name === name)!.data as Float32Array).slice()
    numbers[at]! += 1
    return change(data, name, { data: numbers })
  }
  for (const name of ['language_projection.weight', 'qformer.encoder.layer.0.output_query.dense.bias', 'query_tokens'])
    assert.is(await of(touched(name, 1)), whole, name)
  for (const [name, at] of [
    ['vision_model.encoder.layers.0.mlp.fc1.weight', 50],
    ['vision_model.post_layernorm.bias', 7],
    ['vision_model.embeddings.class_embedding', 0],
  ] as const) {
    assert.is.not(await of(touched(name, at)), whole, name)
  }
  assert.is.not(await of(data, { ...json, vision_config: { ...json.vision_config, layer_norm_eps: 1e-5 } }), whole)
  // A tensor of 640 kB is read in 64 places: both ends, and at equal distances between.
  const wide = { ...json, vision_config: { ...json.vision_config, intermediate_size: 20_000 } }
  const large = tensors(wide)
  const before = await of(large, wide)
  const name = 'vision_model.encoder.layers.0.mlp.fc1.weight'
  for (const at of [0, 159_999, Math.round(((640_000 - 4096) * 31) / 63 / 4) + 500]) {
    const numbers = (large.find((t) => t.name === name)!.data as Float32Array).slice()
    numbers[at]! += 1
    assert.is.not(await of(change(large, name, { data: numbers }), wide), before, `${at}`)
  }
  assert.is.not(await of(data, { ...json, vision_config: { ...json.vision_config, num_attention_heads: 4 } }), whole)
})

test.run()
