// Runs that are killed at random moments and resumed end with the bits of one that was not; `npm run kill` kills 200.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Killer } from './kill.js'

let killer: Killer
test.before(async () => {
  killer = await Killer.make(5)
})

test('five kills, and three with files cut as by a power loss', async () => {
  for (const outcome of [
    await killer.kills('killed', 5, 3),
    await killer.kills('cut', 3, 3, (output) => killer.cut(output)),
  ]) {
    assert.is(outcome.different, 0, JSON.stringify(outcome))
    assert.ok(outcome.events >= 3)
  }
})

test('a disk that refuses writes for a while', async () => {
  const limited = await killer.limited(2)
  if (limited) {
    assert.is(limited.different, 0)
    assert.is(limited.events, 2)
    assert.ok(limited.within > 0, 'a save failed')
  } else console.log('SKIP: there is no prlimit here, so no write is refused')
  const full = await killer.full(1)
  if (full) assert.is(full.different, 0)
  else console.log('SKIP: no tmpfs can be mounted here, so no disk is really filled')
})

test.run()
