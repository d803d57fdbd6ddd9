// The formulas of docs/model.md#cost against the figures on that page, and against counts by loops.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import {
  blockFlops,
  coreFlops,
  crossover,
  languageFlops,
  publishedModels,
  qformerFlops,
  scoreProducts,
  trainedCount,
  videoCost,
} from '../../bench/cost.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import type { LlamaConfig } from '../../lib/models/llama.js'

const full = parseModelConfig({
  model_type: 'instructblip',
  vision_config: {},
  text_config: { model_type: 'llama', vocab_size: 32001 },
})
const llama = full.language as LlamaConfig

test('score products: pairs counted one by one, and the ratio T·L / (L + T) without text', () => {
  for (const [frames, queries, text] of [
    [3, 4, 2],
    [4, 5, 0],
    [1, 2, 3],
  ] as const) {
    // Tokens as [frame, index]; indices from `queries` on are text. Text in space is copied per frame, in joint it is
    // there once.
    let [space, time, joint] = [0, 0, 0]
    for (let t = 0; t < frames; t++) for (let i = 0; i < queries + text; i++) space += queries + text
    for (let l = 0; l < queries; l++) for (let t = 0; t < frames; t++) time += frames
    const all = frames * queries + text
    for (let i = 0; i < all; i++) joint += all
    assert.is(scoreProducts('factorized', { frames, queries, text }), space + time)
    assert.is(scoreProducts('joint', { frames, queries, text }), joint)
  }
  for (const T of [4, 8, 64]) {
    const ratio =
      scoreProducts('joint', { frames: T, queries: 32 }) / scoreProducts('factorized', { frames: T, queries: 32 })
    assert.ok(Math.abs(ratio - (T * 32) / (32 + T)) < 1e-12)
  }
})

test('the block: factorized takes fewer operations only from about 51 frames', () => {
  const at = (frames: number, text = 0) => ({ frames, queries: 32, text })
  assert.ok(Math.abs(blockFlops('joint', at(8), 768) / 1e9 - 1.41) < 0.005)
  assert.ok(Math.abs(blockFlops('factorized', at(8), 768) / 1e9 - 2.45) < 0.005)
  assert.is(crossover({ queries: 32 }, 768), 51) // T(L − 1) > 2D + L
  for (const T of [4, 8, 64])
    assert.ok(blockFlops('joint', at(T, 128), 768) < blockFlops('factorized', at(T, 128), 768))
  assert.is(crossover({ queries: 1 }, 768), undefined)
})

test('backward and LoRA add what they should', () => {
  const sizes = { frames: 8, queries: 32 }
  assert.is(coreFlops('joint', sizes, 768, 'forward+backward'), 3.5 * coreFlops('joint', sizes, 768))
  const [plain, low] = [blockFlops('factorized', sizes, 768), blockFlops('factorized', sizes, 768, 'forward', 16)]
  assert.is(low - plain, 2 * (2 * 2 * 512 * 16 * 768)) // q and v, each two products of 512 rows
  assert.is(blockFlops('factorized', { ...sizes, videos: 3 }, 768), 3 * plain)
})

test('Q-Former and language model at full size', () => {
  const sizes = { videos: 2, frames: 4, queries: 32, text: 32, imageTokens: 257 }
  const forward = qformerFlops(full.qformer, sizes, { rank: 16 })
  const unread = 4 * 2 * 4 * 32 * 768 * 3072 // the text path of the last layer
  assert.ok(Math.abs((forward + unread) / 162.7e9 - 1) < 0.001, `${forward}`)
  const more = qformerFlops(full.qformer, sizes, { pass: 'forward+backward', rank: 16 }) - forward
  assert.ok(Math.abs(more / 113.7e9 - 1) < 0.05, `${more}`)
  assert.ok(qformerFlops(full.qformer, { ...sizes, text: 0 }) < forward)
  assert.ok(qformerFlops(full.qformer, sizes, { form: 'joint', rank: 16 }) < forward)
  // 100 tokens of a LLaMA of 7 B: 1.32 TFLOP with the output matrix for all, of which 26 G are the matrix.
  assert.ok(Math.abs(languageFlops(llama, 100, { rows: 100 }) / 1.32e12 - 1) < 0.02)
  assert.is(languageFlops(llama, 100, { batch: 2 }), 2 * languageFlops(llama, 100))
})

test('Table VI: 32 visual tokens whatever the frames, and 2,499,126 trained parameters', () => {
  const ours = publishedModels.find((m) => m.name === 'MTransLLAMA')!
  const theirs = publishedModels.filter((m) => m !== ours)
  assert.is(theirs.length, 6)
  for (const frames of [4, 8, 64]) {
    const mine = videoCost(ours, { frames, queries: 32 }, llama, 64)
    assert.is(mine.visualTokens, 32)
    for (const m of theirs) {
      const cost = videoCost(m, { frames, queries: 32 }, llama, 64)
      assert.is(cost.visualTokens, 32 * frames)
      assert.ok(cost.languageFlops > mine.languageFlops && cost.scores > mine.scores)
    }
  }
  assert.is(trainedCount(full, parseAdapterConfig({})), 2_499_126)
})

test.run()
