// The emulator and the kernels share one reading of the PTX manual. This test measures on the device which lane has which
// element of the operands of mma and ldmatrix, and compares it with that reading.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'
import { devices } from '../../lib/tensor/device.js'

const { cuda } = devices()
const test = cuda.devices.length ? plain : plain.skip
if (!cuda.devices.length) console.error(`test/cuda/fragments: skipped, since ${cuda.reason}`)

test("every element of the tensor cores' operands lies where the PTX manual says", () => {
  const { found, expected } = native().instruments.fragments(0)
  assert.ok(expected.length > 33_000)
  assert.is(found.length, expected.length)
  const wrong = found.findIndex((x, i) => x !== expected[i])
  assert.is(wrong, -1, `place ${wrong}: ${found[wrong]}, the manual has ${expected[wrong]}`)
})

plain.run()
