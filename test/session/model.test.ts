// openModel: a model opens with or without an adapter, answers, changes its adapter, and frees all memory.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import { evaluate, predictSamples, type Prediction } from '../../lib/eval/evaluate.js'
import { loadAdapter } from '../../lib/adapter/save.js'
import { Features } from '../../lib/session/features.js'
import { type Answered, openModel, type Model, type OpenOptions } from '../../lib/session/model.js'
import { train } from '../../lib/train/loop.js'
import { bytes, settled } from '../support/memory.js'
import { makeWorld, trainConfig, writeAdapter, writeCheckpoint, type World } from '../support/world.js'

let world: World
let other: string
let samples: Sample[]
const at = (name: string): string => join(world.root, name)

test.before(async () => {
  world = await makeWorld()
  samples = await readManifest(world.val)
  mkdirSync(at('other'))
  other = await writeCheckpoint(at('other'), 'instructblip', 8)
  const model = await openModel(world.model)
  for (const seed of [1, 2]) await writeAdapter(model, at(`adapter-${seed}`), seed)
  model.dispose()
})

async function answer(model: Model, sample = samples[0]!): Promise<string> {
  let text = ''
  for await (const piece of model.ask(sample, { maxTokens: 8 })) text += piece
  return text
}
/** The answer of a model that is opened for it. */
async function once(options: OpenOptions, sample?: Sample): Promise<string> {
  using model = await openModel(world.model, options)
  return await answer(model, sample)
}
async function failure(act: () => Promise<unknown>): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError)
    assert.not.match((error as Error).message, /\n/)
    return (error as Error).message
  }
  return assert.unreachable('nothing was thrown') as never
}

test('an adapter can be opened with the model, loaded later, and replaced', async () => {
  const [plain, first, second] = [
    await once({}),
    await once({ adapter: at('adapter-1') }),
    await once({ adapter: at('adapter-2') }),
  ]
  assert.is(new Set([plain, first, second]).size, 3, 'adapters matter')
  const before = await settled()
  {
    using model = await openModel(world.model)
    assert.is(model.adapter, undefined)
    assert.is(await answer(model), plain)
    await model.loadAdapter(at('adapter-1'))
    assert.is(model.adapter!.config.frames, 3)
    assert.is(await answer(model), first)
    await model.loadAdapter(at('adapter-2'))
    assert.is(await answer(model), second)
  }
  assert.is(await bytes(), before)
})

test('several adapters on one open model, switched between two questions', async () => {
  const expected = new Map([
    [null, await once({})],
    ['one', await once({ adapter: at('adapter-1') })],
    ['two', await once({ adapter: at('adapter-2') })],
  ])
  const before = await settled()
  {
    using model = await openModel(world.model)
    await model.loadAdapter(at('adapter-1'), 'one')
    await model.loadAdapter(at('adapter-2'), 'two')
    assert.equal(model.adapters, ['one', 'two'])
    for (const name of ['one', null, 'two', 'one'] as const) {
      model.setAdapter(name)
      assert.is(await answer(model), expected.get(name), String(name))
    }
    const held = await settled()
    await model.loadAdapter(at('adapter-2'), 'one')
    assert.equal(model.adapters, ['one', 'two'])
    // An adapter makes its masks when it is first asked.
    assert.is(await answer(model), expected.get('two'))
    assert.is(await settled(), held, 'the one of that name is gone')
    assert.throws(() => model.setAdapter('three'), /adapter: expected one of one, two, or null, but got "three"/)
    assert.match(await failure(() => model.loadAdapter(at('nowhere'), 'three')), /no such file/)
    assert.equal(model.adapters, ['one', 'two'])
  }
  assert.is(await bytes(), before)
})

test('an adapter that is refused leaves nothing open, and the one before stays', async () => {
  const before = await settled()
  const wrong =
    /adapter-1: this adapter belongs to the base model tiny .* load it onto the model that it was trained on/
  assert.match(await failure(() => openModel(other, { adapter: at('adapter-1') })), wrong)
  assert.is(await bytes(), before)
  const model = await openModel(world.model, { adapter: at('adapter-1') })
  const { adapter } = model
  const first = await answer(model)
  assert.match(await failure(() => model.loadAdapter(at('nowhere'))), /nowhere\/mtransllama\.json: no such file/)
  assert.is(model.adapter, adapter)
  assert.is(await answer(model), first)
  model.dispose()
  assert.is(await bytes(), before)
})

