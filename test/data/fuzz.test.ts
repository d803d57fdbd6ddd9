import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { fuzz, summary } from './fuzz.js'

const test = suite('damaged videos')

test('200 of them: pictures or one sentence each, no crash, and memory that does not grow', async () => {
  const result = await fuzz(200, 7, 60)
  assert.equal(result.faults, [])
  assert.is(result.crashes, 0)
  assert.is(result.pictures + result.refused, 200)
  assert.ok(result.pictures >= 40 && result.refused >= 40, summary(result))
  const { here, there } = result.memory
  assert.ok(here[1] < here[0] + 100 && there[1] < there[0] + 300, summary(result))
})

test.run()
