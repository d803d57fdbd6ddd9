// The cases of `npm run test:full`: every pair of sizes for the dimensions of every operator, with tails of one and of
// seven, tiles, tiles and one, several tiles. With three free dimensions the index of the third size is the sum of the
// other two, so that any two of them have every pair of sizes. `npm test` runs test/ops/cases.ts instead.
import { adamw, addSquareSum } from '../../lib/ops/adamw.js'
import { argmax } from '../../lib/ops/argmax.js'
import { cacheAppend } from '../../lib/ops/cache-append.js'
import { cast, contiguous, copy, full, zeros } from '../../lib/ops/copy.js'
import { add, gate, gelu, geluTanh, multiply, relu, scale } from '../../lib/ops/elementwise.js'
import { embedding } from '../../lib/ops/embedding.js'
import { linear } from '../../lib/ops/linear.js'
import { layerNorm } from '../../lib/ops/layernorm.js'
import { lora, loraPack } from '../../lib/ops/lora.js'
import { patchify } from '../../lib/ops/patchify.js'
import { mean, sumDim, sumLeading } from '../../lib/ops/reduce.js'
import { rmsNorm } from '../../lib/ops/rmsnorm.js'
import { rope } from '../../lib/ops/rope.js'
import { siluMul } from '../../lib/ops/silu-mul.js'
import { narrow, permute, reshape, swap } from '../../lib/ops/views.js'
import { attend, attendToSource, cases, define, loss, manyAtOnce, routed } from '../ops/cases.js'
import { type Draw, type Input, type OpCase, canBeNarrow, input } from '../ops/support.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import * as nd from '../oracle/array.js'
import * as oracle from '../oracle/ops.js'

export const sizes = [1, 7, 15, 16, 17, 31, 33, 63, 64, 65, 128, 160, 161, 257]
const modes = ['off', 'score', 'attention'] as const
const weights = ['float32', 'bfloat16', 'float16'] as const

const turn = <T>(list: readonly T[], i: number): T => list[i % list.length]!
/** Every pair of sizes, with their indices. */
const pairs = sizes.flatMap((a, i) => sizes.map((b, j) => [a, b, i, j] as const))
const weight = (d: Draw, shape: readonly number[], dtype: (typeof weights)[number]): Input =>
  dtype === 'float32' ? d.normal(shape) : d.half(shape, dtype)

/**
 * Cases in which a query sees no key. The operators' result is 0 then, as attention.h says, but the formulas in float64
 * give the mean of all values.
 */
export const unseen = new Set<string>()

const before = cases.length

