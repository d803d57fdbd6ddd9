// Tensors as users see them: made, read, viewed, freed; and the queue behind them.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { native, type NativeTensor } from '../../lib/native.js'
import { add, scale } from '../../lib/ops/elementwise.js'
import { copy, full } from '../../lib/ops/copy.js'
import { embedding } from '../../lib/ops/embedding.js'
import { linear } from '../../lib/ops/linear.js'
import { layerNorm } from '../../lib/ops/layernorm.js'
import { Random } from '../../lib/ops/random.js'
import { expand, narrow, permute, reshape } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { memory, releaseCached, resetPeak, sync, syncBlocking, threads } from '../../lib/tensor/runtime.js'
import { empty, tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { type DType, itemSize } from '../../lib/tensor/dtype.js'
import { settled } from '../support/memory.js'

const values = async (t: Tensor): Promise<number[]> =>
  Array.from((await t.data()) as ArrayLike<number | bigint>, Number)

test('the dtype follows the array, and elements come back as they went in', async () => {
  await scope(async () => {
    const made: [Tensor, DType, number[]][] = [
      [tensor([1.5, -2, 3]), 'float32', [1.5, -2, 3]],
      [tensor(Float32Array.of(1.5, -0)), 'float32', [1.5, -0]],
      [tensor(Float64Array.of(0.1) as never), 'float32', [Math.fround(0.1)]],
      [tensor(Int32Array.of(-7, 2 ** 31 - 1)), 'int32', [-7, 2 ** 31 - 1]],
      [tensor(Uint8Array.of(0, 255)), 'uint8', [0, 255]],
      [tensor(BigInt64Array.of(-(2n ** 53n))), 'int64', [-(2 ** 53)]],
      [tensor([1, 2], [2], 'int64'), 'int64', [1, 2]],
      [tensor([1, 2], [2], 'int32'), 'int32', [1, 2]],
      [tensor(Uint16Array.of(0x3f80, 0xff80), [2], 'bfloat16'), 'bfloat16', [0x3f80, 0xff80]],
      [tensor(Uint16Array.of(0x3c00), [1], 'float16'), 'float16', [0x3c00]],
      [tensor(Buffer.from([1, 2, 3])), 'uint8', [1, 2, 3]],
    ]
    for (const [t, dtype, expected] of made) {
      assert.is(t.dtype, dtype)
      assert.equal(t.shape, [expected.length])
      assert.equal(await values(t), expected)
    }
    const part = tensor(new Float32Array([0, 1, 2, 3, 4, 5]).subarray(2, 4))
    assert.equal(await values(part), [2, 3], 'a part of a larger buffer')
    assert.is(await tensor([42]).item(), 42)
    assert.is(await tensor([7], []).item(), 7)
    assert.equal([...tensor([1, 2]).dataBlocking()], [1, 2])
  })
})

test('the shape belongs to the tensor, whatever its maker does to the array', () => {
  scope(() => {
    const shape = [2, 3]
    const made = [empty(shape), tensor([1, 2, 3, 4, 5, 6], shape), tensor([1, 2, 3, 4, 5, 6]).view(shape)]
    shape[0] = 99
    for (const t of made) assert.equal(t.shape, [2, 3])
  })
})

test('data that is not a tensor is refused in one sentence', () => {
  const wrong: [() => unknown, RegExp][] = [
    [() => tensor('abc' as never), /^tensor: expected a typed array or an array of numbers, but got "abc"\.$/],
    [() => tensor(null as never), /^tensor: expected a typed array or an array of numbers/],
    [() => tensor(5 as never, [1], 'float32'), /^tensor: expected a typed array or an array of numbers, but got 5\.$/],
    [() => tensor([1, 'x'] as never), /^tensor: expected an array of numbers, but got "x"; see element 1/],
    [
      () =>
        tensor([
          [1, 2],
          [3, 4],
        ] as never),
      /^tensor: expected an array of numbers, but got \[1,2\]/,
    ],
    [() => tensor([1, 2], [3]), /^tensor: expected 3 elements for shape \[3\], but got 2\.$/],
    [() => tensor([1, 2], [-2]), /^tensor: expected a shape of integers >= 0/],
    [() => tensor([1, 2], [2], 'float64' as never), /^tensor: expected a dtype, one of float32.*"float64"\.$/],
    [() => tensor([1, 2], [2], 'bfloat16'), /^tensor: expected a Uint16Array of bits for bfloat16/],
    [() => tensor(new DataView(new ArrayBuffer(8)) as never), /^tensor: expected a typed array/],
    [() => empty([1.5]), /^create: argument 1: expected an integer, but got 1\.5\.$/],
    [() => empty(undefined as never), /^create: argument 1: expected an array of integers, but got undefined\.$/],
    [() => empty([-1]), /^create: shape: expected sizes of 0 or more/],
    [() => empty([2 ** 40, 2 ** 40]), /^create: shape: expected at most 2\^46 elements/],
    [() => empty([2 ** 40, 2 ** 40, 0]), /^create: shape: expected at most 2\^46 elements/],
    [() => empty([1, 1, 1, 1, 1, 1, 1]), /^create: argument 1: expected at most 6 dimensions, but got 7\.$/],
    [() => empty(Object.assign([], { length: 4294967295 })), /^create: argument 1: expected at most 6 dimensions/],
    [() => empty([2], 'float64' as never), /^create: dtype: expected float32.*"float64"/],
    [() => tensor([1]).requireGrad().dim(3), /^dim: expected a dimension of shape \[1\]/],
    [() => tensor([1], [1], 'int32').requireGrad('w'), /^w: expected dtype float32, but got "int32"\.$/],
  ]
  for (const [f, message] of wrong) {
    try {
      scope(f)
      assert.unreachable(String(f))
    } catch (error) {
      assert.match((error as Error).message, message)
    }
  }
})

test('views: strides, offsets and repeats are read in row-major order', async () => {
  await scope(async () => {
    const t = tensor([0, 1, 2, 3, 4, 5], [2, 3])
    assert.equal(await values(permute(t, [1, 0])), [0, 3, 1, 4, 2, 5])
    assert.equal(await values(narrow(t, 1, 1, 2)), [1, 2, 4, 5])
    assert.equal(await values(t.view([2, 2], [0, 2], 1)), [1, 3, 1, 3])
    assert.equal(await values(narrow(permute(t, [1, 0]), 0, 2, 1)), [2, 5], 'a view of a view')
    assert.equal(await values(expand(tensor([7]), [2, 2])), [7, 7, 7, 7])
    assert.equal(await values(reshape(permute(t, [1, 0]), [2, -1])), [0, 3, 1, 4, 2, 5])
    assert.equal(await values(t.view([0, 3])), [])
    for (const f of [
      () => t.view([7]),
      () => t.view([2], [1], 5),
      () => t.view([2], [1], -1),
      () => t.view([2], [-1]),
      () => t.view([2], [1, 1]),
      () => t.view([2 ** 40], [2 ** 40]),
    ])
      assert.throws(f, (e: Error) => e instanceof TypeError && e.message.startsWith('view: '))
  })
})

test('tensors without elements go through every kind of call', async () => {
  await scope(async () => {
    const none = empty([0, 3])
    assert.equal(await values(add(none, none)), [])
    assert.equal(await values(copy(permute(none, [1, 0]))), [])
    assert.equal(await values(linear(none, full([2, 3], 1))), [])
    assert.equal(
      await values(linear(tensor([], [2, 0]), tensor([], [2, 0]), tensor([5, 6]))),
      [5, 6, 5, 6],
      'a sum of nothing, and the bias',
    )
  })
})

test('a size of 0 beside enormous ones costs nothing', async () => {
  const { native } = await import('../../lib/native.js')
  const ops = native().ops
  await scope(async () => {
    const many = 2 ** 40
    const none = (...shape: number[]) => empty(shape).handle
    ops.rope_forward(
      none(1, 1, many, 0),
      tensor(Int32Array.of(0), [1, 1]).handle,
      1e4,
      many,
      false,
      none(1, 1, many, 0),
    )
    ops.swap(none(1, 2 ** 30, 2 ** 16, 0), none(1, 2 ** 16, 2 ** 30, 0))
    ops.reduce_backward(none(many, 0), 1, 1, none(many, 2 ** 5, 0))
    ops.linear_forward(none(many, 0), none(0, 0), null, null, none(many, 0))
    const rows = (): ReturnType<typeof none> => none(1, 1, many, 0, 1)
    ops.attention_backward(
      rows(),
      rows(),
      rows(),
      rows(),
      null,
      null,
      null,
      null,
      0,
      false,
      1,
      none(1, 1, 0, many, 1),
      rows(),
      rows(),
      rows(),
      null,
    )
    await sync()
  })
})

test('dispose frees memory at once where the queue no longer needs it, once; a view keeps it alive', async () => {
  await settled()
  const before = memory()
  const t = full([1024], 2)
  const view = t.view([512], [2])
  t.dispose()
  t.dispose()
  assert.ok(t.disposed)
  assert.throws(
    () => t.handle,
    /tensor: expected a live tensor, but got "one of shape \[1024\] that was disposed"; keep\(\)/,
  )
  assert.throws(() => scope(() => add(t, t)), /disposed/)
  await assert_rejects(t.data(), /disposed/)
  assert.is((await values(view))[511], 2)
  assert.is(memory().tensors, before.tensors + 1)
  view.dispose()
  await sync()
  assert.is(memory().bytes, before.bytes)
  assert.is(memory().tensors, before.tensors)
})

async function assert_rejects(promise: Promise<unknown>, message: RegExp): Promise<void> {
  const error = await promise.then(
    () => undefined,
    (e: Error) => e,
  )
  assert.instance(error, Error)
  assert.match(error!.message, message)
}

test('disposing what the queue still reads is safe', async () => {
  const x = full([1 << 18], 3)
  const y = scale(x, 2)
  x.dispose()
  assert.is((await values(y))[12345], 6)
  y.dispose()
})

test('`using` disposes at the end of the block', async () => {
  let seen: Tensor
  {
    using t = full([4], 1)
    seen = t
    assert.equal(await values(t), [1, 1, 1, 1])
  }
  assert.ok(seen.disposed)
})

test('a failure in the queue rejects the next await with the name of its operator, once, and the device goes on', async () => {
  await scope(async () => {
    const y = embedding(tensor(Int32Array.of(1, 99)), full([4, 2], 1))
    const after = scale(y, 2)
    await assert_rejects(sync(), /^embedding_forward: id 99 is outside the embedding's 4 rows/)
    await sync()
    await assert_rejects(after.data(), /^read: an input has no data/)
    assert.equal(await values(scale(tensor([1, 2]), 2)), [2, 4])
    embedding(tensor(Int32Array.of(-1)), full([4, 2], 1))
    assert.throws(() => syncBlocking(), /embedding_forward: id -1 is outside/)
    syncBlocking()
    await assert_rejects(empty([3]).data(), /^read: an input has no data/)
  })
})

test('an output that shares elements with an input, repeats or lies in a file is refused; slices beside each other are not', async () => {
  const { native } = await import('../../lib/native.js')
  const ops = native().ops
  await scope(async () => {
    const t = tensor([0, 1, 2, 3, 4, 5, 6, 7], [8])
    const at = (shape: number[], strides: number[], offset: number): Tensor => t.view(shape, strides, offset)
    const refused = (x: Tensor, y: Tensor): void =>
      assert.throws(
        () => ops.copy(x.handle, y.handle),
        (e: Error) => e instanceof TypeError && /^copy: argument 2: expected an output/.test(e.message),
      )
    refused(t, t)
    refused(at([4], [1], 0), at([4], [1], 3))
    refused(at([4], [2], 0), at([4], [1], 2))
    refused(at([2, 2], [4, 1], 0), at([2, 2], [4, 1], 1))
    refused(tensor([1, 2]), at([2], [0], 0))
    refused(tensor([1, 2, 3, 4], [2, 2]), at([2, 2], [1, 1], 0))
    ops.copy(at([4], [2], 0).handle, at([4], [2], 1).handle)
    assert.equal(await values(t), [0, 0, 2, 2, 4, 4, 6, 6])
    ops.copy(at([2, 2], [4, 1], 0).handle, at([2, 2], [4, 1], 2).handle)
    assert.equal(await values(t), [0, 0, 0, 0, 4, 4, 4, 4])
    ops.copy(at([4], [1], 0).handle, at([4], [1], 4).handle)
    assert.equal(await values(t), [0, 0, 0, 0, 0, 0, 0, 0])
  })
})

test('JavaScript that runs ahead of the queue costs no memory', async () => {
  await settled()
  const [before, size, steps] = [memory(), 1 << 18, 2000]
  resetPeak()
  let x = full([size], 0)
  const one = full([size], 1)
  for (let i = 0; i < steps; i++) {
    const next = scope(() => add(x, scale(one, 1)))
    x.dispose()
    x = next
  }
  assert.is((await x.data())[size - 1], steps)
  const peak = memory().peak - before.bytes
  assert.ok(peak <= 6 * (size * 4), `2,000 steps on tensors of 1 MiB took ${(peak / 2 ** 20).toFixed(1)} MiB at most`)
  x.dispose()
  one.dispose()
  await sync()
  assert.is(memory().bytes, before.bytes)
})

test('a released native tensor becomes another one; one that is alive does not', async () => {
  await settled()
  const n = native()
  const [first, other] = [n.create([2], 'float32'), n.create([2], 'float32')]
  const before = memory().tensors
  n.release(first)
  assert.throws(() => n.ops.fill(1, first), /^fill: argument 2: expected a tensor, but got one that was disposed\.$/)
  const again = n.create(Float64Array.of(2, 3), 4, -1, first)
  assert.is(again, first)
  assert.is(memory().tensors, before)
  n.ops.fill(7, again)
  assert.equal([...new Int32Array(await n.read(again))], Array(6).fill(7))
  const into = (value: unknown) => () => n.view(again, [6], [1], 0, value as NativeTensor)
  assert.throws(into(other), /^view: argument 5: expected a tensor that was released, but got one that is alive\.$/)
  for (const value of [null, {}, 3])
    assert.throws(into(value), /^view: argument 5: expected a tensor that was released, but got (null|an object|3)\.$/)
  n.release(other)
  n.release(again)
  await sync()
  assert.is(memory().tensors, before - 2)
})

test('a dtype has the number that native code knows it by', async () => {
  const bits = Uint8Array.of(1, 60, 3, 64, 5, 62, 7, 63)
  for (const dtype of ['float32', 'bfloat16', 'float16', 'int64', 'int32', 'uint8'] as const) {
    const shape = [8 / itemSize(dtype)]
    const x = native().upload(bits, shape, dtype)
    const y = empty(shape, dtype)
    native().ops.copy(x, y.handle) // converts where the two differ
    assert.equal(new Uint8Array((await y.data()).buffer), bits, dtype)
    native().release(x)
    y.dispose()
  }
})

test('timers fire while an await waits', async () => {
  let fired = 0
  const timer = setInterval(() => fired++, 2)
  const a = full([512, 512], 0.01)
  let x = full([512, 512], 1)
  const start = performance.now()
  for (let i = 0; i < 60; i++) {
    const next = linear(x, a)
    x.dispose()
    x = next
  }
  const queued = performance.now() - start
  await x.data()
  const total = performance.now() - start
  clearInterval(timer)
  x.dispose()
  a.dispose()
  assert.ok(
    fired >= 3 || total < 20,
    `the timer fired ${fired} times in ${total.toFixed(0)} ms, of which calls took ${queued.toFixed(0)} ms`,
  )
})

test('the number of threads changes no bit', async () => {
  const all = threads()
  const run = async (): Promise<string[]> =>
    scope(async () => {
      const random = new Random(5)
      const [x, w, g, b] = [
        random.normal([190, 300]),
        random.normal([257, 300]),
        random.normal([257]),
        random.normal([257]),
      ]
      const h = linear(x, w, b)
      const results = [h, layerNorm(h, g, b, 1e-5), add(h, b), random.uniform([99991])]
      return Promise.all(results.map(async (t) => Buffer.from((await t.data()).buffer).toString('base64')))
    })
  try {
    threads(1)
    const one = await run()
    for (const n of [2, 3, 7]) {
      assert.is(threads(n), n)
      assert.equal(await run(), one, `${n} threads`)
    }
    for (const n of [0, -1, 257, 1.5, NaN]) assert.throws(() => threads(n), /^threads: /)
    assert.is(threads(), 7)
  } finally {
    threads(all)
  }
})

test('memory() counts bytes and tensors, resetPeak() starts anew', async () => {
  await settled()
  const before = memory()
  const t = full([1 << 20], 1)
  await sync()
  assert.is(memory().bytes - before.bytes, 4 << 20)
  assert.is(memory().tensors - before.tensors, 1)
  t.dispose()
  await sync()
  assert.ok(memory().peak >= before.bytes + (4 << 20))
  resetPeak()
  assert.ok(memory().peak < before.bytes + (4 << 20) + 4096)
  assert.is(memory().bytes, before.bytes)
  assert.ok(memory().limit > 0)
})

test('a freed block is kept for the next tensor, until releaseCached() gives it back', async () => {
  await settled()
  const t = full([1 << 20], 1)
  await sync()
  t.dispose()
  await sync()
  assert.ok(memory().cached >= 4 << 20)
  releaseCached()
  assert.is(memory().cached, 0)
})

test('V8 is told of memory once per storage, and again when it is freed; of small ones and files never', async () => {
  await settled()
  const MiB = 1 << 20
  const start = memory()
  const since = (): number[] => [memory().reports - start.reports, memory().external - start.external]
  scope(() => {
    for (let i = 0; i < 400; i++) {
      const t = empty([8 * MiB], 'uint8', 'cpu')
      for (let j = 0; j < 3; j++) t.view([MiB], [1], j)
    }
    assert.equal(since(), [400, 400 * 8 * MiB])
  })
  assert.equal(since(), [400, 0])

  const undecided = empty([MiB / 4])
  const seen = undecided.detach()
  assert.equal(since(), [400, 0], 'where it will lie is not known')
  native().ops.fill(1, seen.handle)
  assert.equal(since(), [401, MiB])
  undecided.dispose()
  assert.equal(since(), [401, MiB], 'the other handle holds it')
  seen.dispose()
  assert.equal(since(), [401, 0])

  scope(() => empty([MiB - 1], 'uint8', 'cpu'))
  const folder = mkdtempSync(join(tmpdir(), 'mt-reports-'))
  try {
    writeFileSync(join(folder, 'file'), new Uint8Array(2 * MiB))
    native().release(native().mapped(native().map(join(folder, 'file')), 0, [2 * MiB], 'uint8'))
  } finally {
    rmSync(folder, { recursive: true })
  }
  assert.equal(since(), [401, 0])
})

test.run()
