// Weights in 8 and 4 bits on a CUDA device (MT_ADDON: the emulator's addon): the CPU's bytes and numbers, from the file of
// the last time as well; rows of a matrix; no copy of it in numbers. Products are cases of operators.test.ts.
import { join } from 'node:path'
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'
import { cast, full } from '../../lib/ops/copy.js'
import { linear } from '../../lib/ops/linear.js'
import { dequantize, quantize } from '../../lib/ops/quantize.js'
import { narrow } from '../../lib/ops/views.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { devices } from '../../lib/tensor/device.js'
import { deviceMemory, resetPeak, sync } from '../../lib/tensor/runtime.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { Tensor } from '../../lib/tensor/tensor.js'
import { relativeError } from '../oracle/array.js'
import { settled } from '../support/memory.js'
import { draw, numbers } from '../ops/frozen.js'
import { matrix } from '../ops/quantised.js'
import { upload } from '../ops/support.js'
import { temporaryFolder } from '../support/tiny.js'
import { writeCheckpoint } from '../support/world.js'

const { cuda } = devices()
const test = cuda.devices.length ? plain : plain.skip
if (!cuda.devices.length) console.error(`test/cuda/quantised: skipped, since ${cuda.reason}`)
const device = 'cuda:0'
const both = ['int8', 'nf4'] as const
const bytes = (t: Tensor): Uint8Array => t.dataBlocking() as Uint8Array

test("quantize() of weights on a device gives the CPU's bytes there, and dequantize() its bits", () =>
  scope(() => {
    for (const dtype of both)
      for (const [n, k] of [
        [64, 256],
        [7, 130],
        [5, 129],
        [1, 1],
      ] as const) {
        const w = upload(matrix(n, k, 'bfloat16'))
        const here = quantize(w, dtype)
        for (const there of [
          quantize(w.to(device), dtype),
          here.to(device),
          new Tensor(native().upload(bytes(here), here.shape, dtype), here.shape, dtype).to(device),
        ]) {
          assert.is(there.device, device)
          assert.equal(bytes(there), bytes(here), `${dtype} ${n}×${k}`)
          const there32 = dequantize(there)
          assert.is(there32.device, device)
          assert.equal(numbers(there32), numbers(dequantize(here)), `${dtype} ${n}×${k}`)
        }
      }
  }))

test('rows of several weights that were quantised as one are multiplied as they are', () =>
  scope(() => {
    const parts = [64, 128, 5].map((n) => upload(matrix(n, 256, 'float32')))
    for (const dtype of both) {
      const here = quantize(parts, dtype)
      const there = here.to(device).freeze()
      for (const rows of [3, 20]) {
        const x = upload(draw('x', [rows, 256], 'float32'), 'contiguous', device)
        const y = numbers(linear(x, there))
        for (const [from, n] of [
          [0, 64],
          [64, 128],
          [192, 5],
        ] as const) {
          const some = numbers(linear(x, narrow(there, 0, from, n)))
          const expected = Float32Array.from(
            { length: rows * n },
            (_, i) => y[Math.floor(i / n) * 197 + from + (i % n)]!,
          )
          assert.ok(relativeError(some, expected) < 1e-6, `${dtype}, ${rows} rows, from ${from}`)
        }
      }
    }
  }))

for (const weights of both)
  test(`a model with ${weights} weights: the CPU's bytes on the device, made once and found again`, async () => {
    const root = temporaryFolder('quantised-cuda')
    await writeCheckpoint(root)
    const weightsCache = join(root, 'cache')
    const opened = async (device: 'cpu' | 'cuda'): Promise<{ held: Map<string, Buffer>; said: string }> => {
      const { model, notes } = await openCheckpoint(root, { device, weights, weightsCache })
      const held = new Map<string, Buffer>()
      for (const [name, t] of model.weights)
        if (t.dtype === weights && !/\.([qkv]|gate|up)_proj\./.test(name)) held.set(name, Buffer.from(bytes(t)))
      model.dispose()
      return { held, said: notes.join() }
    }
    const there = await opened('cuda')
    assert.match(there.said, new RegExp(`quantised as ${weights}, and kept in`))
    assert.ok(there.held.size > 5)
    for (const device of ['cuda', 'cpu'] as const) {
      const again = await opened(device)
      assert.not.match(again.said, /quantised/)
      assert.equal(again.held, there.held, device)
    }
  })

test('a product takes the memory of its result, not that of the numbers of the matrix', async () => {
  // Sizes at which the sums are not cut into pieces, which would be kept as well.
  for (const dtype of both)
    for (const [rows, n, k, way] of [
      [1, 256, 2048, 'forward'],
      [9, 2048, 64, 'forward'],
      [9, 64, 2048, 'backward'],
    ] as const)
      for (const precision of ['float32', 'bfloat16'] as const)
        await scope(async () => {
          const x = full([rows, k], 1, precision, device).detach()
          const input = cast(full([rows, k], 1, 'float32', device).requireGrad(), precision)
          const dy = full([rows, n], 1, precision, device)
          const w = quantize(full([n, k], 0.5), dtype)
            .to(device)
            .freeze()
          const y = way === 'backward' && linear(input, w)
          await settled()
          const before = deviceMemory(device).bytes
          resetPeak(device)
          scope(() => void (y ? backward(y, dy) : linear(x, w)))
          await sync()
          const taken = deviceMemory(device).peak - before
          const result = rows * (y ? k : n) * 4
          // Gradients of both precisions; blocks of an allocator are somewhat larger than what is asked for.
          const most = 3 * result + 8192
          assert.ok(
            taken <= most && most < n * k * 2,
            `${dtype}, ${rows} rows to ${n}×${k}, ${way}: ${taken} of ${most}`,
          )
        })
})

plain.run()
