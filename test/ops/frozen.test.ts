// Frozen weights: right at every tail on every instruction set, the same bits for any number of threads and of other
// rows; what freeze() refuses; the memory that packing takes and gives back.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'
import { addSquareSum, adamw } from '../../lib/ops/adamw.js'
import { cast, copy, full, write } from '../../lib/ops/copy.js'
import { scale } from '../../lib/ops/elementwise.js'
import { linear } from '../../lib/ops/linear.js'
import { narrow, permute, reshape } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { memory, sync } from '../../lib/tensor/runtime.js'
import { type Tensor, empty, tensor } from '../../lib/tensor/tensor.js'
import type { DType } from '../../lib/tensor/dtype.js'
import { run } from '../native/child.js'
import { relativeError, slice } from '../oracle/array.js'
import * as oracle from '../oracle/ops.js'
import { LEVELS } from '../support/levels.js'
import { settled } from '../support/memory.js'
import { type Report, draw, numbers, weights } from './frozen.js'
import { transpose } from './products.js'
import { upload } from './support.js'

// ---- values ----

/** bfloat16: a result's own rounding, 2^-8 at worst; what a GELU saw and its gradient are rounded before, each once. */
const most = (kind: string): number =>
  kind.endsWith(' y, float32') ? 1e-5 : /float32|da|db/.test(kind) ? 1e-4 : kind.startsWith('gelu dx') ? 1.2e-2 : 4e-3

// Of what MT_CPU leaves open, AVX-512 is without AMX.
for (const level of ['', ...LEVELS])
  test(`${level || 'the best there is'}: every tail and dtype as in float64 and as not frozen, one thread as three, few rows as many`, () => {
    const program = fileURLToPath(new URL('frozen.ts', import.meta.url))
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', program], {
      env: { ...process.env, MT_CPU: level },
      encoding: 'utf8',
    })
    assert.is(status, 0, stderr)
    const { errors, changes, threads, rows } = JSON.parse(stdout) as Report
    assert.is(Object.keys(errors).length, 17)
    for (const [kind, e] of Object.entries(errors)) assert.ok(e <= most(kind), `${kind}: relative error ${e}`)
    for (const [kind, e] of Object.entries(changes))
      assert.ok(e <= most(kind), `${kind}: frozen and not differ by ${e}`)
    assert.equal(threads, [], 'another number of threads changes no bit')
    assert.equal(rows, [], 'the number of other rows changes no bit of a row')
  })

test('rows of a frozen table, at any offset and in another shape', () =>
  scope(() => {
    const x = draw('x', [14, 33], 'float32')
    const dy = draw('dy', [14, 21], 'float32')
    for (const dtype of weights) {
      const table = draw('table', [63, 33], dtype)
      const frozen = upload(table).freeze()
      const shapes = [frozen, reshape(frozen, [3, 21, 33])] as const
      for (
        let turn = 0;
        turn < 2;
        turn++ // packed, and found packed
      )
        for (const start of [0, 1, 21, 42]) {
          const w =
            start % 21 ? narrow(shapes[0], 0, start, 21) : reshape(narrow(shapes[1], 0, start / 21, 1), [21, 33])
          const part = slice(table.wide, 0, start, start + 21)
          const input = upload(x).requireGrad()
          const y = linear(input, w)
          backward(y, upload(dy))
          assert.ok(relativeError(numbers(y), oracle.linear(x.wide, part).data) < 1e-5, `${dtype} from row ${start}`)
          assert.ok(
            relativeError(numbers(input.grad!), oracle.linear(dy.wide, transpose(part)).data) < 1e-5,
            `${dtype} gradient from row ${start}`,
          )
        }
      // The same memory once as [21, 33] and once as [33, 21], and transposed, which is copied.
      const block = narrow(frozen, 0, 0, 21)
      const other = { shape: [33, 21], data: table.wide.data.subarray(0, 33 * 21) }
      const wide = draw('dy', [14, 21], 'float32')
      assert.ok(
        relativeError(numbers(linear(upload(wide), reshape(block, [33, 21]))), oracle.linear(wide.wide, other).data) <
          1e-5,
      )
      assert.ok(
        relativeError(
          numbers(linear(upload(wide), permute(block, [1, 0]))),
          oracle.linear(wide.wide, transpose(slice(table.wide, 0, 0, 21))).data,
        ) < 1e-5,
      )
    }
  }))

