// Generation: the cache does not change the answer, every end condition ends it, tokens are drawn by their
// probability, and beam search finds the likeliest answer.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { InputError } from '../../lib/errors.js'
import { beamSearch } from '../../lib/session/beam.js'
import { Chooser, choosing, logSoftmax, type ChooseOptions } from '../../lib/session/choose.js'
import { generate, type GenerateOptions } from '../../lib/session/generate.js'
import { Decoder } from '../../lib/session/decoding.js'
import { embedTokens, logits } from '../../lib/models/decoder.js'
import type { TextRows } from '../../lib/models/image-model.js'
import { concat, narrow } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { array } from '../oracle/array.js'
import { random } from '../oracle/random.js'
import { bytes, settled } from '../support/memory.js'
import { type Both, float32, openTiny } from '../support/tiny.js'

const prompt = [1, 17, 23, 5]

/** The prompt and the answer so far as a model reads them. */
function textOf({ oracle }: Both, prompt: readonly number[], answer: readonly number[]): TextRows {
  const { t5 } = oracle.config.language
  const ids = Int32Array.from(t5 ? prompt : [...prompt, ...answer])
  const mask = new Uint8Array(ids.length).fill(1)
  return { rows: 1, ids, mask, ...(t5 && { decoder: Int32Array.of(t5.start, ...answer) }) }
}

