// Generation on a CUDA device (MT_ADDON: the emulator's addon) gives the CPU's answers, token by token, with graphs and
// without.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { Decoder } from '../../lib/session/decoding.js'
import { generate } from '../../lib/session/generate.js'
import { loadImageModel } from '../../lib/session/checkpoint.js'
import type { ImageModel } from '../../lib/models/image-model.js'
import { embedTokens, tokenTensor } from '../../lib/models/decoder.js'
import { native } from '../../lib/native.js'
import { argmax } from '../../lib/ops/argmax.js'
import { cacheAppend } from '../../lib/ops/cache-append.js'
import { cast, copy, full } from '../../lib/ops/copy.js'
import { concat } from '../../lib/ops/views.js'
import { devices } from '../../lib/tensor/device.js'
import { deviceMemory, memory, sync } from '../../lib/tensor/runtime.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { random } from '../oracle/random.js'
import { tinyCheckpoint, writeTiny } from '../oracle/tiny.js'
import { settled } from '../support/memory.js'
import { temporaryFolder } from '../support/tiny.js'

const { cuda } = devices()
const test = cuda.devices.length ? plain : plain.skip
if (!cuda.devices.length) console.error(`test/cuda/decode: skipped, since ${cuda.reason}`)

const precisions = ['float32', 'bfloat16'] as const
const normal = (shape: readonly number[], seed: number, device: 'cpu' | 'cuda:0'): Tensor => {
  const r = random(seed)
  return tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => r.normal()),
    shape,
    'float32',
    device,
  )
}

test("T5: answers are the CPU's, by beam search too, and memory returns", async () => {
  const folder = temporaryFolder('decode')
  writeTiny(folder, tinyCheckpoint('instructblip-t5', 21))
  const before = [await settled(), deviceMemory('cuda:0').bytes]
  const [there, here] = [await loadImageModel(folder, { device: 'cuda' }), await loadImageModel(folder)]
  for (const options of [{ maxTokens: 12 }, { maxTokens: 6, beams: 3, eosIds: [5, 7] }]) {
    const [expected, actual] = await Promise.all(
      [here, there].map((model) =>
        scope(async () => {
          const ids: number[] = []
          const visual = normal([1, 5, 30], 3, model.device as 'cpu')
          for await (const id of generate(model, visual, [4, 9, 33, 60, 1], options)) ids.push(id)
          return ids
        }),
      ),
    )
    assert.ok(expected!.length > 0)
    assert.equal(actual, expected)
  }
  there.dispose()
  here.dispose()
  assert.equal([await settled(), deviceMemory('cuda:0').bytes], before)
})

