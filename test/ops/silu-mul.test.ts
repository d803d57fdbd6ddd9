// bfloat16, whose gate is computed by vectors, on every instruction set; cases.ts has float32.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { LEVELS } from '../support/levels.js'

const program = fileURLToPath(new URL('silu-mul.ts', import.meta.url))
for (const level of LEVELS)
  test(`${level}: siluMul and its gradients in bfloat16 are those of float64, rounded`, () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', program], {
      env: { ...process.env, MT_CPU: level },
      encoding: 'utf8',
    })
    assert.is(status, 0, stderr)
    assert.equal(JSON.parse(stdout), [])
  })

test.run()
