// Greedy generation: the cache does not change the answer, and every end condition ends it.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { generate, type GenerateOptions } from '../../lib/session/generate.js'
import { logits } from '../../lib/models/decoder.js'
import { narrow } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { array } from '../oracle/array.js'
import { random } from '../oracle/random.js'
import { bytes, settled } from '../support/memory.js'
import { type Both, float32, openTiny } from '../support/tiny.js'

const prompt = [1, 17, 23, 5]

for (const kind of ['instructblip', 'blip2'] as const) {
  let model: Both
  test.before(async () => void (model = await openTiny(kind, 21)))
  test.after(() => model.native.dispose())
  /** Visual tokens [1,5,30], by seed. */
  const visualTokens = (seed: number): Tensor => {
    const rng = random(seed)
    return float32({ shape: [1, 5, 30], data: array([150]).data.map(() => rng.normal()) })
  }
  const ids = async (model: Both, visual: Tensor, options: GenerateOptions, words = prompt): Promise<number[]> => {
    const out: number[] = []
    for await (const id of generate(model.native, visual, words, options)) out.push(id)
    return out
  }
  /** The likeliest next id, from the whole sequence at once. */
  const next = ({ native }: Both, visual: Tensor, words: number[]): Promise<number> =>
    scope(() =>
      noGrad(async () => {
        const hidden = native.hidden(visual, {
          rows: 1,
          ids: Int32Array.from(words),
          mask: new Uint8Array(words.length).fill(1),
        })
        const scores = (await logits(native.language, narrow(hidden, 1, hidden.dim(1) - 1, 1)).data()) as Float32Array
        return scores.indexOf(Math.max(...scores))
      }),
    )

  test(`${kind}: the cache gives the ids that the whole sequence gives`, async () => {
    const answers = new Set<string>()
    for (const seed of [1, 2, 3]) {
      await scope(async () => {
        const visual = visualTokens(seed)
        const cached = await ids(model, visual, { maxTokens: 12 })
        const words = [...prompt]
        for (let i = 0; i < 12; i++) words.push(await next(model, visual, words))
        assert.equal(cached, words.slice(prompt.length))
        assert.equal(await ids(model, visual, { maxTokens: 12 }), cached, 'a second time')
        answers.add(`${cached}`)
      })
    }
    assert.ok(answers.size > 1, 'the frames matter')
  })

  test(`${kind}: it ends at an end token, which is not shown, or after maxTokens`, async () => {
    await scope(async () => {
      const visual = visualTokens(1)
      const all = await ids(model, visual, { maxTokens: 12 })
      assert.is(all.length, 12)
      assert.equal(await ids(model, visual, { maxTokens: 5 }), all.slice(0, 5))
      assert.equal(await ids(model, visual, { maxTokens: 0 }), [])
      const end = all[4]!
      const first = all.indexOf(end)
      assert.equal(await ids(model, visual, { maxTokens: 12, eosIds: [end] }), all.slice(0, first))
      assert.equal(await ids(model, visual, { maxTokens: 12, eosIds: [all[0]!, end] }), [], 'any of several, at once')
      assert.is((await ids(model, visual, {})).length, 64, '64 where nothing is said')
    })
  })

  test(`${kind}: it ends where the positions of the language model do`, async () => {
    await scope(async () => {
      const visual = visualTokens(2)
      const limit = model.native.config.language.maxPositions
      const long = Array.from({ length: limit - 5 - 2 }, (_, i) => 3 + (i % 90))
      const out = await ids(model, visual, { maxTokens: 50 }, long)
      // The two positions left are fed; what follows the last of them needs none.
      assert.is(out.length, 3)
      assert.is(out[2], await next(model, visual, [...long, ...out.slice(0, 2)]))
      assert.equal(
        await ids(model, visual, { maxTokens: 50 }, [...long, 9, 9]).then((o) => o.length),
        1,
        'a prompt that fills them',
      )
      try {
        await ids(model, visual, { maxTokens: 50 }, [...long, 9, 9, 9])
        assert.unreachable('a prompt past the positions was taken')
      } catch (error) {
        assert.match(
          (error as Error).message,
          /^context: expected at most 96 tokens, the positions of the language model, but got "5 visual and 92 of the prompt"; use fewer frames/,
        )
      }
    })
  })

  test(`${kind}: an AbortSignal stops it with its reason, and the memory comes back however it ends`, async () => {
    const before = await settled()
    const visual = visualTokens(3)
    const held = await bytes()
    const controller = new AbortController()
    const seen: number[] = []
    try {
      for await (const id of generate(model.native, visual, prompt, { maxTokens: 40, signal: controller.signal })) {
        seen.push(id)
        if (seen.length === 3) controller.abort(new Error('enough'))
      }
      assert.unreachable('it went on')
    } catch (error) {
      assert.is((error as Error).message, 'enough')
    }
    assert.is(seen.length, 3)
    assert.is(await bytes(), held, 'aborted')
    for await (const _ of generate(model.native, visual, prompt, { maxTokens: 40 })) break
    assert.is(await bytes(), held, 'left by the reader')
    visual.dispose()
    assert.is(await bytes(), before)
  })
}

test('visual tokens of more than one sample are refused', async () => {
  const { native } = await openTiny('blip2', 21)
  await scope(async () => {
    const two = float32(array([2, 5, 30]))
    try {
      for await (const _ of generate(native, two, prompt)) break
      assert.unreachable('it took two')
    } catch (error) {
      assert.match((error as Error).message, /visual: expected visual tokens \[1,V,D\] of one sample/)
    }
  })
  native.dispose()
})

test.run()
