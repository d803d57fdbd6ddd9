// Errors on a CUDA device, or on the emulator (MT_ADDON names its addon): bad data is found while kernels run, and the
// next await throws the CPU's message; tensors of two devices in one call are refused at once. Work continues after both.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cast, full } from '../../lib/ops/copy.js'
import { IGNORE, crossEntropy } from '../../lib/ops/cross-entropy.js'
import { add, scale } from '../../lib/ops/elementwise.js'
import { embedding } from '../../lib/ops/embedding.js'
import { router } from '../../lib/ops/router.js'
import { native } from '../../lib/native.js'
import { type Device, devices } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { sync, syncBlocking } from '../../lib/tensor/runtime.js'
import { empty, tensor } from '../../lib/tensor/tensor.js'

const { cuda } = devices()
const device = cuda.devices[0]?.device

const messageOf = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'nothing',
    (e: Error) => e.message,
  )
/** Asserts that the device still computes. */
async function goesOn(on: Device): Promise<void> {
  await sync()
  assert.equal([...(await scale(tensor([1, -2, 3], [3], 'float32', on), 2).data())], [2, -4, 6])
}
/** A fault's message on the CPU has to be the device's as well; nothing of the fault remains afterwards. */
async function sameFault(work: (on: Device) => void, expected: RegExp): Promise<void> {
  const said: string[] = []
  for (const on of ['cpu', device!] as const)
    await scope(async () => {
      work(on)
      said.push(await messageOf(sync()))
      await goesOn(on)
    })
  assert.match(said[0]!, expected)
  assert.is(said[1], said[0])
}

if (!device) test.skip(`errors on CUDA: ${cuda.reason}`, () => {})
else {
  for (const id of [4, -1, 2 ** 31 - 1]) {
    const ids = (on: Device) => tensor(Int32Array.of(1, id, 3), [3], 'int32', on)
    test(`embedding on ${device}: id ${id} of 4 rows`, async () => {
      await sameFault(
        (on) => embedding(ids(on), full([4, 5], 1, 'float32', on)),
        new RegExp(
          `^embedding_forward: id ${id} is outside the embedding's 4 rows; tokenizer and checkpoint do not belong together`,
        ),
      )
    })
    test(`embedding on ${device}, backward: id ${id} of 4 rows`, async () => {
      await sameFault(
        (on) =>
          native().ops.embedding_backward(full([3, 5], 1, 'float32', on).handle, ids(on).handle, empty([4, 5]).handle),
        new RegExp(`^embedding_backward: id ${id} is outside the embedding's 4 rows`),
      )
    })
  }

  for (const dtype of ['float32', 'bfloat16'] as const)
    for (const label of [7, -1]) {
      const logits = (on: Device) => cast(full([3, 7], 0.5, 'float32', on), dtype)
      const labels = (on: Device) => tensor(Int32Array.of(IGNORE, 6, label), [3], 'int32', on)
      test(`cross-entropy of ${dtype} on ${device}: label ${label} of 7 classes`, async () => {
        await sameFault(
          (on) => crossEntropy(logits(on), labels(on)),
          new RegExp(`^cross_entropy_forward: label ${label} is outside the 7 classes`),
        )
      })
      test(`cross-entropy of ${dtype} on ${device}, backward: label ${label} of 7 classes`, async () => {
        await sameFault(
          (on) =>
            native().ops.cross_entropy_backward(
              full([], 1, 'float32', on).handle,
              logits(on).handle,
              labels(on).handle,
              full([3], 0, 'float32', on).handle,
              IGNORE,
              1,
              empty([3, 7], dtype).handle,
            ),
          new RegExp(`^cross_entropy_backward: label ${label} is outside the 7 classes`),
        )
      })
    }

  test(`on ${device}: the first of several faults is told, by whichever wait comes, once`, async () => {
    await scope(async () => {
      const good = scale(full([3], 2, 'float32', device), 3)
      embedding(tensor(Int32Array.of(9), [1], 'int32', device), full([4, 2], 1, 'float32', device))
      crossEntropy(full([1, 2], 0, 'float32', device), tensor(Int32Array.of(5), [1], 'int32', device))
      assert.match(await messageOf(good.data()), /embedding_forward: id 9 is outside the embedding's 4 rows/)
      assert.equal([...(await good.data())], [6, 6, 6])
      embedding(tensor(Int32Array.of(-7), [1], 'int32', device), full([4, 2], 1, 'float32', device))
      assert.throws(() => syncBlocking(), /embedding_forward: id -7 is outside/)
      await goesOn(device)
    })
  })

  test(`tensors of cpu and ${device} do not meet: one sentence at once, and nothing is computed`, async () => {
    await scope(async () => {
      const [here, there] = [full([3], 1), full([3], 1, 'float32', device)]
      const refusal = (argument: number, expected: Device, got: Device, first: number): RegExp =>
        new RegExp(
          `: argument ${argument}: expected a tensor on ${expected} like argument ${first}, but got one on ${got}; move it with to\\(\\)\\.$`,
        )
      assert.throws(
        () => add(there, here),
        (e: Error) =>
          e instanceof TypeError && e.message.startsWith('add: ') && refusal(2, device, 'cpu', 1).test(e.message),
      )
      assert.throws(
        () => add(here, there),
        (e: Error) =>
          e instanceof TypeError && e.message.startsWith('add: ') && refusal(2, 'cpu', device, 1).test(e.message),
      )
      const table = full([4, 2], 1, 'float32', device)
      assert.throws(() => embedding(tensor(Int32Array.of(0)), table), refusal(2, 'cpu', device, 1))
      await goesOn(device)
      await goesOn('cpu')
    })
  })

  // With equal masks every choice has the same gradient: the weights that choose must then get exactly none.
  test(`router on ${device}: equal gradients of all choices give exactly none`, async () => {
    await scope(async () => {
      const numbers = (shape: number[], f: (i: number) => number) =>
        tensor(
          Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => f(i)),
          shape,
          'float32',
          device,
        ).requireGrad()
      const t = {
        x: numbers([2, 3, 9], Math.sin),
        w1: numbers([5, 9], Math.cos),
        b1: numbers([5], () => 3),
        w2: numbers([7, 5], (i) => Math.sin(7 * i)),
        b2: numbers([7], (i) => 5 * Math.cos(3 * i)),
      }
      const alpha = router(t.x, t, 1)
      backward(
        alpha,
        tensor(
          Float32Array.from({ length: 14 }, (_, i) => (i < 7 ? 0.1 : -1234.567)),
          alpha.shape,
          'float32',
          device,
        ),
      )
      for (const [name, v] of Object.entries(t)) {
        const g = await v.grad!.data()
        assert.ok(
          g.every((x) => Number(x) === 0),
          `${name}: ${g}`,
        )
        v.grad!.dispose()
      }
    })
  })
}

test.run()
