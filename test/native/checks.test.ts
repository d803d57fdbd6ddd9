// Arguments that lib never passes to an operator, but that a direct call may: each is rejected before anything is
// written.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'
import { full } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { sync } from '../../lib/tensor/runtime.js'
import { empty, tensor } from '../../lib/tensor/tensor.js'

const refused = (f: () => void, message: RegExp): void =>
  scope(() => assert.throws(f, (e: Error) => e instanceof TypeError && message.test(e.message)))

test('gate_backward: dg is float32, or four bytes would be written over one', () => {
  refused(() => {
    const [a, g] = [tensor([1, 2]), tensor([1])]
    const dg = tensor(new Uint8Array(64)).view([1], [1], 63)
    native().ops.gate_backward(a.handle, a.handle, a.handle, g.handle, empty([2]).handle, empty([2]).handle, dg.handle)
  }, /^gate_backward: dg: expected dtype float32, but got uint8/)
})

test('patchify: patches and channels whose product is no size', () => {
  refused(
    () => native().ops.patchify(empty([1, 1, 0, 0]).handle, 2 ** 40, empty([1, 0, 0]).handle),
    /^patchify: patch: expected 1 to 32768/,
  )
  refused(
    () => native().ops.patchify(empty([1, 2 ** 46, 0, 0]).handle, 2 ** 15, empty([1, 0, 0]).handle),
    /^patchify: pixels: expected fewer channels/,
  )
})

test('cross_entropy_backward: a label outside the classes fails in the queue, as it does forward', async () => {
  await scope(async () => {
    const [dloss, logits, lse, dlogits] = [tensor([1], []), tensor([1, 2, 3, 4], [2, 2]), tensor([0, 0]), empty([2, 2])]
    for (const label of [2, -1, 2 ** 30]) {
      native().ops.cross_entropy_backward(
        dloss.handle,
        logits.handle,
        tensor(Int32Array.of(0, label)).handle,
        lse.handle,
        -100,
        1,
        dlogits.handle,
      )
      const error = await sync().catch((e: Error) => e)
      assert.match((error as Error).message, /^cross_entropy_backward: label .* is outside the 2 classes/)
    }
  })
})

test('fill: integers hold integers', async () => {
  for (const value of [NaN, Infinity, 1e10, 1.5])
    refused(() => full([2], value, 'int32'), /^fill: value: expected an integer that int32 holds/)
  for (const value of [-1, 256])
    refused(() => full([2], value, 'uint8'), /^fill: value: expected an integer that uint8 holds/)
  await scope(async () => {
    assert.equal([...(await full([2], -7, 'int32').data())], [-7, -7])
    assert.equal([...(await full([1], 255, 'uint8').data())], [255])
    assert.ok(Number.isNaN(await full([], NaN).item()))
  })
})

test('accumulate: of many outputs none shares elements with another argument', async () => {
  await scope(async () => {
    const memory = full([100], 1)
    const piece = (start: number) => memory.view([2], [1], start).handle
    const sums = Array.from({ length: 20 }, (_, i) => piece(4 * i))
    const xs = Array.from({ length: 20 }, () => full([2], 3).handle)
    native().ops.accumulate(sums, xs)
    assert.equal([...(await memory.data())].slice(0, 10), [4, 4, 1, 1, 4, 4, 1, 1, 4, 4])
    const message = (list: number) =>
      new RegExp(`^accumulate: argument 1: .* shares elements with argument ${list}\\.$`)
    refused(() => native().ops.accumulate([...sums.slice(0, 19), piece(13)], xs), message(1))
    refused(() => native().ops.accumulate(sums, [...xs.slice(0, 19), piece(7)]), message(2))
  })
})

test.run()
