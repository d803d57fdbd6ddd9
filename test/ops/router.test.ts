// The router against the float64 oracle; gradients by central differences.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { router } from '../../lib/ops/router.js'
import { narrow } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { threads } from '../../lib/tensor/runtime.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { array, dot, permute, relativeError, reshape, type NdArray } from '../oracle/array.js'
import { gradient } from '../oracle/differences.js'
import * as oracle from '../oracle/dense.js'
import { random } from '../oracle/random.js'

const test = suite('ops/router')

const names = ['x', 'w1', 'b1', 'w2', 'b2'] as const
type Name = (typeof names)[number]
type Values = Record<Name | 'dalpha', Float32Array>

interface Case {
  /** Of x, the last dimension included. */
  shape: number[]
  over: number
  hidden: number
  p: number
}

function draw(c: Case): Values {
  const r = random(5)
  const width = c.shape.at(-1)!
  const normals = (n: number, factor = 1): Float32Array => Float32Array.from({ length: n }, () => factor * r.normal())
  const size = c.shape.reduce((a, b) => a * b, 1)
  return {
    x: normals(size),
    w1: normals(c.hidden * width, 1 / Math.sqrt(width)),
    b1: normals(c.hidden),
    w2: normals(c.p * c.hidden, 0.5),
    b2: normals(c.p),
    dalpha: normals((size / width / c.shape[c.over]!) * c.p),
  }
}

function reference(c: Case, v: Record<Name, ArrayLike<number>>): NdArray {
  const [width, n] = [c.shape.at(-1)!, c.shape[c.over]!]
  const rest = c.shape.map((_, i) => i).filter((i) => i !== c.over && i !== c.shape.length - 1)
  const x = reshape(permute(array(c.shape, v.x), [...rest, c.over, c.shape.length - 1]), [-1, n, width])
  return oracle.router(x, {
    w1: array([c.hidden, width], v.w1),
    b1: array([c.hidden], v.b1),
    w2: array([c.p, c.hidden], v.w2),
    b2: array([c.p], v.b2),
  })
}

function run(c: Case, v: Values): { alpha: Float32Array; shape: readonly number[]; grads: Float32Array[] } {
  return scope(() => {
    const width = c.shape.at(-1)!
    const shapes = { x: c.shape, w1: [c.hidden, width], b1: [c.hidden], w2: [c.p, c.hidden], b2: [c.p] }
    const t = Object.fromEntries(names.map((n) => [n, tensor(v[n], shapes[n]).requireGrad(n)])) as Record<
      Name,
      ReturnType<typeof tensor>
    >
    const alpha = router(t.x, t, c.over)
    backward(alpha, tensor(v.dalpha, [...alpha.shape]))
    const grads = names.map((n) => t[n].grad!.dataBlocking() as Float32Array)
    for (const n of names) t[n].grad!.dispose()
    return { alpha: alpha.dataBlocking() as Float32Array, shape: alpha.shape, grads }
  })
}

const cases: Case[] = [
  { shape: [2, 3, 5, 8], over: 2, hidden: 6, p: 4 },
  { shape: [2, 3, 5, 8], over: 1, hidden: 6, p: 3 },
  { shape: [3, 4, 7], over: 1, hidden: 5, p: 2 },
  { shape: [1, 1, 1, 1], over: 1, hidden: 1, p: 1 },
  { shape: [2, 1, 3, 33], over: 2, hidden: 17, p: 8 },
]

test('alpha and every gradient', () => {
  for (const c of cases) {
    const v = draw(c)
    const { alpha, shape, grads } = run(c, v)
    assert.equal(shape, [...c.shape.filter((_, i) => i !== c.over && i !== c.shape.length - 1), c.p])
    assert.ok(relativeError(alpha, reference(c, v).data) <= 1e-5)
    names.forEach((name, i) => {
      const expected = gradient(
        (x) => dot(reference(c, { ...v, [name]: x }).data, v.dalpha),
        Float64Array.from(v[name]),
      )
      if (c.p === 1) assert.ok(grads[i]!.every((g) => g === 0))
      else
        assert.ok(
          relativeError(grads[i]!, expected) <= 1e-4,
          `${c.shape} over ${c.over}: d${name} ${relativeError(grads[i]!, expected)}`,
        )
    })
  }
})

test('pools a slice where it lies: the query tokens before the text', () => {
  const c = cases[0]!
  const v = draw(c)
  scope(() => {
    const wide = new Float32Array(2 * 3 * 9 * 8).fill(7)
    for (let i = 0; i < 6; i++) wide.set(v.x.subarray(i * 40, (i + 1) * 40), i * 72)
    const x = tensor(wide, [2, 3, 9, 8]).requireGrad()
    const [w1, b1, w2, b2] = [tensor(v.w1, [6, 8]), tensor(v.b1), tensor(v.w2, [4, 6]), tensor(v.b2)]
    const alpha = router(narrow(x, 2, 0, 5), { w1, b1, w2, b2 }, 2)
    const whole = run(c, v)
    assert.equal(alpha.dataBlocking(), whole.alpha)
    backward(alpha, tensor(v.dalpha, [2, 3, 4]))
    const grad = x.grad!.dataBlocking() as Float32Array
    for (let i = 0; i < 6; i++) {
      assert.equal(grad.slice(i * 72, i * 72 + 40), whole.grads[0]!.slice(i * 40, (i + 1) * 40))
      assert.ok(grad.subarray(i * 72 + 40, (i + 1) * 72).every((g) => g === 0))
    }
    x.grad!.dispose()
  })
})

test('the same bits with any number of threads', () => {
  const c: Case = { shape: [4, 8, 32, 64], over: 2, hidden: 64, p: 4 }
  const v = draw(c)
  const before = threads()
  try {
    threads(1)
    const first = run(c, v)
    threads(3)
    assert.equal(run(c, v), first)
  } finally {
    threads(before)
  }
})

test('refuses what does not fit, by name', () => {
  scope(() => {
    const x = tensor(new Float32Array(24), [2, 3, 4])
    const w = {
      w1: tensor(new Float32Array(20), [5, 4]),
      b1: tensor(new Float32Array(5)),
      w2: tensor(new Float32Array(10), [2, 5]),
      b2: tensor(new Float32Array(2)),
    }
    assert.throws(() => router(x, w, 2), /over: expected a dimension/)
    assert.throws(
      () => router(x, { ...w, b1: tensor(new Float32Array(4)) }, 1),
      /expected shape \[5\], but got \[4\]|hidden/,
    )
    assert.throws(() => router(x, { ...w, w1: tensor(new Float32Array(15), [5, 3]) }, 1), /w1: expected shape \[5,4\]/)
  })
})

test.run()