for (const [a, b, i, j] of pairs) {
  const shape = [a, b]
  const third = turn(sizes, i + j)

  // ---- elementwise ----
  const [one, two] = [
    (d: Draw) => ({ x: d.normal(shape, 2) }),
    (d: Draw) => ({ a: d.normal(shape, 2), b: d.normal(shape) }),
  ]
  define(
    'add',
    `[${shape}]`,
    two,
    ['a', 'b'],
    (t) => add(t.a, t.b, -1.5),
    (t) => nd.add(t.a, nd.scale(t.b, -1.5)),
  )
  define(
    'add',
    `[${shape}] + [${b}] repeated`,
    (d) => ({ a: d.normal(shape), b: d.normal([b]) }),
    ['a', 'b'],
    (t) => add(t.a, t.b, 0.25),
    (t) => nd.add(t.a, nd.scale(nd.repeat(t.b, 0, a), 0.25)),
  )
  define(
    'scale',
    `[${shape}]`,
    one,
    ['x'],
    (t) => scale(t.x, -0.375),
    (t) => nd.scale(t.x, -0.375),
  )
  define(
    'multiply',
    `[${shape}]`,
    two,
    ['a', 'b'],
    (t) => multiply(t.a, t.b),
    (t) => nd.zip(t.a, t.b, (x, y) => x * y),
  )
  define(
    'gelu',
    `[${shape}]`,
    one,
    ['x'],
    (t) => gelu(t.x),
    (t) => oracle.gelu(t.x),
  )
  define(
    'geluTanh',
    `[${shape}]`,
    one,
    ['x'],
    (t) => geluTanh(t.x),
    (t) => oracle.geluTanh(t.x),
  )
  define(
    'relu',
    `[${shape}]`,
    (d) => ({ x: d.apart(shape) }),
    ['x'],
    (t) => relu(t.x),
    (t) => oracle.relu(t.x),
  )
  define(
    'siluMul',
    `[${shape}]`,
    two,
    ['a', 'b'],
    (t) => siluMul(t.a, t.b),
    (t) => oracle.siluMul(t.a, t.b),
  )
  define(
    'gate',
    `[${shape}]`,
    (d) => ({ ...two(d), g: d.normal([1]) }),
    ['a', 'b', 'g'],
    (t) => gate(t.a, t.b, t.g),
    (t) => nd.zip(t.a, t.b, (x, y) => x + Math.tanh(t.g.data[0]!) * (y - x)),
  )

  /** All elements but the first: no access of 16 bytes may begin there. */
  const behind = (t: Tensor): Tensor => reshape(narrow(t, 0, 1, a * b), shape)
  const after = (t: nd.NdArray): nd.NdArray => nd.reshape(nd.slice(t, 0, 1, a * b + 1), shape)
  const [longer, other] = [(d: Draw) => ({ x: d.normal([a * b + 1]) }), (d: Draw) => ({ a: d.normal([a * b + 1]) })]
  define(
    'gelu',
    `[${shape}] behind one`,
    longer,
    ['x'],
    (t) => gelu(behind(t.x)),
    (t) => oracle.gelu(after(t.x)),
  )
  define(
    'add',
    `[${shape}] behind one + [${b}] repeated`,
    (d) => ({ ...other(d), b: d.normal([b]) }),
    ['a', 'b'],
    (t) => add(behind(t.a), t.b, 0.25),
    (t) => nd.add(after(t.a), nd.scale(nd.repeat(t.b, 0, a), 0.25)),
  )
  define(
    'siluMul',
    `[${shape}] behind one`,
    (d) => ({ ...other(d), b: d.normal(shape) }),
    ['a', 'b'],
    (t) => siluMul(behind(t.a), t.b),
    (t) => oracle.siluMul(after(t.a), t.b),
  )
  define(
    'siluMul',
    `columns of [${a},${2 * b}]`,
    (d) => ({ x: d.normal([a, 2 * b], 2) }),
    ['x'],
    (t) => siluMul({ of: t.x, start: 0, width: b }, { of: t.x, start: b, width: b }),
    (t) => oracle.siluMul(nd.slice(t.x, 1, 0, b), nd.slice(t.x, 1, b, 2 * b)),
  )

  // ---- copies ----
  for (const dtype of weights) {
    const x = (d: Draw) => ({ x: weight(d, shape, dtype) })
    const narrow = dtype !== 'float32'
    define(
      'contiguous',
      `of [${shape}] turned, ${dtype}`,
      x,
      [],
      (t) => contiguous(permute(t.x, [1, 0])),
      (t) => nd.permute(t.x, [1, 0]),
      { narrow },
    )
    define(
      'cast',
      `[${shape}] from ${dtype}`,
      x,
      [],
      (t) => cast(t.x, narrow ? 'float32' : 'bfloat16'),
      (t) => t.x,
      { narrow: true },
    )
  }
  const wider = (d: Draw) => ({ x: d.normal([a, b + third]) })
  define(
    'contiguous',
    `columns of [${a},${b + third}], the last ${b}`,
    wider,
    [],
    (t) => contiguous(narrow(t.x, 1, third, b)),
    (t) => nd.slice(t.x, 1, third, third + b),
  )
  define(
    'swap',
    `[2,${turn([3, 2, 5], i)},${a},${b}]`,
    (d) => ({ x: d.normal([2, turn([3, 2, 5], i), a, b]) }),
    ['x'],
    (t) => swap(t.x),
    (t) => nd.permute(t.x, [0, 2, 1, 3]),
  )
  define(
    'swap',
    `[2,${a},${b},3]`,
    (d) => ({ x: d.normal([2, a, b, 3]) }),
    ['x'],
    (t) => swap(t.x),
    (t) => nd.permute(t.x, [0, 2, 1, 3]),
  )

  // ---- sums ----
  const over = (s: readonly number[], dim: number): void => {
    const x = (d: Draw) => ({ x: d.normal(s, 1, 0.5) })
    define(
      'sumDim',
      `[${s}] over ${dim}`,
      x,
      ['x'],
      (t) => sumDim(t.x, dim),
      (t) => nd.scale(nd.mean(t.x, dim), s[dim]!),
    )
    define(
      'mean',
      `[${s}] over ${dim}`,
      x,
      ['x'],
      (t) => mean(t.x, dim),
      (t) => nd.mean(t.x, dim),
    )
  }
  over(shape, 0)
  over(shape, 1)
  over([turn([2, 3, 5], i + j), a, b], 1)
  define(
    'sumLeading',
    `[${shape}] to [${b}]`,
    (d) => ({ x: d.normal(shape, 1, 0.5) }),
    [],
    (t) => sumLeading(t.x, [b]),
    (t) => nd.scale(nd.mean(t.x, 0), a),
  )

  // ---- norms and loss ----
  const scaled = (d: Draw) => ({
    x: d.normal(shape, 1.5, turn([0, 0, 3], i + j)),
    weight: d.normal([b], 0.5, 1),
    bias: d.normal([b]),
  })
  // The gradient of a row of one number is a multiple of eps: with a small eps it is rounding error.
  const eps = b === 1 ? 1 : 1e-5
  define(
    'layerNorm',
    `[${shape}]`,
    scaled,
    ['x', 'weight', 'bias'],
    (t) => layerNorm(t.x, t.weight, t.bias, eps),
    (t) => oracle.layerNorm(t.x, t.weight, t.bias, eps),
  )
  define(
    'rmsNorm',
    `[${shape}]`,
    (d) => {
      const { x, weight } = scaled(d)
      return { x, weight }
    },
    ['x', 'weight'],
    (t) => rmsNorm(t.x, t.weight, eps),
    (t) => oracle.rmsNorm(t.x, t.weight, eps),
  )
  loss(
    `[${shape}]`,
    (d) => d.normal(shape, 3),
    (r, d) => (r % 3 === 1 ? -1 : Number(d.integers([1], 0, b).data[0])),
    1 / a,
  )

  // ---- decoding ----
  const best = (t: { x: nd.NdArray }): nd.NdArray =>
    nd.array(
      [a],
      Array.from({ length: a }, (_, row) => {
        const values = [...t.x.data.slice(row * b, (row + 1) * b)]
        return values.every(Number.isFinite) ? values.indexOf(Math.max(...values)) : -1
      }),
    )
  /** A row in three has a number that is not finite. */
  const odd = ({ shape, wide, dtype }: Input): Input =>
    input(
      shape,
      wide.data.map((v, k) => {
        const row = Math.floor(k / b)
        return row % 3 === 1 && k % b === (row * 5) % b ? turn([NaN, Infinity, -Infinity], row) : v
      }),
      dtype,
    )
  for (const [variant, x, narrow] of [
    ['', (d: Draw) => d.normal(shape), false],
    [' with equals', (d: Draw) => input(shape, d.integers(shape, -2, 3).wide.data), false],
    [' with equals, bfloat16', (d: Draw) => d.half(shape, 'bfloat16', 0.02, 1), true],
    [', some not finite', (d: Draw) => odd(d.normal(shape)), false],
  ] as const)
    define(
      'argmax',
      `[${shape}]${variant}`,
      (d) => ({ x: x(d) }),
      [],
      (t) => cast(argmax(t.x), 'float32'),
      best,
      { narrow },
    )
  const [batch, start] = [turn([1, 2, 3], i + j), turn([0, 1, third], i + 2 * j)]
  const slots = start + a + turn([0, 5], i + j)
  for (const dtype of ['float32', 'bfloat16'] as const)
    define(
      'cacheAppend',
      `${batch}×${a} of ${slots} rows of ${b} at ${start}, ${dtype}`,
      (d) => ({
        new: weight(d, [batch, a, 2 * b], dtype),
        at: d.integers([1], start, start + 1),
        keys: weight(d, [batch, slots, b], dtype),
        values: weight(d, [batch, slots, b], dtype),
      }),
      [],
      (t) => {
        const [keys, values] = [copy(t.keys), copy(t.values)]
        cacheAppend(narrow(t.new, 2, 0, b), narrow(t.new, 2, b, b), t.at, keys, values)
        return [keys, values]
      },
      (t) =>
        [t.keys, t.values].map((cache, which) => {
          const [rows, out] = [nd.slice(t.new, 2, which * b, (which + 1) * b), nd.clone(cache)]
          for (let r = 0; r < batch; r++)
            out.data.set(rows.data.slice(r * a * b, (r + 1) * a * b), (r * slots + start) * b)
          return out
        }),
      { narrow: dtype === 'bfloat16' },
    )

  // ---- rows by id, the router, the optimiser ----
  const places = (d: Draw) => d.integers([a], 0, third)
  define(
    'embedding',
    `[${a}] of ${third}×${b}`,
    (d) => ({ ids: places(d), table: d.normal([third, b]) }),
    ['table'],
    (t) => embedding(t.ids, t.table),
    (t) => oracle.embedding(t.ids, t.table),
  )
  const wide = turn(weights, i + 2 * j)
  define(
    'embedding',
    `[${a}] of ${third}×${b} ${wide}, as bfloat16`,
    (d) => ({ ids: places(d), table: weight(d, [third, b], wide) }),
    wide === 'float32' ? ['table'] : [],
    (t) => embedding(t.ids, t.table, 'bfloat16'),
    (t) => oracle.embedding(t.ids, t.table),
    { narrow: true },
  )
  routed((i + j) % 2 ? [1, a, 2, b] : [2, a, b], 1, third, 1 + ((i + 3 * j) % 8))
  define(
    'addSquareSum',
    `[${shape}]`,
    (d) => ({ x: d.normal(shape) }),
    [],
    (t) => {
      const sum = full([1], 0.5, 'float32', t.x.device)
      addSquareSum(sum, t.x)
      return sum
    },
    (t) => nd.array([1], [0.5 + nd.dot(t.x.data, t.x.data)]),
  )
  define(
    'adamw',
    `[${shape}]`,
    (d) => ({ w: d.normal(shape), g: d.normal(shape), s: d.uniform([1], 0.2, 0.9) }),
    [],
    (t) => {
      const [w, m, v] = [copy(t.w), zeros(shape, 'float32', t.w.device), zeros(shape, 'float32', t.w.device)]
      for (const step of [1, 2])
        adamw(w, t.g, m, v, { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, step, scale: t.s })
      return [w, m, v]
    },
    (t) => {
      const [w, state] = [nd.clone(t.w), oracle.moments(a * b)]
      for (let step = 0; step < 2; step++)
        oracle.adamw(
          w.data,
          t.g.data.map((g) => g * t.s.data[0]!),
          state,
          { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05 },
        )
      return [w, nd.array(shape, state.average), nd.array(shape, state.square)]
    },
  )
  manyAtOnce([shape, [b], [a]], { clip: turn([0, 0.5], i + j), losses: turn([0, 1, 3], i), steps: 2 })

  // ---- products: M×K, and N with them ----
  for (const [dtype, n] of [
    ['float32', third],
    [turn(['bfloat16', 'float16'] as const, i + j), turn(sizes, i + 3 * j)],
  ] as const)
    define(
      'linear',
      `[${shape}] to ${n}, ${dtype}`,
      (d) => ({ x: d.normal(shape), w: weight(d, [n, b], dtype), b: d.normal([n]) }),
      dtype === 'float32' ? ['x', 'w', 'b'] : ['x', 'b'],
      (t) => linear(t.x, t.w, t.b),
      (t) => oracle.linear(t.x, t.w, t.b),
    )
  for (const [form, n] of [
    ['int8', third],
    ['nf4', turn(sizes, i + 3 * j)],
  ] as const)
    define(
      'linear',
      `[${shape}] to ${n}, ${form}`,
      (d) => ({ x: d.normal(shape), w: d.quantised([n, b], form), b: d.normal([n]) }),
      ['x', 'b'],
      (t) => linear(t.x, t.w, t.b),
      (t) => oracle.linear(t.x, t.w, t.b),
    )
  const rank = turn([1, 4, 7, 8, 16, 17, 32, 40, 64], i + 2 * j)
  define(
    'lora',
    `[${shape}] to ${third}, ${wide}, rank ${rank}`,
    (d) => ({
      x: d.normal(shape),
      w: weight(d, [third, b], wide),
      bias: d.normal([third]),
      a: d.normal([rank, b], 1 / rank),
      b: d.normal([third, rank]),
    }),
    ['x', 'a', 'b'],
    (t) => lora(t.x, t.w, t.bias, t.a, t.b, 16 / rank),
    (t) => oracle.lora(t.x, t.w, t.bias, t.a, t.b, 16),
  )

  // Updates of the first and of the last rows of a weight, or of the last ones alone, with rows between that have none.
  const [ranks, gap, both] = [[rank, turn([1, 3, 16], j)] as const, turn([0, 1, 9], i), (i + j) % 4 !== 0]
  const [from, all] = both ? [third + gap, third + gap + a] : [gap, gap + a]
  define(
    'loraPack',
    `${both ? `${third} rows of rank ${ranks[1]} and ` : ''}${a} of rank ${rank}, of ${all}×${b}`,
    (d) => ({
      a1: d.normal([ranks[0], b]),
      b1: d.normal([a, ranks[0]]),
      ...(both && { a2: d.normal([ranks[1], b]), b2: d.normal([third, ranks[1]]) }),
    }),
    both ? ['a1', 'b1', 'a2', 'b2'] : ['a1', 'b1'],
    (t: Record<string, Tensor>) => {
      const last = { A: t.a1!, B: t.b1!, first: from }
      const { A, B } = loraPack(both ? [last, { A: t.a2!, B: t.b2!, first: 0 }] : [last], all)
      return [A, B]
    },
    (t: Record<string, nd.NdArray>) => {
      const width = both ? ranks[0] + ranks[1] : ranks[0]
      const B = nd.array([all, width])
      const put = (x: nd.NdArray, first: number, column: number): void => {
        const [rows, r] = x.shape as [number, number]
        for (let row = 0; row < rows; row++)
          B.data.set(x.data.slice(row * r, (row + 1) * r), (first + row) * width + column)
      }
      put(t.b1!, from, 0)
      if (both) put(t.b2!, 0, ranks[0])
      return [both ? nd.concat([t.a1!, t.a2!], 0) : t.a1!, B]
    },
  )

  // ---- attention across: queries × keys ----
  attend({
    q: [1, a, turn([64, 8, 88], i + j)],
    k: [1, b, turn([64, 8, 88], i + j)],
    heads: 1,
    mode: turn(modes, i + 2 * j),
    choices: 1 + ((i + j) % 3),
    padding: (i + j) % 2 === 1,
    causal: i % 3 === 1,
  })
  if (i % 3 === 1 && a > b) unseen.add(cases.at(-1)!.name)
  const d = turn([64, 8, 88], i + j + 1)
  attend({ q: [1, a, d], k: [1, b, d], heads: 1, padding: i % 2 === 1, causal: a <= b, biased: true })
  attendToSource(
    [1, a, turn([64, 16, 88], i + j)],
    b,
    third,
    turn([1, 2], i),
    turn([0, 1, 16], j),
    turn(weights, i + 2 * j),
  )
}

