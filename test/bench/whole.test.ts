// The whole model beside transformers and PEFT, at a tiny size: what is measured is the same computation, and the page
// is that of the committed result. No time is checked; without Python's packages, ours alone runs.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { findPython, measure, tinySize } from '../../bench/whole/main.js'
import { newest, page } from '../../scripts/docs/peers.js'
import { temporaryFolder } from '../support/tiny.js'

const found = findPython()
if ('reason' in found)
  console.error(`test/bench/whole.test.ts: SKIPPED, nothing is compared with transformers: ${found.reason}`)

test('ours and, where it is there, the peer: tokens, steps and losses of one checkpoint', async () => {
  const run = await measure({
    dtype: 'float32',
    threads: 1,
    rounds: 1,
    contenders: ['mtransllama', 'same', 'transformers'],
    folder: temporaryFolder('whole'),
    config: tinySize('float32'),
  })
  const [ours, same, peer] = run.samples
  for (const { ask, train } of run.samples) {
    assert.is(ask!.answer.length, ask!.tokenSeconds.length + 1)
    assert.is(train!.stepSeconds.length, train!.losses.length)
    assert.ok(train!.losses.every(Number.isFinite))
    assert.not.equal(train!.losses[0], train!.losses.at(-1), 'steps change what is trained')
    for (const { peakBytes } of [ask!, train!]) assert.ok(peakBytes > 2 ** 24)
  }
  assert.not.equal(ours!.train!.losses[0], same!.train!.losses[0], 'they are two computations')
  assert.equal(run.missing.length, 'reason' in found ? 1 : 0)
  if ('reason' in found) return assert.is(run.samples.length, 2)
  const apart = Math.abs(same!.train!.losses[0]! / peer!.train!.losses[0]! - 1)
  assert.ok(apart <= 1e-4, `first losses differ by ${apart}`)
  assert.equal(same!.ask!.answer, peer!.ask!.answer)
  // LoRA's queries and values of the spatial and cross-attention; ours has positions too.
  const { frame, query } = { frame: 64 * 32, query: 32 * 32 }
  assert.is(same!.train!.trained - peer!.train!.trained, frame + query)
})

test('docs/peers.md is what the committed result gives', () => {
  const path = fileURLToPath(new URL('../../docs/peers.md', import.meta.url))
  assert.is(readFileSync(path, 'utf8'), page(newest()!))
})

test.run()