// ---- freeze() ----

const refusal = (operator: string, argument: number): RegExp =>
  new RegExp(
    `^${operator}: argument ${argument}: expected an output with memory of its own, but got a frozen tensor, one that lies in a file or was frozen; copy\\(\\) it first\\.$`,
  )
function refuses(f: () => void, pattern: RegExp): void {
  try {
    f()
  } catch (error) {
    return void assert.match((error as Error).message, pattern)
  }
  assert.unreachable(`expected ${pattern}`)
}

test('nothing writes to a frozen tensor, through whatever view', () =>
  scope(() => {
    const one = (): Tensor => full([4, 6], 1)
    const step = { lr: 0.1, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, step: 1 } as const
    const before = one()
    const row = narrow(before, 0, 1, 2) // made before freezing
    const frozen = before.freeze()
    for (const view of [
      frozen,
      row,
      narrow(frozen, 0, 0, 1),
      permute(frozen, [1, 0]),
      frozen.detach(),
      reshape(frozen, [24]),
    ]) {
      refuses(() => write(view, full(view.shape, 2)), refusal('copy', 2))
      refuses(() => native().ops.fill(2, view.handle), refusal('fill', 2))
    }
    refuses(() => adamw(frozen, one(), one(), one(), step), refusal('adamw', 1))
    refuses(() => adamw(one(), one(), frozen, one(), step), refusal('adamw', 3))
    refuses(() => adamw(one(), one(), one(), frozen, step), refusal('adamw', 4))
    refuses(() => addSquareSum(full([1], 0).freeze(), one()), refusal('square_sum', 2))
    refuses(
      () => native().ops.linear_forward(full([4, 3], 1).handle, full([6, 3], 1).handle, null, null, frozen.handle),
      refusal('linear_forward', 5),
    )
    refuses(() => write(row.freeze(), full([2, 6], 2)), refusal('copy', 2))
    assert.equal([...frozen.dataBlocking()], new Array(24).fill(1))
    const whole = one()
    narrow(whole, 0, 0, 1).freeze()
    refuses(() => write(narrow(whole, 0, 3, 1), full([1, 6], 2)), refusal('copy', 2))
  }))

test('every dtype, an empty tensor, twice; reading and computing go on', async () => {
  const held = [
    tensor(Float32Array.of(1, -2)),
    tensor(Uint16Array.of(0x3f80, 0xc000), [2], 'bfloat16'),
    tensor(Uint16Array.of(0x3c00, 0xc000), [2], 'float16'),
    tensor(BigInt64Array.of(1n, -2n)),
    tensor(Int32Array.of(1, -2)),
    tensor(Uint8Array.of(1, 2)),
    tensor([], [0, 4]),
  ]
  for (const t of held) {
    const before = t.dataBlocking()
    assert.is(t.freeze(), t)
    assert.is(t.freeze(), t)
    assert.equal(await t.data(), before)
    if (t.dtype !== 'uint8') assert.equal([...cast(t, 'float32').dataBlocking()], t.size ? [1, -2] : [])
    refuses(() => write(t, empty(t.shape, t.dtype)), refusal('copy', 2))
  }
  const [none, narrowest] = [tensor([], [0, 4]).freeze(), tensor([], [3, 0]).freeze()]
  assert.is(linear(full([2, 4], 1), none).dataBlocking().length, 0)
  assert.equal([...linear(tensor([], [2, 0]), narrowest, tensor([1, 2, 3])).dataBlocking()], [1, 2, 3, 1, 2, 3])
  assert.is(linear(tensor([], [0, 4]), full([3, 4], 1).freeze()).dataBlocking().length, 0)
  const gone = full([2], 1)
  gone.dispose()
  refuses(() => gone.freeze(), /^tensor: expected a live tensor, but got .*disposed/)
})