// ---- rotary positions and patches ----
const even = [...new Set(sizes.map((n) => n + (n % 2)))]
for (const [i, n] of sizes.entries())
  for (const [j, d] of even.entries()) {
    const shape = [turn([1, 2], i + j), n, turn([1, 2, 3], i + j), d]
    define(
      'rope',
      `[${shape}]`,
      (r) => ({ x: r.normal(shape), positions: r.integers(shape.slice(0, 2), 0, 2048) }),
      ['x'],
      (t) => rope(t.x, t.positions, 1e4),
      (t) => nd.permute(oracle.rope(nd.permute(t.x, [0, 2, 1, 3]), t.positions, 1e4), [0, 2, 1, 3]),
    )
  }
for (const patch of sizes.filter((n) => n <= 33))
  for (const rows of [1, 2, 3, 5, 7])
    for (const columns of [1, 2, 3, 5, 7]) {
      const shape = [turn([1, 2], rows + columns), turn([1, 3], rows + patch), rows * patch, columns * patch]
      define(
        'patchify',
        `[${shape}] by ${patch}`,
        (d) => ({ x: d.normal(shape) }),
        [],
        (t) => patchify(t.x, patch),
        (t) => oracle.patchify(t.x, patch),
      )
    }

// ---- attention: in space, in time ----
for (const [i, n] of sizes.entries())
  for (const [m, mode] of modes.entries()) {
    const choices = mode === 'off' ? 1 : n <= 33 ? turn([8, 1, 2, 4], i + m) : turn([2, 3, 4], i + m)
    const heads = n <= 33 ? 2 : 1
    for (const d of [16, 64, 88]) {
      for (const padding of [false, true]) {
        for (const causal of [false, true]) attend({ q: [1, n, heads * d], heads, mode, choices, padding, causal })
        attend({ q: [1, n, 2, d], heads: 1, over: 1, mode, choices, padding })
      }
    }
    for (const [j, d] of [1, 7, 33, 128, 160].entries())
      attend({ q: [1, n, d], heads: 1, mode, choices, padding: (i + j + m) % 2 === 1, causal: (i + j) % 4 > 1 })
  }