for (const kind of ['instructblip', 'blip2'] as const) {
  const folder = temporaryFolder('decode')
  plain.before(() => writeTiny(folder, tinyCheckpoint(kind, 21)))
  const answer = (
    model: ImageModel,
    seed: number,
    prompt: readonly number[],
    maxTokens: number,
    graphs = true,
  ): Promise<number[]> =>
    scope(async () => {
      const ids: number[] = []
      for await (const id of generate(
        model,
        cast(normal([1, 5, 30], seed, model.device as 'cpu'), model.precision),
        prompt,
        { maxTokens, graphs },
      ))
        ids.push(id)
      return ids
    })

  test(`${kind}: answers are the CPU's, as graphs and without; graphs are made once and used again`, async () => {
    const before = [await settled(), deviceMemory('cuda:0').bytes]
    const [there, here] = [await loadImageModel(folder, { device: 'cuda' }), await loadImageModel(folder)]
    const made = (): number => native().devices().counts?.['graphs'] ?? 0
    const start = made()
    // Lengths on both sides of 64 keys: two graphs suffice for all of them.
    for (const [seed, words, tokens] of [
      [1, 4, 80],
      [2, 50, 20],
      [3, 1, 64],
      [4, 60, 31],
    ] as const) {
      const prompt = Array.from({ length: words }, (_, i) => 3 + ((i * 7) % 60))
      const expected = await answer(here, seed, prompt, tokens)
      assert.is(expected.length, tokens)
      assert.equal(await answer(there, seed, prompt, tokens), expected)
      assert.equal(await answer(there, seed, prompt, tokens, false), expected)
    }
    if (cuda.emulated) assert.is(made() - start, 2)
    await sync()
    there.dispose()
    here.dispose()
    await sync()
    assert.equal([memory().bytes, deviceMemory('cuda:0').bytes], before, 'memory returns with the model')
  })

  test(`${kind}: two answers at a time, and rows side by side with padding on their left`, async () => {
    const model = await loadImageModel(folder, { device: 'cuda' })
    const prompts = [
      [1, 17, 23, 5, 9, 30],
      [1, 8],
    ]
    const alone = [await answer(model, 5, prompts[0]!, 40), await answer(model, 6, prompts[1]!, 40)]
    // Interleaved generations, each with its own cache.
    const streams = [5, 6].map((seed, i) =>
      generate(model, cast(normal([1, 5, 30], seed, 'cuda:0'), model.precision), prompts[i]!, { maxTokens: 40 }),
    )
    const taken: number[][] = [[], []]
    for (let i = 0; i < 40; i++)
      for (const [j, s] of streams.entries()) taken[j]!.push((await s.next()).value as number)
    for (const s of streams) await s.return('stop')
    assert.equal(taken, alone)

    for (const graphs of [true, false]) {
      const decoder = Decoder.of(model, { rows: 2, limit: 60, graphs })
      const [n, ids] = [5 + prompts[0]!.length, [[], []] as number[][]]
      const mask = new Uint8Array(2 * n).fill(1)
      mask.fill(0, n, n + prompts[0]!.length - prompts[1]!.length)
      const padded = Int32Array.from([...prompts[0]!, 0, 0, 0, 0, ...prompts[1]!])
      const take = (next: Int32Array): void => next.forEach((id, r) => void ids[r]!.push(id))
      // The second row: padding, its visual rows, its prompt.
      take(
        await scope(() =>
          noGrad(() => {
            const words = embedTokens(model.language, tokenTensor(padded, 2, 'cuda:0'), model.precision)
            const part = (r: number, from: number, count: number): Tensor =>
              copy(words.view([1, count, 30], words.strides, (r * 6 + from) * 30))
            const rows = [
              [normal([1, 5, 30], 5, 'cuda:0'), part(0, 0, 6)],
              [part(1, 0, 4), normal([1, 5, 30], 6, 'cuda:0'), part(1, 4, 2)],
            ].map((parts) => concat(parts, 1))
            return decoder.begin(concat(rows, 0), mask)
          }),
        ),
      )
      while (ids[0]!.length < 40) take(await decoder.next())
      assert.equal(ids, alone)
      decoder.release()
    }
    model.dispose()
    await sync()
  })

  for (const weights of ['stored', 'int8', 'nf4'] as const)
    test(`${kind} in bfloat16, weights ${weights}: a graph gives what its launches give one by one, and so does a rerun`, async () => {
      const model = await loadImageModel(folder, {
        device: 'cuda',
        precision: 'bfloat16',
        weights,
        weightsCache: false,
      })
      const tokens = weights === 'stored' ? 70 : 12
      const [a, b, c] = [
        await answer(model, 7, [1, 9, 4], tokens),
        await answer(model, 7, [1, 9, 4], tokens),
        await answer(model, 7, [1, 9, 4], tokens, false),
      ]
      assert.is(a.length, tokens)
      assert.equal(a, b)
      assert.equal(a, c)
      model.dispose()
      await sync()
    })
}

test("argmax and cacheAppend in both precisions give the CPU's bits; numbers that are not finite are no answer", async () => {
  await scope(async () => {
    for (const dtype of precisions) {
      const results = await Promise.all(
        (['cpu', 'cuda:0'] as const).map(async (device) => {
          const x = cast(normal([3, 5000], 1, device), dtype)
          const [keys, values] = [full([2, 9, 24], 0, dtype, device), full([2, 9, 24], 0, dtype, device)]
          const both = cast(normal([2, 3, 48], 2, device), dtype)
          // Keys and values in one tensor, the result of one product.
          cacheAppend(
            both.view([2, 3, 24], both.strides),
            both.view([2, 3, 24], both.strides, 24),
            tensor(Int32Array.of(4), [1], 'int32', device),
            keys,
            values,
          )
          return [
            [...((await argmax(x).data()) as Int32Array)],
            [...((await keys.data()) as Float32Array)],
            [...((await values.data()) as Float32Array)],
          ]
        }),
      )
      assert.equal(results[0], results[1])
      assert.ok(results[0]![1]!.some(Boolean))
    }
    for (const device of ['cpu', 'cuda:0'] as const) {
      const odd = tensor([1, NaN, 3, 4, 5, Infinity, 7, 8, 9, -1, -1, -2], [4, 3], 'float32', device)
      assert.equal([...((await argmax(odd).data()) as Int32Array)], [-1, -1, 2, 0])
    }
  })
})

test('a row outside the cache is named', async () => {
  for (const device of ['cpu', 'cuda:0'] as const) {
    for (const at of [-1, 3]) {
      const message = await scope(async () => {
        const [k, keys, values] = [
          full([1, 2, 8], 1, 'float32', device),
          full([1, 4, 8], 0, 'float32', device),
          full([1, 4, 8], 0, 'float32', device),
        ]
        cacheAppend(k, k, tensor(Int32Array.of(at), [1], 'int32', device), keys, values)
        return sync().then(
          () => 'nothing',
          (e: Error) => e.message,
        )
      })
      assert.match(message, `row ${at < 0 ? at : at + 1} is outside the cache's 4 rows`)
    }
  }
})

plain.run()
