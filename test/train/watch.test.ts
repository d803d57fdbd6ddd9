import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Watch } from '../../lib/train/watch.js'

const test = suite('watch')

/** Lines that a watch with almost no patience says until there are `n` of them. */
function lines(n: number, during: (watch: Watch, count: number) => void = () => {}): Promise<string[]> {
  return new Promise((resolve) => {
    const said: string[] = []
    const alive = setInterval(() => {}, 1000) // the watch itself keeps no process alive
    const watch: Watch = new Watch(
      () => `step ${said.length}`,
      0.0005,
      (line) => {
        said.push(line)
        during(watch, said.length)
        if (said.length < n) return
        watch.stop()
        clearInterval(alive)
        resolve(said)
      },
    )
  })
}

test('without progress a line says so, again and again, with what the run is at', async () => {
  const said = await lines(3)
  for (const [i, line] of said.entries())
    assert.match(line, new RegExp(`^training: no progress for [\\d.]+ minutes; it is at step ${i}\\.$`))
})

test('progress delays the line, and nothing is printed after the end', async () => {
  const said: string[] = []
  const watch = new Watch(
    () => 'step 1',
    0.01,
    (line) => void said.push(line),
  )
  for (let i = 0; i < 20; i++) {
    await new Promise((r) => setTimeout(r, 50))
    watch.ended()
  }
  watch.stop()
  await new Promise((r) => setTimeout(r, 700))
  assert.equal(said, [])
})

test.run()
