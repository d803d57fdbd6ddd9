// Runs that are killed at random moments and resumed end with the bits of one that was not; `npm run kill` kills 200.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Killer } from './kill.js'

let killer: Killer
test.before(async () => {
  killer = await Killer.make(5)
})

test('five kills, and five with files cut as by a power loss', async () => {
  for (const outcome of [
    await killer.kills('killed', 5),
    await killer.kills('cut', 5, 5, (output) => killer.cut(output)),
  ]) {
    assert.is(outcome.different, 0, JSON.stringify(outcome))
    assert.is(outcome.events, 5)
  }
})

test('a disk that refuses writes for a while, and one that is filled and freed, five times each', async () => {
  const limited = await killer.limited(5, 3)
  if (limited) {
    assert.is(limited.different, 0, JSON.stringify(limited))
    assert.is(limited.events, 5)
    assert.ok(limited.within > 0, 'a save failed')
  } else console.log('SKIP: there is no prlimit here, so no write is refused')
  const full = await killer.full(5, 3)
  if (full) assert.equal([full.different, full.events], [0, 5], JSON.stringify(full))
  else console.log('SKIP: no tmpfs can be mounted here, so no disk is really filled')
})

test.run()
