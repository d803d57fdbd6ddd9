// The linear layer: every instruction set against the oracle, thread counts to the bit, gradients, refusals.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { add, gelu } from '../../lib/ops/elementwise.js'
import { linear, linearGelu } from '../../lib/ops/linear.js'
import { permute } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward, noGrad } from '../../lib/tensor/tape.js'
import { memory, syncBlocking } from '../../lib/tensor/runtime.js'
import { type Tensor, empty, tensor } from '../../lib/tensor/tensor.js'
import { array, dot } from '../oracle/array.js'
import { directional } from '../oracle/differences.js'
import * as oracle from '../oracle/ops.js'
import { LEVELS } from '../support/levels.js'
import { settled } from '../support/memory.js'
import { type Report, error, normal, transpose, upload } from './products.js'

// Of what MT_CPU leaves open, AVX-512 is without AMX.
for (const level of ['', ...LEVELS])
  test(`${level || 'the best there is'}: every shape and dtype as in float64, one thread as two`, () => {
    const products = fileURLToPath(new URL('products.ts', import.meta.url))
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', products], {
      env: { ...process.env, MT_CPU: level },
      encoding: 'utf8',
    })
    assert.is(status, 0, stderr)
    const { errors, digests } = JSON.parse(stdout) as Report
    assert.is(Object.keys(errors).length, 8)
    for (const [name, e] of Object.entries(errors)) assert.ok(e < 5e-6, `${name}: relative error ${e}`)
    assert.is(digests[0], digests[1])
  })

test('an unknown MT_CPU is refused by name', () => {
  const program = `import { linear } from './lib/ops/linear.js'; import { tensor } from './lib/tensor/tensor.js'
    try { linear(tensor([1, 2], [1, 2]), tensor([1, 2], [1, 2])).dataBlocking() } catch (e) { console.log(e.message) }`
  const { stdout } = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    env: { ...process.env, MT_CPU: 'sse9' },
    encoding: 'utf8',
  })
  assert.match(stdout, /linear_forward.*MT_CPU: expected (avx512, avx2|neon) or portable, but got "sse9"/)
})

test('gradients have the slope of central differences', () => {
  const [x, w, b, dy] = [normal([3, 5, 19]), normal([21, 19]), normal([21]), normal([3, 5, 21])]
  const t = [x, w, b].map((a) => upload(a).requireGrad())
  backward(linear(t[0]!, t[1]!, t[2]), upload(dy))
  const loss = [
    (v: Float64Array) => oracle.linear(array(x.shape, v), w, b),
    (v: Float64Array) => oracle.linear(x, array(w.shape, v), b),
    (v: Float64Array) => oracle.linear(x, w, array(b.shape, v)),
  ]
  for (const [i, a] of [x, w, b].entries()) {
    const direction = normal(a.shape).data
    const slope = directional((v) => dot(loss[i]!(v).data, dy.data), a.data, direction)
    const grad = t[i]!.grad!
    assert.equal(grad.shape, a.shape)
    assert.ok(Math.abs(dot(grad.dataBlocking() as Float32Array, direction) - slope) < 1e-4 * Math.abs(slope))
  }
})

test('without a bias, from strided views, and for frozen arguments', () => {
  const [xd, wd] = [normal([19, 4]), normal([7, 19])]
  assert.ok(error(linear(permute(upload(xd), [1, 0]), upload(wd)), oracle.linear(transpose(xd), wd)) < 1e-6)
  const [x, w, b] = [upload(normal([4, 19])), upload(wd), upload(normal([7])).requireGrad()]
  const y = linear(x, w, b)
  backward(y, y.detach())
  assert.ok(b.grad && !x.grad && !w.grad)
  assert.not.ok(linear(x, w).requiresGrad)
})

for (const [m, n, k] of [
  [1, 33, 70],
  [5, 17, 700],
  [33, 300, 65],
  [100, 65, 800],
  [7, 9, 0],
] as const)
  test(`residual and GELU in one step have the bits of two: [${m},${k}] to ${n}`, () =>
    scope(() => {
      const [x, w, b, r] = [[m, k], [n, k], [n], [m, n]].map((shape) => upload(normal(shape))) as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ]
      const dy = upload(normal([m, n]))
      /** The result and all gradients. */
      const run = (f: (x: Tensor, w: Tensor, b: Tensor, r: Tensor) => Tensor): unknown[] => {
        const leaves = [x, w, b, r].map((t) => t.detach().requireGrad()) as [Tensor, Tensor, Tensor, Tensor]
        const y = f(...leaves)
        backward(y, dy)
        return [y, ...leaves.map((t) => t.grad)].map((t) => t?.dataBlocking())
      }
      assert.equal(
        run((x, w, b, r) => linear(x, w, b, { residual: r })),
        run((x, w, b, r) => add(r, linear(x, w, b))),
      )
      assert.equal(
        run(linearGelu),
        run((x, w, b) => gelu(linear(x, w, b))),
      )
      const trained = w.detach().requireGrad()
      assert.equal(
        linearGelu(x, w, b).dataBlocking(),
        linearGelu(x, trained, b).dataBlocking(),
        'saving what GELU saw changes no bit',
      )
    }))

test("GELU's input is saved only where a gradient needs it", async () => {
  await settled()
  scope(() => {
    const [x, w] = [upload(normal([64, 16])), upload(normal([32, 16]))]
    const grown = (f: () => Tensor): number => {
      syncBlocking()
      const before = memory().bytes
      f()
      syncBlocking()
      return memory().bytes - before
    }
    const y = 64 * 32 * 4
    assert.is(
      grown(() => linearGelu(x, w)),
      y,
    )
    const trained = w.detach().requireGrad()
    assert.is(
      grown(() => linearGelu(x, trained)),
      2 * y,
    )
    assert.is(
      grown(() => noGrad(() => linearGelu(x, trained))),
      y,
    )
  })
})

test('sums over no elements are the bias, or 0', () =>
  scope(() => {
    const none = (...shape: number[]): Tensor => tensor([], shape)
    assert.equal([...linear(none(2, 0), none(3, 0), tensor([1, 2, 3])).dataBlocking()], [1, 2, 3, 1, 2, 3])
    assert.equal([...linear(none(2, 0), none(3, 0)).dataBlocking()], [0, 0, 0, 0, 0, 0])
    assert.equal(linear(none(0, 4), upload(normal([3, 4]))).dataBlocking().length, 0)
  }))

test('refusals name the argument, what was expected and what came', () => {
  assert.throws(
    () => linear(empty([2, 5]), empty([3, 4])),
    /linear_forward: x: expected a last dimension of 4.*\[2,5\]/,
  )
  assert.throws(
    () => linear(empty([2, 4]), empty([3, 4], 'int32')),
    /w: expected dtype float32, bfloat16 or float16, but got int32/,
  )
  assert.throws(() => linear(empty([2, 4]), empty([3, 4]), empty([2])), /bias: expected shape \[3\], but got \[2\]/)
  assert.throws(
    () => linear(empty([2, 4]), empty([3, 4]), undefined, { residual: empty([3]) }),
    /residual: expected the shape of x, \[2,4\], with 3 as its last dimension, but got \[3\]/,
  )
  assert.throws(
    () => linear(empty([2, 4], 'bfloat16'), empty([3, 4]), undefined, { residual: empty([2, 3]) }),
    /expected dtype bfloat16 like the other activations/,
  )
})

test.run()
