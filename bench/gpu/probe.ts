/**
 * Stage `probe`: which lane owns which element of the operands of mma and ldmatrix, and one small product in bfloat16.
 * Every kernel with tensor cores is built on that; if it fails, no other row is valid.
 */
import { native } from '../../lib/native.js'
import { cast } from '../../lib/ops/copy.js'
import { linear } from '../../lib/ops/linear.js'
import { deviceId } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { widen } from '../../test/ops/support.js'
import { attempt, gpu, save } from './record.js'
import { finish } from './workers.js'

const { device, emulated } = gpu()
const rows = [
  await attempt('fragments of the tensor cores', () => {
    const { found, expected } = native().instruments.fragments(deviceId(device))
    const wrong = expected.findIndex((x, i) => x !== found[i])
    if (wrong >= 0 || found.length !== expected.length)
      throw new Error(`element ${wrong} of ${expected.length}: ${found[wrong]}, the manual has ${expected[wrong]}`)
    return { elements: expected.length }
  }),
  await attempt('a product of 40 by 48 by 64, exact in bfloat16', () =>
    scope(() => {
      // Whole numbers whose sums float32 holds and bfloat16 rounds the same everywhere.
      const [m, n, k] = [40, 48, 64]
      const [x, w] = [
        Float32Array.from({ length: m * k }, (_, i) => ((i * 7) % 5) - 2),
        Float32Array.from({ length: n * k }, (_, i) => ((i * 11) % 3) - 1),
      ]
      const y = linear(
        cast(tensor(x, [m, k], 'float32', device), 'bfloat16'),
        cast(tensor(w, [n, k], 'float32', device), 'bfloat16'),
      )
      const got = widen(y.dataBlocking(), y.dtype)
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) {
          let sum = 0
          for (let p = 0; p < k; p++) sum += x[i * k + p]! * w[j * k + p]!
          if (got[i * n + j] !== sum) throw new Error(`element ${i}, ${j} is ${got[i * n + j]}, expected ${sum}`)
        }
      return { elements: m * n }
    }),
  ),
]
save({ emulated, rows })
finish(rows, rows.map((r) => r.id).join(' · '))