for (const kind of ['instructblip', 'blip2', 'instructblip-t5'] as const) {
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
  /** The scores of the next id, from the whole sequence at once. */
  const scoresOf = (model: Both, visual: Tensor, words: readonly number[], answer: readonly number[]) =>
    scope(() =>
      noGrad(async () => {
        const { native } = model
        const hidden = native.hidden(visual, textOf(model, words, answer))
        return (await logits(native.language, narrow(hidden, 1, hidden.dim(1) - 1, 1)).data()) as Float32Array
      }),
    )
  const next = async (...asked: Parameters<typeof scoresOf>): Promise<number> => {
    const scores = await scoresOf(...asked)
    return scores.indexOf(Math.max(...scores))
  }

  test(`${kind}: the cache gives the ids that the whole sequence gives`, async () => {
    const answers = new Set<string>()
    for (const seed of [1, 2, 3]) {
      await scope(async () => {
        const visual = visualTokens(seed)
        const cached = await ids(model, visual, { maxTokens: 12 })
        const answer: number[] = []
        for (let i = 0; i < 12; i++) answer.push(await next(model, visual, prompt, answer))
        assert.equal(cached, answer)
        assert.equal(await ids(model, visual, { maxTokens: 12 }), cached, 'a second time')
        answers.add(`${cached}`)
      })
    }
    assert.ok(answers.size > 1, 'the frames matter')
  })

  test(`${kind}: beam search over the cache finds what it finds over whole sequences`, async () => {
    const options = { beams: 3, lengthPenalty: 1, repetitionPenalty: 1, maxTokens: 8, eosIds: [5, 7, 11] }
    await scope(async () => {
      const visual = visualTokens(4)
      let rows: number[][] = [[], [], []]
      const all = async (): Promise<Float32Array> => {
        const scores = await Promise.all(rows.map((answer) => scoresOf(model, visual, prompt, answer)))
        return Float32Array.from(scores.flatMap((s) => [...s]))
      }
      const whole = await beamSearch(
        {
          begin: all,
          next: (ids, parents) => {
            rows = parents.map((parent, r) => [...rows[parent]!, ids[r]!])
            return all()
          },
        },
        { ...options, prompt: [], check: () => {} },
      )
      assert.equal(await ids(model, visual, options), whole.ids)
    })
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
      if (kind.endsWith('t5')) {
        // An encoder reads the prompt, so that all positions are the answer's.
        assert.is((await ids(model, visual, { maxTokens: 200 })).length, limit)
        const full = Array.from({ length: limit - 5 }, () => 9)
        assert.is((await ids(model, visual, { maxTokens: 3 }, full)).length, 3)
        return assert.match(
          await ids(model, visual, { maxTokens: 3 }, [...full, 9]).then(String, (error: Error) => error.message),
          /^context: expected at most 96 tokens, the positions of the language model, but got "5 visual and 92 of the/,
        )
      }
      const long = Array.from({ length: limit - 5 - 2 }, (_, i) => 3 + (i % 90))
      const out = await ids(model, visual, { maxTokens: 50 }, long)
      // The two positions left are fed; what follows the last of them needs none.
      assert.is(out.length, 3)
      assert.is(out[2], await next(model, visual, long, out.slice(0, 2)))
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

test('T5: prompts of one batch, padded on the right, have the answers that each has alone', async () => {
  const { native, oracle } = await openTiny('blip2-t5', 21)
  const prompts = [prompt, [9, 30, 31, 32, 33, 34, 35]]
  const most = Math.max(...prompts.map((p) => p.length))
  await scope(() =>
    noGrad(async () => {
      const visual = float32({ shape: [2, 5, 30], data: array([300]).data.map((_, i) => Math.sin(i * i)) })
      const ids = Int32Array.from(prompts.flatMap((p) => [...p, ...new Array<number>(most - p.length).fill(17)]))
      const mask = Uint8Array.from(
        prompts.flatMap((p) => Array.from({ length: 5 + most }, (_, i) => +(i < 5 + p.length))),
      )
      const words = embedTokens(native.language, tensor(ids, [2, most]), 'float32')
      const decoder = Decoder.of(native, { rows: 2, limit: 8 })
      const steps = [[...(await decoder.begin(concat([visual, words], 1), mask))]]
      while (steps.length < 8) steps.push([...(await decoder.next())])
      decoder.release()
      for (const [r, words] of prompts.entries()) {
        const alone: number[] = []
        for await (const id of generate(native, narrow(visual, 0, r, 1), words, { maxTokens: 8 })) alone.push(id)
        assert.equal(
          steps.map((ids) => ids[r]),
          alone,
          `prompt ${r}`,
        )
      }
      assert.ok(oracle.config.language.t5)
    }),
  )
  native.dispose()
})

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

test('a drawn answer depends on its seed alone; without temperature, and by one beam, it is the greedy one', async () => {
  const model = await openTiny('instructblip', 22)
  try {
    const rng = random(9)
    const visual = float32({ shape: [1, 5, 30], data: array([150]).data.map(() => rng.normal()) })
    const ids = async (options: GenerateOptions): Promise<string> => {
      const out: number[] = []
      for await (const id of generate(model.native, visual, prompt, { maxTokens: 12, ...options })) out.push(id)
      return `${out}`
    }
    const greedy = await ids({})
    assert.is(await ids({ temperature: 0, topP: 0.5, seed: 3, beams: 1, lengthPenalty: 5 }), greedy)
    assert.is(await ids({ temperature: 0.001, seed: 1 }), greedy, 'almost no temperature')
    assert.is(await ids({ temperature: 5, topP: 1e-6 }), greedy, 'the likeliest token alone')
    const drawn = await ids({ temperature: 1, seed: 1 })
    assert.is(await ids({ temperature: 1, seed: 1 }), drawn)
    assert.is.not(await ids({ temperature: 1, seed: 2 }), drawn)
    // A penalty that forbids to repeat: all tokens differ, and none is of the prompt.
    const once = (await ids({ repetitionPenalty: 1e9 })).split(',')
    assert.is(new Set([...once, ...prompt.map(String)]).size, 12 + prompt.length)
    // Several beams find an answer that is at least as likely as the greedy one.
    const likelihood = (answer: string): Promise<number> =>
      scope(() =>
        noGrad(async () => {
          const words = answer.split(',').map(Number)
          const text = [...prompt, ...words]
          const hidden = model.native.hidden(visual, {
            rows: 1,
            ids: Int32Array.from(text),
            mask: new Uint8Array(text.length).fill(1),
          })
          const first = hidden.dim(1) - words.length - 1
          const before = narrow(hidden, 1, first, words.length)
          const scores = (await logits(model.native.language, before).data()) as Float32Array
          const V = scores.length / words.length
          return words.reduce((sum, id, i) => sum + logSoftmax(scores.subarray(i * V, (i + 1) * V))[id]!, 0)
        }),
      )
    const best = await ids({ beams: 6 })
    assert.is(await ids({ beams: 6 }), best)
    assert.ok((await likelihood(best)) >= (await likelihood(greedy)) - 1e-4)
    visual.dispose()
  } finally {
    model.native.dispose()
  }
})

test('tokens are drawn as often as they are likely', async () => {
  const scores = Float32Array.of(1, 0, -1, 0.5, -8)
  const draws = 4000
  const chooser = new Chooser(choosing({ temperature: 0.8, topP: 0.9, seed: 4 }), draws)
  const counts = new Array<number>(scores.length).fill(0)
  for (let i = 0; i < draws; i++) counts[await chooser.choose(scores.slice(), [])]!++
  // softmax(scores / 0.8), cut to the likeliest three: two have less than 0.9 together.
  const e = [1, 0, 0.5].map((s) => Math.exp(s / 0.8))
  const sum = e.reduce((a, b) => a + b)
  const expected = [e[0]! / sum, e[1]! / sum, 0, e[2]! / sum, 0]
  for (const [id, p] of expected.entries())
    assert.ok(Math.abs(counts[id]! / draws - p) < 4 * Math.sqrt((p * (1 - p)) / draws) + 1e-9, `${id}: ${counts}`)
})

test('beam search with room for every answer finds the best of all, whatever ends them', async () => {
  const V = 3
  for (let seed = 1; seed <= 30; seed++) {
    // Scores of a row depend on all of its tokens.
    const scoresOf = (ids: readonly number[]): Float32Array => {
      const rng = random(seed * 1000 + ids.reduce((n, id) => 4 * n + id + 1, 0))
      return Float32Array.from({ length: V }, () => 2 * rng.normal())
    }
    const beams = 27
    let rows: number[][] = []
    const all = (): Float32Array => Float32Array.from(rows.flatMap((row) => [...scoresOf(row)]))
    const options = { beams, repetitionPenalty: 1, maxTokens: 3, eosIds: [0], prompt: [], check: () => {} }
    for (const lengthPenalty of [0, -1]) {
      rows = Array.from({ length: beams }, () => [])
      const { ids, isStopped } = await beamSearch(
        {
          begin: async () => all(),
          next: async (next, parents) => {
            rows = parents.map((parent, r) => [...rows[parent]!, next[r]!])
            return all()
          },
        },
        { ...options, lengthPenalty },
      )
      let best = { score: -Infinity, text: '' }
      const walk = (before: number[], score: number): void => {
        const logs = logSoftmax(scoresOf(before))
        for (let id = 0; id < V; id++) {
          const [text, sum] = [[...before, id], score + logs[id]!]
          if (id !== 0 && text.length < 3) walk(text, sum)
          else if (sum / text.length ** lengthPenalty > best.score)
            best = { score: sum / text.length ** lengthPenalty, text: `${text}` }
        }
      }
      walk([], 0)
      assert.is(`${[...ids, ...(isStopped ? [0] : [])]}`, best.text, `seed ${seed}, length penalty ${lengthPenalty}`)
    }
  }
})

test('options out of range are refused before anything is computed', () => {
  const cases: [ChooseOptions, RegExp][] = [
    [{ temperature: -1 }, /temperature: expected a number of at least 0/],
    [{ temperature: NaN }, /temperature/],
    [{ topP: 0 }, /topP: expected a number above 0, at most 1/],
    [{ topP: 1.1 }, /topP/],
    [{ seed: 1.5 }, /seed: expected a whole number/],
    [{ repetitionPenalty: 0 }, /repetitionPenalty: expected a number above 0/],
    [{ beams: 0 }, /beams: expected a whole number from 1 to 64/],
    [{ lengthPenalty: Infinity }, /lengthPenalty: expected a number/],
    [{ beams: 2, temperature: 1 }, /temperature: expected none with beams/],
  ]
  for (const [options, message] of cases)
    assert.throws(
      () => choosing(options),
      (error: Error) => error instanceof InputError && message.test(error.message),
    )
})

test.run()
