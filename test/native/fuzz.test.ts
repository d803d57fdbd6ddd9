// Whatever JavaScript passes to the addon, it gets a result or one clear error: no crash, no hang. Seeded, in a process
// of its own. `node test/native/sanitize.mjs` runs the same under the address and undefined-behaviour sanitizers.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const rounds = process.env.MT_FUZZ_ROUNDS ?? '6'
for (const seed of (process.env.MT_FUZZ_SEEDS ?? '1,2').split(',')) {
  test(`every operator and function survives anything at all, seed ${seed}`, () => {
    const { status, signal, stdout, stderr } = spawnSync(
      process.execPath,
      ['--expose-gc', '--import', 'tsx', fileURLToPath(new URL('fuzz.ts', import.meta.url)), seed, rounds],
      {
        encoding: 'utf8',
        timeout: 300_000,
        env: { ...process.env, MT_MEMORY_LIMIT: String(256 << 20) },
      },
    )
    assert.is(signal, null, `killed by ${signal}: ${stderr.slice(-2000)}`)
    assert.is(status, 0, stderr.slice(-4000))
    const result = JSON.parse(stdout.trim().split('\n').at(-1)!) as {
      calls: number
      thrown: number
      rejected: number
      computed: number
      faults: string[]
    }
    assert.equal(result.faults, [])
    // Each of the three outcomes occurred many times.
    assert.ok(
      result.calls > 500 && result.thrown > 300 && result.rejected > 10 && result.computed > 100,
      JSON.stringify(result),
    )
  })
}

test.run()
