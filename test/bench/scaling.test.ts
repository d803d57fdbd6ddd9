// What several ranks cost: the model of a step by hand, and the page as the committed result gives it.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { exchangeSeconds } from '../../bench/scaling/record.js'
import { checked, newest, page } from '../../scripts/docs/scaling.js'

test('the seconds of an exchange, by hand', () => {
  const link = { rate: 1e9, latency: 1e-5, add: 1e10 }
  assert.is(exchangeSeconds(1, 1e6, link), 0)
  // 3 rounds of 3 messages and two of 7; 7 eighths of 4 MB received twice; 4 MB added.
  assert.ok(Math.abs(exchangeSeconds(8, 1e6, link) - (23e-5 + 7e-3 + 0.4e-3)) < 1e-12)
})

test('docs/scaling.md is what the committed result gives', () => {
  const found = newest()!
  const path = fileURLToPath(new URL('../../docs/scaling.md', import.meta.url))
  assert.is(readFileSync(path, 'utf8'), page(found))
  const { measured, predicted } = checked(found.result)
  assert.ok(measured > 0 && predicted > 0)
})

test.run()