test('questions are answered side by side, and one that has begun keeps its adapter', async () => {
  using model = await openModel(world.model, { adapter: at('adapter-1') })
  const [a, b] = [await answer(model, samples[0]), await answer(model, samples.at(-1))]
  assert.equal(await Promise.all([answer(model, samples[0]), answer(model, samples.at(-1))]), [a, b])
  const [begun] = await Promise.all([answer(model), model.loadAdapter(at('adapter-2'))])
  assert.is(begun, a)
  assert.is(await answer(model), await once({ adapter: at('adapter-2') }))
})

test('a question may name another adapter, or none, and says at the end what was read and written', async () => {
  using model = await openModel(world.model, { adapter: at('adapter-1') })
  const adapter = await loadAdapter(at('adapter-2'), model.checkpoint)
  const all = async (options: Parameters<Model['ask']>[1]): Promise<[string, Answered]> => {
    const pieces = model.ask(samples[0]!, { maxTokens: 8, ...options })
    let [text, next] = ['', await pieces.next()]
    for (; !next.done; next = await pieces.next()) text += next.value
    return [text, next.value]
  }
  const features = new Features(model.checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
  const [own, own_end] = await all({})
  const [second] = await all({ adapter, features })
  const [plain, plain_end] = await all({ adapter: null })
  assert.equal(
    [own, second, plain],
    [await once({ adapter: at('adapter-1') }), await once({ adapter: at('adapter-2') }), await once({})],
  )
  assert.is(own_end.visualTokens, model.checkpoint.model.config.numQueryTokens)
  assert.ok(own_end.promptTokens > 3)
  for (const { finish, answerTokens } of [own_end, plain_end])
    assert.ok(finish === 'length' ? answerTokens === 8 : answerTokens < 8, `${finish} ${answerTokens}`)
  const [, cut] = await all({ maxTokens: 1 })
  assert.equal([cut.finish, cut.answerTokens], ['length', 1])
  adapter.dispose()
})

test('further questions about a clip do not read it again', async () => {
  using model = await openModel(world.model)
  const features = new Features(model.checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
  const video = at(`gone${samples[0]!.video.endsWith('.mp4') ? '.mp4' : ''}`)
  cpSync(samples[0]!.video, video, { recursive: true })
  const clip = { ...samples[0]!, video }
  const ask = async (prompt: string, options = {}): Promise<string> => {
    let text = ''
    for await (const piece of model.ask({ ...clip, prompt }, { maxTokens: 8, features, ...options })) text += piece
    return text
  }
  const [first, second] = [await ask('is there a red circle ?'), await ask('how many objects move ?', { beams: 3 })]
  rmSync(video, { recursive: true })
  assert.is(await ask('is there a red circle ?'), first)
  assert.is(await ask('how many objects move ?', { beams: 3 }), second)
  assert.match(await failure(() => ask('what moves ?', { features: undefined })), /no such file/)
})

test('a signal ends a question while its clip is read', async () => {
  using model = await openModel(world.model)
  const before = await settled()
  const stop = new AbortController()
  const pieces = model.ask(samples[0]!, { signal: stop.signal })
  const first = pieces.next()
  stop.abort(new Error('enough'))
  assert.is(
    await first.then(
      () => '',
      (error: Error) => error.message,
    ),
    'enough',
  )
  assert.is(await bytes(), before)
  assert.ok((await answer(model)).length > 0, 'the next question is answered')
})

test('a disposed model says so', async () => {
  const model = await openModel(world.model, { adapter: at('adapter-1') })
  model.dispose()
  model.dispose()
  const sentence = 'model: this one was disposed; open it again with openModel().'
  assert.is(await failure(() => answer(model)), sentence)
  assert.is(await failure(() => model.loadAdapter(at('adapter-1'))), sentence)
  assert.is(await failure(() => evaluate(model, samples).next()), sentence)
  assert.is(await failure(() => train(trainConfig(world, 'gone'), { model })), sentence)
  assert.is(model.adapter, undefined)
})

test('evaluate predicts with the model and its adapter', async () => {
  using model = await openModel(world.model, { adapter: at('adapter-1') })
  const all = async (from: AsyncIterable<Prediction>): Promise<Prediction[]> => {
    const list: Prediction[] = []
    for await (const p of from) list.push(p)
    return list
  }
  const { checkpoint, adapter } = model
  const features = new Features(checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
  const expected = await all(predictSamples(checkpoint, features, samples, { adapter }))
  assert.equal(await all(evaluate(model, samples, { batch: 1 })), expected)
  assert.not.equal(await all(evaluate(model, samples, { frames: 2 })), expected)
})

test.run()
