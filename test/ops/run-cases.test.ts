// The list of operator cases against float64: values, every gradient, other layouts, reruns and threads; random
// numbers.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Random } from '../../lib/ops/random.js'
import { scope } from '../../lib/tensor/scope.js'
import { memory, syncBlocking, threads } from '../../lib/tensor/runtime.js'
import { settled } from '../support/memory.js'
import { cases } from './cases.js'
import { bits, errors, evaluate, toBits, widen, type OpCase } from './support.js'

const configured = threads()
test.after.each(() => {
  threads(configured)
})

/** float32 against float64, and gradients that are rounded to bfloat16 on their way (docs/model.md#numerics). */
const limits = { forward: 1e-5, gradient: 1e-4, narrow: 5e-2 }

function check(c: OpCase): void {
  const given = c.inputs()
  threads(1)
  const result = evaluate(c, {}, given)
  const { forward, gradients } = errors(c, result, 64, given)
  assert.ok(forward <= limits.forward, `${c.name}: relative error ${forward}`)
  for (const [name, e] of Object.entries(gradients))
    assert.ok(
      e <= (c.narrow ? limits.narrow : limits.gradient),
      `${c.name}: relative error ${e} in the gradient of ${name}`,
    )

  const expected = bits(result)
  const same = (what: string, again: Buffer[]): void =>
    again.forEach((b, i) => assert.ok(b.equals(expected[i]!), `${c.name}: ${what} changes the bits of result ${i}`))
  threads(2)
  same('a rerun on two threads', bits(evaluate(c, {}, given)))
  for (const layout of ['spaced', 'sliced'] as const)
    same(`inputs that lie ${layout} in memory`, bits(evaluate(c, { layout }, given)))
}

test('no two cases have one name', () => {
  assert.is(new Set(cases.map((c) => c.name)).size, cases.length)
})

for (const operator of new Set(cases.map((c) => c.operator)))
  test(`${operator}: values, gradients, layouts, threads`, async () => {
    const before = await settled()
    for (const c of cases) if (c.operator === operator) scope(() => check(c))
    syncBlocking()
    assert.is(memory().bytes, before)
  })

test('what the cases take 16-bit floats for: every bit pattern there and back', () => {
  for (const dtype of ['bfloat16', 'float16'] as const) {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i)
    widen(all, dtype).forEach((x, i) => {
      if (Number.isFinite(x)) assert.is(toBits(x, dtype), i)
    })
  }
  assert.equal(
    [1, -2, 0.5, 2 ** -24, 65504].map((x) => toBits(x, 'float16')),
    [0x3c00, 0xc000, 0x3800, 1, 0x7bff],
  )
  assert.equal(
    [1, -2, 0.5].map((x) => toBits(x, 'bfloat16')),
    [0x3f80, 0xc000, 0x3f00],
  )
})

// ---- random numbers ----

const n = 200_000
/** Mean of f over the numbers. */
const average = (data: ArrayLike<number>, f = (x: number): number => x): number => {
  let sum = 0
  for (let i = 0; i < data.length; i++) sum += f(data[i]!)
  return sum / data.length
}
const numbers = (f: (r: Random) => { dataBlocking(): unknown }, seed = 1): Float32Array =>
  scope(() => f(new Random(seed)).dataBlocking() as Float32Array)
/** Within four standard errors. */
const near = (value: number, expected: number, deviation: number, count = n): void => {
  assert.ok(Math.abs(value - expected) < (4 * deviation) / Math.sqrt(count), `${value}, expected ${expected}`)
}

test('uniform numbers: mean, variance, every tenth of the range, neighbours independent, never the upper end', () => {
  const u = numbers((r) => r.uniform([n]))
  assert.ok(u.every((x) => x >= 0 && x < 1))
  near(average(u), 0.5, Math.sqrt(1 / 12))
  near(
    average(u, (x) => (x - 0.5) ** 2),
    1 / 12,
    Math.sqrt(1 / 180),
  )
  for (let k = 0; k < 10; k++)
    near(
      average(u, (x) => (Math.floor(x * 10) === k ? 1 : 0)),
      0.1,
      0.3,
    )
  for (const lag of [1, 2, 3, 4])
    near(average(u.subarray(lag).map((x, i) => (x - 0.5) * (u[i]! - 0.5))), 0, 1 / 12, n - lag)
  const v = numbers((r) => r.uniform([n], -3, 5))
  near(average(v), 1, 8 * Math.sqrt(1 / 12))
  assert.ok(v.every((x) => x >= -3 && x < 5))
  // Where float32 holds two numbers in the range, rounding would reach the upper one.
  assert.ok(numbers((r) => r.uniform([1000], 1, 1 + 2 ** -23)).every((x) => x === 1))
  assert.ok(numbers((r) => r.uniform([1000], 1, 1 + 2 ** -22)).every((x) => x === 1 || x === 1 + 2 ** -23))
  assert.ok(numbers((r) => r.uniform([10], 2, 2)).every((x) => x === 2))
})

test('normal numbers: four moments, tails, neighbours independent', () => {
  const z = numbers((r) => r.normal([n]))
  near(average(z), 0, 1)
  near(
    average(z, (x) => x * x),
    1,
    Math.sqrt(2),
  )
  near(
    average(z, (x) => x ** 3),
    0,
    Math.sqrt(15),
  )
  near(
    average(z, (x) => x ** 4),
    3,
    Math.sqrt(96),
  )
  near(
    average(z, (x) => (Math.abs(x) > 1.959964 ? 1 : 0)),
    0.05,
    Math.sqrt(0.05 * 0.95),
  )
  near(
    average(z, (x) => (Math.abs(x) > 3.290527 ? 1 : 0)),
    0.001,
    Math.sqrt(0.001 * 0.999),
  )
  for (const lag of [1, 2, 3, 4]) near(average(z.subarray(lag).map((x, i) => x * z[i]!)), 0, 1, n - lag)
  const w = numbers((r) => r.normal([n], 7, 0.5))
  near(average(w), 7, 0.5)
  near(
    average(w, (x) => (x - 7) ** 2),
    0.25,
    0.25 * Math.sqrt(2),
  )
})

for (const kind of ['uniform', 'normal'] as const)
  test(`${kind} numbers: by seed, stream and place alone`, () => {
    const long = numbers((r) => r[kind]([n]))
    threads(1)
    assert.equal(
      numbers((r) => r[kind]([n])),
      long,
    )
    threads(2)
    assert.equal(
      numbers((r) => r[kind]([n])),
      long,
    )
    for (const length of [0, 1, 2, 3, 5, 1023])
      assert.equal(
        numbers((r) => r[kind]([length])),
        long.slice(0, length),
      )
    assert.equal(
      numbers((r) => r[kind]([7, 33])),
      long.slice(0, 231),
    )
    const second = numbers((r) => {
      r[kind]([3])
      return r[kind]([n])
    })
    const other = numbers((r) => r[kind]([n]), 2)
    const deviation = kind === 'uniform' ? 1 / 12 : 1
    const middle = kind === 'uniform' ? 0.5 : 0
    for (const x of [second, other]) {
      assert.ok(average(x.map((v, i) => (v === long[i] ? 1 : 0))) < 0.001)
      near(average(x.map((v, i) => (v - middle) * (long[i]! - middle))), 0, deviation)
    }
  })

test.run()