/** The cases of this file, without those of `npm test`. */
const whole: readonly OpCase[] = cases.splice(before)

/** For functions of lib/ops, the native operator whose kernels they run, where its name is another. */
const native: Record<string, string> = {
  add: 'elementwise',
  scale: 'elementwise',
  multiply: 'elementwise',
  gelu: 'elementwise',
  geluTanh: 'elementwise',
  relu: 'elementwise',
  siluMul: 'silu_mul',
  gate: 'elementwise',
  contiguous: 'copy',
  cast: 'copy',
  sumDim: 'reduce',
  mean: 'reduce',
  sumLeading: 'reduce',
  layerNorm: 'layernorm',
  rmsNorm: 'rmsnorm',
  crossEntropy: 'cross_entropy',
  addSquareSum: 'adamw',
  adamwAll: 'adamw',
  sourceAttention: 'source_attention',
  cacheAppend: 'cache_append',
  loraPack: 'lora_pack',
}
export const operators = [...new Set(whole.map((c) => native[c.operator] ?? c.operator))]
export type Precision = 'float32' | 'bfloat16'

/** The cases of an operator. Cases whose inputs or results are bfloat16 run only as bfloat16 cases. */
export const casesOf = (operator: string, dtype: Precision): OpCase[] =>
  whole.filter(
    (c) =>
      (native[c.operator] ?? c.operator) === operator && (dtype === 'float32' ? !c.narrow : c.narrow || canNarrow(c)),
  )

const known = new Map<string, boolean>()
/** Whether a function's activations can be bfloat16, decided by its first case. */
const canNarrow = (c: OpCase): boolean => {
  if (!known.has(c.operator)) known.set(c.operator, canBeNarrow(c))
  return known.get(c.operator)!
}
