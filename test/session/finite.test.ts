// Numbers that are not finite decide nothing: one sentence names the tensor or layer, and the sample.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { join } from 'node:path'
import { InputError } from '../../lib/errors.js'
import { loadImageModel } from '../../lib/session/checkpoint.js'
import { isFiniteTensor } from '../../lib/session/finite.js'
import { generate } from '../../lib/session/generate.js'
import { cast, full, write } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { poison } from '../support/poison.js'
import { float32, openTiny, temporaryFolder } from '../support/tiny.js'
import { writeCheckpoint } from '../support/world.js'

async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    assert.instance(error, InputError)
    assert.not.match((error as Error).message, /\n/)
    return (error as Error).message
  }
  return assert.unreachable('nothing was thrown') as never
}

/** The same tiny model with one element of a weight changed, wherever a weight may be written. */
const withWeight = (kind: 'instructblip' | 'blip2', name: string, value: number) =>
  openTiny(kind, 21, (tiny) => {
    const { data } = tiny.tensors.get(name)!
    data[data.length - 1] = value
    return tiny
  })

async function drain(ids: AsyncIterable<number>): Promise<void> {
  for await (const _ of ids);
}
const visual = (value = 0.1): Tensor => float32({ shape: [1, 5, 30], data: new Float64Array(150).fill(value) })

for (const [kind, weight, value] of [
  ['instructblip', 'language_model.lm_head.weight', NaN],
  ['instructblip', 'language_model.model.layers.1.mlp.down_proj.weight', Infinity],
  ['blip2', 'language_model.model.decoder.layers.0.fc2.bias', -Infinity],
] as const) {
  test(`generation from a damaged weight is an error, not an empty answer: ${weight}`, async () => {
    const { native } = await withWeight(kind, weight, value)
    const message = await scope(() =>
      failure(drain(generate(native, visual(), [1, 2, 3], { maxTokens: 4, eosIds: [0] }))),
    )
    assert.is(
      message,
      `the scores of token 1 of the answer are not finite: the weight ${weight} holds a NaN or an infinity; the checkpoint is damaged, fetch it again.`,
    )
    native.dispose()
  })
}

test('where every weight is finite, the first layer whose output is not is named', async () => {
  const { native } = await openTiny('instructblip', 21)
  const message = await scope(() => failure(drain(generate(native, visual(NaN), [1, 2, 3], { maxTokens: 4 }))))
  assert.match(
    message,
    /^the scores of token 1 of the answer are not finite: lm\.hidden\.0 is the first layer whose output is not; an activation is too large for float32\.$/,
  )
  const large = await withWeight('instructblip', 'language_model.model.layers.0.mlp.down_proj.weight', 3e38)
  assert.match(
    await scope(() => failure(drain(generate(large.native, visual(1e4), [1, 2, 3], { maxTokens: 4 })))),
    /lm\.hidden\.[12] is the first layer/,
  )
  for (const m of [native, large.native]) m.dispose()
})

for (const [kind, weight, value] of [
  ['instructblip', 'qformer.encoder.layer.3.attention.attention.key.bias', Infinity],
  ['instructblip', 'vision_model.encoder.layers.0.self_attn.qkv.bias', -Infinity],
  ['blip2', 'language_model.model.decoder.layers.1.self_attn.k_proj.bias', NaN],
] as const) {
  test(`an infinity that would mask keys is found when a model is opened: ${weight}`, async () => {
    const folder = await writeCheckpoint(temporaryFolder('masking'), kind)
    await poison(join(folder, 'model.safetensors'), weight, value)
    for (const precision of ['float32', 'bfloat16'] as const)
      assert.is(
        await failure(loadImageModel(folder, { precision })),
        `${folder}: the weight ${weight} holds a NaN or an infinity; the checkpoint is damaged, fetch it again.`,
      )
  })
}

test('a tensor of any layout and dtype is looked at to its last element', async () => {
  await scope(async () => {
    const t = full([3, 5], 1)
    assert.ok(await isFiniteTensor(t))
    scope(() => write(t.view([1], [1], 14), tensor([NaN])))
    assert.not(await isFiniteTensor(t))
    assert.ok(await isFiniteTensor(t.view([2, 5])))
    assert.not(await isFiniteTensor(t.view([5, 3], [1, 5])))
    assert.not(await isFiniteTensor(cast(t, 'bfloat16')))
    assert.ok(await isFiniteTensor(tensor(Int32Array.of(7), [1], 'int32')))
    const large = full([(1 << 22) + 1], 1)
    assert.ok(await isFiniteTensor(large))
    scope(() => write(large.view([1], [1], 1 << 22), tensor([-Infinity])))
    assert.not(await isFiniteTensor(large))
  })
})

test.run()