/** Work that keeps the queue busy for some milliseconds while the next operators are called. */
function busy(): void {
  const a = full([384, 384], 0.01)
  for (let i = 0, x = a; i < 8; i++) x = linear(x, a)
}

test('frozen right after the operator that writes it was called: the weight is what that wrote', () =>
  scope(() => {
    for (const dtype of weights) {
      busy()
      const w = cast(scale(full([5, 8], 1), 2), dtype).freeze()
      assert.equal([...linear(full([3, 8], 1), w).dataBlocking()], new Array(15).fill(16))
    }
  }))

test('frozen while products with its old contents are still queued: those see the old, later ones the new', () =>
  scope(() => {
    for (const dtype of weights) {
      const [x, w] = [full([3, 8], 1), copy(cast(full([5, 8], 1), dtype))]
      busy()
      const before = linear(x, w)
      write(w, cast(full([5, 8], 2), dtype))
      w.freeze()
      const after = linear(x, w)
      assert.equal([...before.dataBlocking()], new Array(15).fill(8))
      assert.equal([...after.dataBlocking()], new Array(15).fill(16))
    }
  }))

// ---- memory ----

test('packed once for both directions, and given back with the weight', async () => {
  await settled()
  const start = memory().packed
  const grown = async (): Promise<number> => (await sync(), memory().packed - start)
  for (const [dtype, item] of [
    ['float32', 4],
    ['bfloat16', 2],
    ['float16', 2],
  ] as [DType, number][]) {
    const [n, k] = [65, 385]
    // Panels of columns, at most 32 wide, and an even number of rows.
    const plausible = (bytes: number, columns: number, rows: number): boolean =>
      bytes >= columns * rows * item && bytes <= Math.ceil(columns / 32) * 32 * (rows + 1) * item
    const w = upload(draw('w', [n, k], dtype)).freeze()
    assert.is(await grown(), 0, 'not before it is used')
    const use = (gradient: boolean): void =>
      scope(() => {
        const x = full([9, k], 1)
        if (!gradient) return void linear(x, w)
        backward(linear(x.requireGrad(), w), full([9, n], 1))
        x.grad!.dispose()
      })
    use(false)
    const forward = await grown()
    assert.ok(plausible(forward, n, k), `${dtype}: ${forward} bytes`)
    use(false)
    assert.is(await grown(), forward, 'once')
    use(true)
    const both = await grown()
    assert.is(both, forward, 'the gradient reads what the forward packed')
    const view = w.detach()
    w.dispose()
    assert.is(await grown(), both, 'a view keeps it')
    view.dispose()
    assert.is(await grown(), 0)
    const loose = upload(draw('w', [n, k], dtype))
    scope(() => void linear(full([9, k], 1), loose))
    assert.is(await grown(), 0, 'a weight that is not frozen is not kept packed')
    loose.dispose()
  }
})

/** Of a frozen weight of 1 MiB, all ones, in a process of so much memory: y, dx, bytes packed by the forward and both. */
async function under(limit: number): Promise<number[]> {
  const { status, stdout, stderr } = await run(
    `const { full, linear, backward, sync, memory } = m
     const w = full([512, 512], 1).freeze(), x = full([3, 512], 0.5).requireGrad()
     const y = linear(x, w)
     await sync()
     const forward = memory().packed
     backward(y, full([3, 512], 2))
     const [ys, dx] = [await y.data(), await x.grad.data()]
     await sync()
     const odd = [...ys].some((v) => v !== 256) || [...dx].some((v) => v !== 1024)
     console.log(JSON.stringify([odd ? NaN : ys[0], dx[0], forward, memory().packed]))`,
    { MT_MEMORY_LIMIT: String(limit) },
  )
  assert.is(status, 0, stderr)
  return JSON.parse(stdout) as number[]
}

test('where memory is short nothing is packed, and results are right', async () => {
  const MiB = 1 << 20
  assert.equal(await under(2 * MiB), [256, 1024, 0, 0])
  assert.equal(await under(4 * MiB), [256, 1024, MiB, MiB])
  assert.equal(await under(16 * MiB), [256, 1024, MiB, MiB])
})

test.run()
