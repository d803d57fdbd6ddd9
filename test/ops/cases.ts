// One list of operator cases: inputs by seed, the call through lib/ops, the same in float64, and what gradients flow
// to.
// Correctness, gradients, layouts and reruns (run-cases.test.ts), a second backend and timings all walk this list. The
// sizes are tails and tiles of vector kernels: 1, 2, 7, 16, 17, 33, 65, 130; some cases are large enough to be shared
// out over threads; 0 where it means something.
import { accumulate, adamw, adamwAll, adamwSchedule, addSquareSum, gradientNorm } from '../../lib/ops/adamw.js'
import { argmax } from '../../lib/ops/argmax.js'
import { attention } from '../../lib/ops/attention.js'
import { cacheAppend } from '../../lib/ops/cache-append.js'
import { cast, contiguous, copy, full, zeros } from '../../lib/ops/copy.js'
import { IGNORE, crossEntropy } from '../../lib/ops/cross-entropy.js'
import { add, gate, gelu, geluTanh, multiply, relu, scale } from '../../lib/ops/elementwise.js'
import { embedding } from '../../lib/ops/embedding.js'
import { linear, linearGelu } from '../../lib/ops/linear.js'
import { layerNorm, layerNormJoin, layerNormSplit } from '../../lib/ops/layernorm.js'
import { lora, loraPack } from '../../lib/ops/lora.js'
import { patchify } from '../../lib/ops/patchify.js'
import { dequantize } from '../../lib/ops/quantize.js'
import { mean, sumDim, sumLeading } from '../../lib/ops/reduce.js'
import { rmsNorm } from '../../lib/ops/rmsnorm.js'
import { rope } from '../../lib/ops/rope.js'
import { router } from '../../lib/ops/router.js'
import { siluMul } from '../../lib/ops/silu-mul.js'
import { sourceAttention } from '../../lib/ops/source-attention.js'
import { concat, expand, narrow, permute, reshape, split, swap } from '../../lib/ops/views.js'
import { type Tensor, empty } from '../../lib/tensor/tensor.js'
import type { DType } from '../../lib/tensor/dtype.js'
import { type NdArray, map, size, zip } from '../oracle/array.js'
import * as nd from '../oracle/array.js'
import * as oracle from '../oracle/ops.js'
import { activations, Draw, type Input, type OpCase, input, toBits, widen } from './support.js'

export const cases: OpCase[] = []

Object.assign(activations, {
  add: ['a', 'b', 'x'],
  scale: ['x'],
  multiply: ['a', 'b', 'x'],
  gelu: ['x'],
  geluTanh: ['x'],
  relu: ['x'],
  siluMul: ['a', 'b', 'x'],
  gate: ['a', 'b'],
  layerNorm: ['x', 'z'],
  rmsNorm: ['x'],
  rope: ['x'],
  patchify: ['x'],
  sumDim: ['x'],
  mean: ['x'],
  sumLeading: ['x'],
  linear: ['x', 'r'],
  linearGelu: ['x'],
  lora: ['x'],
  attention: ['q', 'k', 'v', 'x'],
  router: ['x'],
  sourceAttention: ['q', 'x'],
  crossEntropy: ['logits'],
  swap: ['x'],
} satisfies typeof activations)

/** Adds a case to the list. */
export function define<N extends string>(
  operator: string,
  variant: string,
  inputs: (draw: Draw) => Record<N, Input>,
  differentiable: readonly NoInfer<N>[],
  run: (i: Record<N, Tensor>) => Tensor | Tensor[],
  reference: (i: Record<N, NdArray>) => NdArray | NdArray[],
  { narrow = false } = {},
): void {
  const name = `${operator} ${variant}`
  cases.push({
    operator,
    name,
    differentiable,
    narrow,
    inputs: () => inputs(new Draw(name)),
    run,
    oracle: reference,
  } as OpCase)
}

const text = (shape: readonly number[]): string => `[${shape}]`
/** The elements of `a` repeated to `shape`, dimensions aligned at the last. */
function stretch(a: NdArray, shape: readonly number[]): NdArray {
  if (!size(shape)) return nd.array(shape)
  let out = nd.reshape(a, [...shape.slice(a.shape.length).map(() => 1), ...a.shape])
  shape.forEach((n, i) => {
    if (out.shape[i] !== n)
      out = nd.reshape(
        nd.repeat(out, i, n),
        out.shape.map((m, j) => (j === i ? n : m)),
      )
  })
  return out
}

// ---- elementwise ----

const flat = [[1], [2, 7], [7, 33], [17, 1, 16], [0, 7], [41, 65, 33]]
const wide16 = ['bfloat16', 'float16'] as const

for (const shape of flat) {
  const [one, two] = [
    (d: Draw) => ({ x: d.normal(shape, 2) }),
    (d: Draw) => ({ a: d.normal(shape, 2), b: d.normal(shape) }),
  ]
  define(
    'add',
    text(shape),
    two,
    ['a', 'b'],
    (i) => add(i.a, i.b),
    (i) => nd.add(i.a, i.b),
  )
  define(
    'add',
    `${text(shape)} scale −1.5`,
    two,
    ['a', 'b'],
    (i) => add(i.a, i.b, -1.5),
    (i) => nd.add(i.a, nd.scale(i.b, -1.5)),
  )
  define(
    'scale',
    text(shape),
    one,
    ['x'],
    (i) => scale(i.x, -0.375),
    (i) => nd.scale(i.x, -0.375),
  )
  define(
    'multiply',
    text(shape),
    two,
    ['a', 'b'],
    (i) => multiply(i.a, i.b),
    (i) => zip(i.a, i.b, (x, y) => x * y),
  )
  define(
    'gelu',
    text(shape),
    one,
    ['x'],
    (i) => gelu(i.x),
    (i) => oracle.gelu(i.x),
  )
  define(
    'geluTanh',
    text(shape),
    one,
    ['x'],
    (i) => geluTanh(i.x),
    (i) => oracle.geluTanh(i.x),
  )
  define(
    'relu',
    text(shape),
    (d) => ({ x: d.apart(shape) }),
    ['x'],
    (i) => relu(i.x),
    (i) => oracle.relu(i.x),
  )
  define(
    'siluMul',
    text(shape),
    two,
    ['a', 'b'],
    (i) => siluMul(i.a, i.b),
    (i) => oracle.siluMul(i.a, i.b),
  )
  define(
    'gate',
    text(shape),
    (d) => ({ ...two(d), g: d.normal([1]) }),
    ['a', 'b', 'g'],
    (i) => gate(i.a, i.b, i.g),
    (i) => {
      const t = Math.tanh(i.g.data[0]!)
      return zip(i.a, i.b, (x, y) => x + t * (y - x))
    },
  )
}
for (const [shape, tail] of [
  [[2, 7], [7]],
  [
    [5, 16, 17],
    [16, 17],
  ],
  [[3, 2, 7], [7]],
  [[7, 1], [1]],
  [[7, 3], []],
  [[0, 7], [7]],
  [[41, 33, 65], [65]],
] as const)
  for (const s of [1, 0.25])
    define(
      'add',
      `${text(shape)} + ${text(tail)} repeated, scale ${s}`,
      (d) => ({ a: d.normal(shape), b: d.normal(tail) }),
      ['a', 'b'],
      (i) => add(i.a, i.b, s),
      (i) => nd.add(i.a, nd.scale(stretch(i.b, shape), s)),
    )
// Accesses of 16 bytes: rows that begin beside them, tails, periods that are no multiple of 4 or 8 elements.
for (const n of [3, 4, 8, 40, 41, 4097]) {
  const [one, two] = [
    (d: Draw) => ({ x: d.normal([n + 1]) }),
    (d: Draw) => ({ a: d.normal([n + 1]), b: d.normal([n]) }),
  ]
  const rest = (t: Tensor): Tensor => narrow(t, 0, 1, n)
  const of = (a: NdArray): NdArray => nd.slice(a, 0, 1, n + 1)
  define(
    'gelu',
    `of ${n} elements behind one`,
    one,
    ['x'],
    (i) => gelu(rest(i.x)),
    (i) => oracle.gelu(of(i.x)),
  )
  define(
    'scale',
    `of ${n} elements behind one`,
    one,
    ['x'],
    (i) => scale(rest(i.x), 3),
    (i) => nd.scale(of(i.x), 3),
  )
  define(
    'add',
    `${n} elements behind one and ${n}`,
    two,
    ['a', 'b'],
    (i) => add(rest(i.a), i.b, 0.5),
    (i) => nd.add(of(i.a), nd.scale(i.b, 0.5)),
  )
  define(
    'add',
    `${n} elements and ${n} behind one`,
    two,
    ['a', 'b'],
    (i) => add(i.b, rest(i.a), 0.5),
    (i) => nd.add(i.b, nd.scale(of(i.a), 0.5)),
  )
  define(
    'siluMul',
    `${n} elements behind one and ${n}`,
    two,
    ['a', 'b'],
    (i) => siluMul(rest(i.a), i.b),
    (i) => oracle.siluMul(of(i.a), i.b),
  )
  define(
    'gate',
    `${n} elements behind one and ${n}`,
    (d) => ({ ...two(d), g: d.normal([1]) }),
    ['a', 'b', 'g'],
    (i) => gate(rest(i.a), i.b, i.g),
    (i) => zip(of(i.a), i.b, (x, y) => x + Math.tanh(i.g.data[0]!) * (y - x)),
  )
}
for (const [rows, period] of [
  [3, 12],
  [2, 20],
  [5, 6],
  [4, 9],
  [8, 5],
  [16, 3],
  [2, 8],
  [9, 24],
] as const)
  define(
    'add',
    `[${rows},${period}] + [${period}] repeated and behind one`,
    (d) => ({ a: d.normal([rows, period]), b: d.normal([period + 1]) }),
    ['a', 'b'],
    (i) => add(i.a, narrow(i.b, 0, 1, period), 2),
    (i) => nd.add(i.a, nd.scale(stretch(nd.slice(i.b, 0, 1, period + 1), [rows, period]), 2)),
  )
define(
  'add',
  'x + x',
  (d) => ({ x: d.normal([7, 5]) }),
  ['x'],
  (i) => add(i.x, i.x, 2),
  (i) => nd.scale(i.x, 3),
)
define(
  'multiply',
  'x∘x',
  (d) => ({ x: d.normal([7, 5]) }),
  ['x'],
  (i) => multiply(i.x, i.x),
  (i) => map(i.x, (x) => x * x),
)
define(
  'gelu',
  'far from 0',
  () => ({ x: input([8], [-40, -12, -6, -3, 3, 6, 12, 40]) }),
  ['x'],
  (i) => gelu(i.x),
  (i) => oracle.gelu(i.x),
)
define(
  'siluMul',
  'far from 0',
  (d) => ({ a: input([6], [-90, -20, -5, 5, 20, 90]), b: d.normal([6]) }),
  ['a', 'b'],
  (i) => siluMul(i.a, i.b),
  (i) => oracle.siluMul(i.a, i.b),
)
for (const [rows, width] of [
  [[1], 1],
  [[7], 8],
  [[2, 3], 24],
  [[5], 33],
  [[0], 8],
  [[41, 3], 344],
] as const)
  define(
    'siluMul',
    `columns of ${text([...rows, 2 * width])}`,
    (d) => ({ x: d.normal([...rows, 2 * width], 2) }),
    ['x'],
    (i) => siluMul({ of: i.x, start: 0, width }, { of: i.x, start: width, width }),
    (i) => oracle.siluMul(nd.slice(i.x, rows.length, 0, width), nd.slice(i.x, rows.length, width, 2 * width)),
  )
define(
  'siluMul',
  "columns of [6,11], of which 3 are nobody's",
  (d) => ({ x: d.normal([6, 11], 2) }),
  ['x'],
  (i) => siluMul({ of: i.x, start: 6, width: 4 }, { of: i.x, start: 1, width: 4 }),
  (i) => oracle.siluMul(nd.slice(i.x, 1, 6, 10), nd.slice(i.x, 1, 1, 5)),
)
define(
  'gate',
  'closed',
  (d) => ({ a: d.normal([3, 7]), b: d.normal([3, 7]), g: input([1], [0]) }),
  ['a', 'b', 'g'],
  (i) => gate(i.a, i.b, i.g),
  (i) => zip(i.a, i.b, (x, y) => x + Math.tanh(i.g.data[0]!) * (y - x)),
)

// ---- norms ----

/** f of x/2, and x/2 itself, whose gradient is there before that of f: the operator's backward adds it. */
const again =
  <I extends { x: Tensor }>(f: (x: Tensor, i: I) => Tensor) =>
  (i: I): Tensor[] => {
    const x = scale(i.x, 0.5)
    return [f(x, i), x]
  }

for (const [shape, eps, offset] of [
  [[3, 1], 1e-5, 0],
  [[5, 2], 0.5, 0],
  [[2, 3, 7], 1e-6, 0],
  [[7, 33], 1e-12, 0],
  [[17, 65], 1e-5, 20],
  [[2, 130], 1e-12, 0],
  [[0, 7], 1e-5, 0],
  [[53, 770], 1e-6, 0],
  [[5], 1e-5, 0],
  [[9, 160], 1e-6, 0],
  [[70, 31], 1e-5, 0],
  [[3, 768], 1e-5, 3],
  [[2, 1028], 1e-5, 0],
  [[2, 5120], 1e-6, 0],
  [[2, 5121], 1e-6, 1],
  [[1, 5124], 1e-6, 0],
] as const) {
  const inputs = (d: Draw) => ({
    x: d.normal(shape, 1.5, offset),
    weight: d.normal([shape.at(-1)!], 0.5, 1),
    bias: d.normal([shape.at(-1)!]),
  })
  const variant = `${text(shape)} eps ${eps}${offset ? ` mean ${offset}` : ''}`
  define(
    'layerNorm',
    variant,
    inputs,
    ['x', 'weight', 'bias'],
    (i) => layerNorm(i.x, i.weight, i.bias, eps),
    (i) => oracle.layerNorm(i.x, i.weight, i.bias, eps),
  )
  // Of one number, x/√(x² + eps) has the slope eps/…: nothing but rounding where eps is small.
  const e = shape.at(-1) === 1 ? 1 : eps
  define(
    'rmsNorm',
    variant,
    (d) => {
      const { x, weight } = inputs(d)
      return { x, weight }
    },
    ['x', 'weight'],
    (i) => rmsNorm(i.x, i.weight, e),
    (i) => oracle.rmsNorm(i.x, i.weight, e),
  )
  define(
    'layerNorm',
    `${variant}, and x again`,
    inputs,
    ['x', 'weight', 'bias'],
    again((x, i) => layerNorm(x, i.weight, i.bias, eps)),
    (i) => [oracle.layerNorm(nd.scale(i.x, 0.5), i.weight, i.bias, eps), nd.scale(i.x, 0.5)],
  )
  define(
    'rmsNorm',
    `${variant}, and x again`,
    (d) => {
      const { x, weight } = inputs(d)
      return { x, weight }
    },
    ['x', 'weight'],
    again((x, i) => rmsNorm(x, i.weight, e)),
    (i) => [oracle.rmsNorm(nd.scale(i.x, 0.5), i.weight, e), nd.scale(i.x, 0.5)],
  )
}

// Rows that part after the norm, and rows of several norms side by side: groups, rows of the first and of the second,
// width.
for (const [groups, first, second, width] of [
  [[1], 1, 1, 4],
  [[2, 3], 5, 2, 33],
  [[], 7, 9, 65],
  [[4], 3, 6, 768],
  [[3], 2, 2, 1028],
  [[2], 1, 2, 5124],
  [[2], 0, 3, 16],
  [[0], 2, 2, 8],
] as const) {
  const [shapes, whole, last] = [
    [first, second].map((n) => [...groups, n, width]) as [number[], number[]],
    [...groups, first + second, width],
    groups.length,
  ]
  const factors = (d: Draw) => ({ weight: d.normal([width], 0.5, 1), bias: d.normal([width]) })
  const variant = `${text(groups)} of ${first} and ${second} rows of ${width}`
  const cut = (t: NdArray): NdArray[] => [nd.slice(t, last, 0, first), nd.slice(t, last, first, first + second)]
  define(
    'layerNorm',
    `${variant}, cut in two`,
    (d) => ({ x: d.normal(whole, 1.5), ...factors(d) }),
    ['x', 'weight', 'bias'],
    (i) => layerNormSplit(i.x, i.weight, i.bias, 1e-5, first),
    (i) => cut(oracle.layerNorm(i.x, i.weight, i.bias, 1e-5)),
  )
  define(
    'layerNorm',
    `${variant}, cut in two, and x again`,
    (d) => ({ x: d.normal(whole, 1.5), ...factors(d) }),
    ['x', 'weight', 'bias'],
    (i) => {
      const x = scale(i.x, 0.5)
      return [...layerNormSplit(x, i.weight, i.bias, 1e-5, first), x]
    },
    (i) => [...cut(oracle.layerNorm(nd.scale(i.x, 0.5), i.weight, i.bias, 1e-5)), nd.scale(i.x, 0.5)],
  )
  define(
    'layerNorm',
    `${variant}, side by side`,
    (d) => ({ x: d.normal(shapes[0], 1.5), z: d.normal(shapes[1], 1.5), ...factors(d), w2: d.normal([width], 0.5, 1) }),
    ['x', 'z', 'weight', 'bias', 'w2'],
    (i) =>
      layerNormJoin([
        { x: i.x, weight: i.weight, bias: i.bias, eps: 1e-5 },
        { x: i.z, weight: i.w2, bias: i.bias, eps: 1e-6 },
      ]),
    (i) => nd.concat([oracle.layerNorm(i.x, i.weight, i.bias, 1e-5), oracle.layerNorm(i.z, i.w2, i.bias, 1e-6)], last),
  )
  define(
    'layerNorm',
    `${variant}, side by side, and the first again`,
    (d) => ({ x: d.normal(shapes[0], 1.5), z: d.normal(shapes[1], 1.5), ...factors(d) }),
    ['x', 'z', 'weight', 'bias'],
    (i) => {
      const x = scale(i.x, 0.5)
      return [
        layerNormJoin([
          { x, weight: i.weight, bias: i.bias, eps: 1e-5 },
          { x: i.z, weight: i.weight, bias: i.bias, eps: 1e-5 },
        ]),
        x,
      ]
    },
    (i) => [
      nd.concat(
        [oracle.layerNorm(nd.scale(i.x, 0.5), i.weight, i.bias, 1e-5), oracle.layerNorm(i.z, i.weight, i.bias, 1e-5)],
        last,
      ),
      nd.scale(i.x, 0.5),
    ],
  )
}

define(
  'layerNorm',
  'rows of one number each, eps 1e-12',
  (d) => ({
    x: input(
      [3, 7],
      Array.from({ length: 21 }, (_, i) => [0.3, -41.7, 1e-3][Math.floor(i / 7)]!),
    ),
    weight: d.normal([7]),
    bias: d.normal([7]),
  }),
  [],
  (i) => layerNorm(i.x, i.weight, i.bias, 1e-12),
  (i) => oracle.layerNorm(i.x, i.weight, i.bias, 1e-12),
)

// ---- rows by id, positions, patches ----

for (const [ids, rows, width] of [
  [[7], 3, 1],
  [[2, 16], 17, 7],
  [[], 5, 16],
  [[0], 5, 2],
  [[33], 1, 17],
  [[600], 3, 12],
  [[5], 2, 1030],
  [[8, 130], 65, 130],
] as const) {
  const places = (d: Draw) => d.integers(ids, 0, rows)
  define(
    'embedding',
    `${text(ids)} of ${rows}×${width}`,
    (d) => ({ ids: places(d), table: d.normal([rows, width]) }),
    ['table'],
    (i) => embedding(i.ids, i.table),
    (i) => oracle.embedding(i.ids, i.table),
  )
  for (const dtype of wide16)
    define(
      'embedding',
      `${text(ids)} of ${rows}×${width} ${dtype}`,
      (d) => ({ ids: places(d), table: d.half([rows, width], dtype) }),
      [],
      (i) => embedding(i.ids, i.table),
      (i) => oracle.embedding(i.ids, i.table),
    )
}

for (const [b, n, heads, d, theta] of [
  [1, 1, 1, 2, 1e4],
  [2, 7, 3, 12, 1e4],
  [3, 2, 1, 64, 1e6],
  [1, 17, 2, 88, 1e4],
  [0, 3, 1, 4, 1e4],
  [2, 65, 8, 64, 1e4],
] as const)
  define(
    'rope',
    `[${[b, n, heads, d]}] theta ${theta}`,
    (r) => ({ x: r.normal([b, n, heads, d]), positions: r.integers([b, n], 0, 2048) }),
    ['x'],
    (i) => rope(i.x, i.positions, theta),
    (i) => nd.permute(oracle.rope(nd.permute(i.x, [0, 2, 1, 3]), i.positions, theta), [0, 2, 1, 3]),
  )

for (const [b, n, heads, d, turned] of [
  [1, 2, 3, 4, 0],
  [2, 7, 6, 12, 4],
  [1, 3, 5, 64, 3],
  [2, 5, 9, 128, 8],
] as const)
  define(
    'rope',
    `the first ${turned} of ${[b, n, heads, d]}`,
    (r) => ({ x: r.normal([b, n, heads, d]), positions: r.integers([b, n], 0, 2048) }),
    ['x'],
    (i) => rope(i.x, i.positions, 1e4, turned),
    (i) =>
      nd.concat(
        [
          nd.permute(
            oracle.rope(nd.permute(nd.slice(i.x, 2, 0, turned), [0, 2, 1, 3]), i.positions, 1e4),
            [0, 2, 1, 3],
          ),
          nd.slice(i.x, 2, turned, heads),
        ],
        2,
      ),
  )

for (const [shape, patch] of [
  [[1, 1, 2, 2], 1],
  [[2, 3, 4, 6], 2],
  [[1, 3, 7, 14], 7],
  [[0, 3, 4, 4], 2],
  [[2, 1, 16, 16], 16],
  [[8, 3, 70, 56], 14],
] as const)
  define(
    'patchify',
    `${text(shape)} by ${patch}`,
    (d) => ({ x: d.normal(shape) }),
    [],
    (i) => patchify(i.x, patch),
    (i) => oracle.patchify(i.x, patch),
  )

// ---- sums ----

for (const shape of [[1], [7], [2, 7, 16], [3, 1, 2, 5], [2, 0, 3], [17, 65, 74]])
  for (let dim = -1; dim < shape.length; dim++) {
    const at = dim < 0 ? shape.length + dim : dim
    const n = shape[at]!
    define(
      'sumDim',
      `${text(shape)} over ${dim}`,
      (d) => ({ x: d.normal(shape, 1, 0.5) }),
      ['x'],
      (i) => sumDim(i.x, dim),
      (i) => (n ? nd.scale(nd.mean(i.x, at), n) : nd.array(shape.filter((_, k) => k !== at))),
    )
    if (n)
      define(
        'mean',
        `${text(shape)} over ${dim}`,
        (d) => ({ x: d.normal(shape, 1, 0.5) }),
        ['x'],
        (i) => mean(i.x, dim),
        (i) => nd.mean(i.x, at),
      )
  }
for (const [shape, tail] of [
  [[2, 3, 7], [7]],
  [[5, 3], []],
  [
    [2, 3],
    [2, 3],
  ],
  [[0, 3], [3]],
  [
    [65, 17, 74],
    [17, 74],
  ],
] as const)
  define(
    'sumLeading',
    `${text(shape)} to ${text(tail)}`,
    (d) => ({ x: d.normal(shape) }),
    [],
    (i) => sumLeading(i.x, tail),
    (i) => {
      const n = size(tail) ? i.x.data.length / size(tail) : 0
      return n ? nd.reshape(nd.scale(nd.mean(nd.reshape(i.x, [n, ...tail]), 0), n), tail) : nd.array(tail)
    },
  )

// ---- loss ----

/** Labels below 0 are rows that do not count. */
export function loss(
  variant: string,
  logits: (d: Draw) => Input,
  label: (row: number, d: Draw) => number,
  factor: number,
): void {
  define(
    'crossEntropy',
    variant,
    (d) => {
      const x = logits(d)
      const rows = size(x.shape.slice(0, -1))
      return {
        logits: x,
        labels: input(
          x.shape.slice(0, -1),
          Array.from({ length: rows }, (_, r) => {
            const l = label(r, d)
            return l < 0 ? IGNORE : l
          }),
          'int32',
        ),
      }
    },
    ['logits'],
    (i) => crossEntropy(i.logits, i.labels, factor),
    (i) => nd.array([], [factor * oracle.crossEntropy(i.logits, i.labels.data, 'sum')]),
  )
}
const any =
  (classes: number) =>
  (_: number, d: Draw): number =>
    Number(d.integers([1], 0, classes).data[0])
loss(
  '[1,1]',
  (d) => d.normal([1, 1]),
  () => 0,
  1,
)
loss('[7,2]', (d) => d.normal([7, 2]), any(2), 1 / 7)
loss(
  '[2,3,17], rows ignored',
  (d) => d.normal([2, 3, 17], 3),
  (r, d) => (r % 3 ? any(17)(r, d) : -1),
  0.25,
)
loss(
  '[3,7], all rows ignored',
  (d) => d.normal([3, 7]),
  () => -1,
  1,
)
loss('[0,7]', (d) => d.normal([0, 7]), any(7), 1)
loss('[17], one row', (d) => d.normal([17]), any(17), 1)
loss('[5,16], ties', (d) => d.integers([5, 16], 0, 2, 'float32'), any(16), 1)
loss(
  '[7,33], ±80',
  (d) =>
    input(
      [7, 33],
      d.integers([7, 33], -1, 2).wide.data.map((x) => 80 * x),
    ),
  any(33),
  1,
)
loss('[16,130], wide', (d) => d.uniform([16, 130], -80, 80), any(130), -2)
loss(
  '[65,1030], rows ignored',
  (d) => d.normal([65, 1030], 4),
  (r, d) => (r % 2 ? any(1030)(r, d) : -1),
  1 / 32,
)

loss('[2,2049]', (d) => d.normal([2, 2049], 2), any(2049), 1)
loss(
  '[300,3], one in seven ignored',
  (d) => d.normal([300, 3]),
  (r, d) => (r % 7 ? any(3)(r, d) : -1),
  1 / 257,
)

// ---- views and copies ----

const x = (shape: readonly number[]) => (d: Draw) => ({ x: d.normal(shape) })
for (const [from, to] of [
  [
    [2, 6],
    [3, 4],
  ],
  [
    [7, 4],
    [-1, 2],
  ],
  [[1], []],
  [
    [0, 3],
    [5, 0],
  ],
  [
    [33, 16, 17],
    [16, -1],
  ],
] as const)
  define(
    'reshape',
    `${text(from)} to ${text(to)}`,
    x(from),
    ['x'],
    (i) => reshape(i.x, to),
    (i) => nd.reshape(i.x, to),
  )
for (const [shape, dim, start, length] of [
  [[7], 0, 2, 3],
  [[2, 17, 3], 1, 16, 1],
  [[5, 7], -1, 0, 7],
  [[5, 7], 0, 4, 0],
  [[17, 33, 65], 1, 7, 16],
] as const)
  define(
    'narrow',
    `${text(shape)} dimension ${dim} from ${start}, ${length}`,
    x(shape),
    ['x'],
    (i) => narrow(i.x, dim, start, length),
    (i) => nd.slice(i.x, dim < 0 ? shape.length + dim : dim, start, start + length),
  )
define(
  'narrow',
  'overlapping pieces, added',
  x([3, 7]),
  ['x'],
  (i) => add(narrow(i.x, 1, 0, 5), narrow(i.x, 1, 2, 5)),
  (i) => nd.add(nd.slice(i.x, 1, 0, 5), nd.slice(i.x, 1, 2, 7)),
)
for (const [shape, sizes, dim] of [
  [[7], [1, 6], 0],
  [[2, 17, 3], [16, 0, 1], 1],
  [[5, 9], [3, 3, 3], -1],
  [[17, 33, 130], [65, 65], 2],
] as const)
  define(
    'split',
    `${text(shape)} dimension ${dim} into ${text(sizes)}`,
    x(shape),
    ['x'],
    (i) => split(i.x, sizes, dim),
    (i) => {
      let at = 0
      return sizes.map((n) => nd.slice(i.x, dim < 0 ? shape.length + dim : dim, at, (at += n)))
    },
  )
define(
  'split',
  'one piece used',
  x([4, 6]),
  ['x'],
  (i) => gelu(split(i.x, [1, 2, 3], 1)[1]!),
  (i) => oracle.gelu(nd.slice(i.x, 1, 1, 3)),
)
for (const [shape, order] of [
  [
    [2, 7],
    [1, 0],
  ],
  [
    [2, 3, 5, 7],
    [0, 2, 1, 3],
  ],
  [
    [3, 1, 2],
    [2, 0, 1],
  ],
  [
    [0, 3],
    [1, 0],
  ],
  [
    [41, 65, 33],
    [2, 1, 0],
  ],
] as const) {
  define(
    'permute',
    `${text(shape)} to ${text(order)}`,
    x(shape),
    ['x'],
    (i) => permute(i.x, order),
    (i) => nd.permute(i.x, order),
  )
  define(
    'contiguous',
    `of ${text(shape)} permuted to ${text(order)}`,
    x(shape),
    ['x'],
    (i) => contiguous(permute(i.x, order)),
    (i) => nd.permute(i.x, order),
  )
  define(
    'gelu',
    `of ${text(shape)} permuted to ${text(order)}`,
    x(shape),
    ['x'],
    (i) => gelu(permute(i.x, order)),
    (i) => oracle.gelu(nd.permute(i.x, order)),
  )
}
for (const [from, to] of [
  [
    [1, 7],
    [5, 7],
  ],
  [
    [7, 1],
    [7, 5],
  ],
  [[7], [2, 3, 7]],
  [
    [2, 1, 3, 1],
    [4, 2, 5, 3, 2],
  ],
  [[], [2, 3]],
  [[1], [1]],
  [
    [1, 3],
    [0, 3],
  ],
  [
    [1, 130],
    [37, 17, 130],
  ],
] as const) {
  define(
    'expand',
    `${text(from)} to ${text(to)}`,
    x(from),
    ['x'],
    (i) => expand(i.x, to),
    (i) => stretch(i.x, to),
  )
  define(
    'gelu',
    `of ${text(from)} expanded to ${text(to)}`,
    x(from),
    ['x'],
    (i) => gelu(expand(i.x, to)),
    (i) => oracle.gelu(stretch(i.x, to)),
  )
}
for (const [a, b, dim] of [
  [[7], [2], 0],
  [[2, 1, 3], [2, 16, 3], 1],
  [[5, 7], [5, 0], -1],
  [[17, 65, 33], [17, 1, 33], 1],
] as const)
  define(
    'concat',
    `${text(a)} and ${text(b)}, dimension ${dim}`,
    (d) => ({ a: d.normal(a), b: d.normal(b) }),
    ['a', 'b'],
    (i) => concat([i.a, i.b], dim),
    (i) => nd.concat([i.a, i.b], dim < 0 ? a.length + dim : dim),
  )
define(
  'concat',
  'x with itself, expanded',
  x([1, 3]),
  ['x'],
  (i) => concat([expand(i.x, [2, 3]), i.x, i.x], 0),
  (i) => stretch(i.x, [4, 3]),
)
for (const shape of [
  [1, 1, 1, 1],
  [2, 3, 5, 7],
  [1, 17, 2, 33],
  [2, 0, 3, 4],
  [2, 16, 65, 40],
])
  define(
    'swap',
    text(shape),
    x(shape),
    ['x'],
    (i) => swap(i.x),
    (i) => nd.permute(i.x, [0, 2, 1, 3]),
  )
for (const shape of [[7], [3, 0], [2, 17, 3], [65, 17, 74]])
  define(
    'copy',
    text(shape),
    x(shape),
    ['x'],
    (i) => copy(i.x),
    (i) => i.x,
  )
// Rows of 1 to 16 bytes in one access: cut out of wider ones, turned, begun beside them.
for (const [shape, from, length] of [
  [[5, 16], 0, 8],
  [[5, 16], 8, 8],
  [[5, 16], 4, 12],
  [[5, 18], 2, 16],
  [[5, 17], 1, 16],
  [[3, 40], 3, 32],
  [[3, 24], 1, 7],
] as const) {
  define(
    'contiguous',
    `of columns ${from} to ${from + length} of ${text(shape)}`,
    x(shape),
    ['x'],
    (i) => contiguous(narrow(i.x, 1, from, length)),
    (i) => nd.slice(i.x, 1, from, from + length),
  )
  define(
    'cast',
    `columns ${from} to ${from + length} of ${text(shape)} to bfloat16`,
    (d) => ({ x: input(shape, d.integers(shape, -128, 128).wide.data) }),
    ['x'],
    (i) => cast(narrow(i.x, 1, from, length), 'bfloat16'),
    (i) => nd.slice(i.x, 1, from, from + length),
    { narrow: true },
  )
}
for (const shape of [
  [2, 3, 5, 64],
  [1, 7, 2, 12],
  [3, 2, 4, 6],
])
  define(
    'contiguous',
    `heads of ${text(shape)} before their rows`,
    x(shape),
    ['x'],
    (i) => contiguous(permute(i.x, [0, 2, 1, 3])),
    (i) => nd.permute(i.x, [0, 2, 1, 3]),
  )
for (const [shape, dim] of [
  [[4, 8, 16], 1],
  [[2, 3, 12], 0],
  [[300, 2056], 0],
  [[2, 2, 65540], 1],
] as const)
  define(
    'mean',
    `${text(shape)} over ${dim}, packs of columns`,
    x(shape),
    ['x'],
    (i) => mean(i.x, dim),
    (i) => nd.mean(i.x, dim),
  )
for (const dtype of wide16) {
  const rounded = (values: ArrayLike<number>): Float64Array =>
    widen(
      Uint16Array.from(values, (v) => toBits(v, dtype)),
      dtype,
    )
  define(
    'cast',
    `float32 to ${dtype}, rounded`,
    (d) => ({ x: d.normal([33, 65], 3) }),
    [],
    (i) => cast(i.x, dtype),
    (i) => nd.array(i.x.shape, rounded(i.x.data)),
  )
  define(
    'cast',
    `float32 to ${dtype}: ties, subnormals, overflow of the significand`,
    () => ({
      x: input(
        [12],
        [
          1 + 2 ** -8,
          1 + 3 * 2 ** -8,
          1 + 2 ** -11,
          1 + 3 * 2 ** -11,
          -(2 - 2 ** -9),
          2 - 2 ** -12,
          2 ** -25,
          3 * 2 ** -25,
          2 ** -24,
          -(2 ** -15),
          65504,
          0,
        ],
      ),
    }),
    [],
    (i) => cast(i.x, dtype),
    (i) => nd.array(i.x.shape, rounded(i.x.data)),
  )
  define(
    'cast',
    `${dtype} to float32`,
    (d) => ({ x: d.half([7, 17], dtype) }),
    [],
    (i) => cast(i.x, 'float32'),
    (i) => i.x,
  )
  define(
    'cast',
    `float32 to ${dtype} and back`,
    (d) => ({ x: input([3, 7], rounded(d.normal([3, 7]).wide.data)) }),
    ['x'],
    (i) => cast(cast(i.x, dtype), 'float32'),
    (i) => i.x,
  )
  define(
    'cast',
    `float32 to ${dtype} and back in two places`,
    (d) => ({ x: input([3, 7], rounded(d.normal([3, 7]).wide.data)) }),
    ['x'],
    (i) => {
      const h = cast(i.x, dtype)
      return add(cast(h, 'float32'), cast(h, 'float32'), 2)
    },
    (i) => nd.scale(i.x, 3),
    { narrow: dtype === 'bfloat16' },
  )
  define(
    'cast',
    `views of ${dtype}, put together`,
    (d) => ({ x: d.half([4, 6], dtype) }),
    [],
    (i) => concat([permute(narrow(i.x, 1, 1, 4), [1, 0]), permute(narrow(i.x, 1, 0, 2), [1, 0])], 0),
    (i) => nd.concat([nd.permute(nd.slice(i.x, 1, 1, 5), [1, 0]), nd.permute(nd.slice(i.x, 1, 0, 2), [1, 0])], 0),
  )
}
for (const [from, to] of [
  ['uint8', 'float32'],
  ['uint8', 'int32'],
  ['int32', 'float32'],
  ['int32', 'int64'],
  ['int64', 'int32'],
  ['int64', 'float32'],
] as const)
  define(
    'cast',
    `${from} to ${to}`,
    (d) => ({ x: d.integers([7, 33], 0, 256, from) }),
    [],
    (i) => cast(i.x, to),
    (i) => i.x,
  )

// ---- products ----

for (const [lead, n, k] of [
  [[1], 1, 1],
  [[2, 7], 16, 17],
  [[17], 33, 7],
  [[0], 7, 16],
  [[], 2, 33],
  [[3, 33], 65, 130],
] as const)
  for (const dtype of ['float32', 'bfloat16', 'float16'] as DType[])
    for (const biased of [true, false]) {
      const variant = `${text([...lead, k])} to ${n}, ${dtype}${biased ? ', bias' : ''}`
      const w = (d: Draw): Input => (dtype === 'float32' ? d.normal([n, k]) : d.half([n, k], dtype))
      const frozen = dtype !== 'float32'
      if (biased)
        define(
          'linear',
          variant,
          (d) => ({ x: d.normal([...lead, k]), w: w(d), b: d.normal([n]) }),
          frozen ? ['x', 'b'] : ['x', 'w', 'b'],
          (i) => linear(i.x, i.w, i.b),
          (i) => oracle.linear(i.x, i.w, i.b),
        )
      else
        define(
          'linear',
          variant,
          (d) => ({ x: d.normal([...lead, k]), w: w(d) }),
          frozen ? ['x'] : ['x', 'w'],
          (i) => linear(i.x, i.w),
          (i) => oracle.linear(i.x, i.w),
        )
      const rank = lead.length % 2 ? 3 : 16
      define(
        'lora',
        `${variant}, rank ${rank}`,
        (d) => ({
          x: d.normal([...lead, k]),
          w: w(d),
          bias: d.normal([n]),
          a: d.normal([rank, k], 1 / rank),
          b: d.normal([n, rank]),
        }),
        ['x', 'a', 'b'],
        (i) => lora(i.x, i.w, biased ? i.bias : undefined, i.a, i.b, 16 / rank),
        (i) => oracle.lora(i.x, i.w, biased ? i.bias : undefined, i.a, i.b, 16),
      )
    }

// Updates of some rows of a weight as one update of it: rows, where the first and the second begin and how many they
// are, ranks.
for (const [rows, width, places, ranks] of [
  [
    3,
    2,
    [
      [0, 1],
      [2, 1],
    ],
    [1, 2],
  ],
  [
    48,
    24,
    [
      [0, 16],
      [32, 16],
    ],
    [4, 4],
  ],
  [
    33,
    130,
    [
      [20, 13],
      [0, 17],
    ],
    [3, 5],
  ],
  [65, 17, [[32, 33]], [16]],
  [16, 8, [[0, 16]], [2]],
] as const) {
  const updates = <T>(i: Record<'a1' | 'b1' | 'a2' | 'b2', T>) =>
    places.map(([first], k) => ({ A: k ? i.a2 : i.a1, B: k ? i.b2 : i.b1, first }))
  const inputs = (d: Draw) => ({
    x: d.normal([7, width]),
    w: d.normal([rows, width], width ** -0.5),
    a1: d.normal([ranks[0]!, width]),
    b1: d.normal([places[0][1], ranks[0]!]),
    a2: d.normal([ranks[1] ?? 1, width]),
    b2: d.normal([places[1]?.[1] ?? 1, ranks[1] ?? 1]),
  })
  const slopes = places.length > 1 ? (['a1', 'b1', 'a2', 'b2'] as const) : (['a1', 'b1'] as const)
  const variant = `rows ${places.map(([first, n]) => `${first} to ${first + n}`).join(' and ')} of ${rows}×${width}`
  /** b of all rows: each part in rows and columns of its own. */
  const spread = (i: Record<'b1' | 'b2', NdArray>): NdArray => {
    const rank = ranks.reduce((n: number, r) => n + r, 0)
    const out = nd.array([rows, rank])
    places.forEach(([first, n], k) => {
      const [b, r, column] = [k ? i.b2 : i.b1, ranks[k]!, k ? ranks[0]! : 0]
      for (let row = 0; row < n; row++)
        for (let c = 0; c < r; c++) out.data[(first + row) * rank + column + c] = b.data[row * r + c]!
    })
    return out
  }
  const stack = (i: Record<'a1' | 'a2', NdArray>): NdArray => (places.length > 1 ? nd.concat([i.a1, i.a2], 0) : i.a1)
  define(
    'loraPack',
    variant,
    inputs,
    slopes,
    (i) => {
      const { A, B } = loraPack(updates(i), rows)
      return [A, B]
    },
    (i) => [stack(i), spread(i)],
  )
  define(
    'lora',
    `${variant}, packed`,
    inputs,
    ['x', ...slopes],
    (i) => {
      const { A, B } = loraPack(updates(i), rows)
      return lora(i.x, i.w, undefined, A, B, 0.5)
    },
    (i) => oracle.lora(i.x, i.w, undefined, stack(i), spread(i), 0.5 * ranks.reduce((n: number, r) => n + r, 0)),
  )
}

// Tiles of GPU kernels and their tails: few rows, 16, 64 and 128 of them, few columns; rows of memory that are aligned
// and such that are not; inner dimensions that are cut up.
for (const [m, n, k, rank] of [
  [1, 24, 264, 16],
  [2, 7, 1032, 4],
  [3, 33, 128, 8],
  [8, 17, 64, 17],
  [9, 64, 31, 1],
  [15, 160, 64, 8],
  [16, 128, 63, 16],
  [17, 8, 2056, 24],
  [64, 40, 161, 40],
  [65, 136, 160, 16],
  [161, 32, 72, 32],
  [257, 16, 128, 7],
  [250, 248, 40, 16],
  [1030, 24, 40, 8],
  [16, 24, 1032, 16],
  [20, 1032, 24, 16],
] as const)
  for (const dtype of ['float32', 'bfloat16', 'float16'] as DType[]) {
    const w = (d: Draw): Input => (dtype === 'float32' ? d.normal([n, k]) : d.half([n, k], dtype))
    define(
      'linear',
      `${text([m, k])} to ${n}, ${dtype}, tiles`,
      (d) => ({ x: d.normal([m, k]), w: w(d), b: d.normal([n]) }),
      dtype === 'float32' ? ['x', 'w', 'b'] : ['x', 'b'],
      (i) => linear(i.x, i.w, i.b),
      (i) => oracle.linear(i.x, i.w, i.b),
    )
    define(
      'lora',
      `${text([m, k])} to ${n}, ${dtype}, rank ${rank}, tiles`,
      (d) => ({
        x: d.normal([m, k]),
        w: w(d),
        bias: d.normal([n]),
        a: d.normal([rank, k], 1 / rank),
        b: d.normal([n, rank]),
      }),
      ['x', 'a', 'b'],
      (i) => lora(i.x, i.w, i.bias, i.a, i.b, 16 / rank),
      (i) => oracle.lora(i.x, i.w, i.bias, i.a, i.b, 16),
    )
  }

// Weights in 8 and 4 bits: few rows and many, blocks that end with rows and not, an odd number of columns, sums in
// pieces.
for (const [m, n, k, rank] of [
  [1, 40, 256, 3],
  [3, 33, 200, 16],
  [5, 17, 129, 3],
  [8, 9, 1000, 1],
  [13, 66, 64, 16],
  [20, 9, 33, 4],
  [130, 72, 384, 16],
  [40, 24, 2048, 3],
  [16, 1536, 44, 4],
  [3, 161, 1, 3],
  [20, 161, 1, 4],
] as const)
  for (const dtype of ['int8', 'nf4'] as const) {
    const variant = `${text([m, k])} to ${n}, ${dtype}`
    const inputs = (d: Draw): Record<'x' | 'w' | 'b' | 'r', Input> => ({
      x: d.normal([m, k]),
      w: d.quantised([n, k], dtype),
      b: d.normal([n]),
      r: d.normal([m, n]),
    })
    define(
      'linear',
      variant,
      inputs,
      ['x', 'r'],
      (i) => linear(i.x, i.w, i.b, { residual: i.r }),
      (i) => nd.add(oracle.linear(i.x, i.w, i.b), i.r),
    )
    define(
      'linearGelu',
      variant,
      inputs,
      ['x'],
      (i) => linearGelu(i.x, i.w, i.b),
      (i) => oracle.gelu(oracle.linear(i.x, i.w, i.b)),
    )
    define(
      'lora',
      `${variant}, rank ${rank}`,
      (d) => ({
        x: d.normal([m, k]),
        w: d.quantised([n, k], dtype),
        bias: d.normal([n]),
        a: d.normal([rank, k], 1 / rank),
        b: d.normal([n, rank]),
      }),
      ['x', 'a', 'b'],
      (i) => lora(i.x, i.w, i.bias, i.a, i.b, 16 / rank),
      (i) => oracle.lora(i.x, i.w, i.bias, i.a, i.b, 16),
    )
    define(
      'dequantize',
      variant,
      (d) => ({ w: d.quantised([n, k], dtype) }),
      [],
      (i) => dequantize(i.w),
      (i) => i.w,
    )
  }

// What follows a product: every way of storing a tile, rows that are no whole number of quads, sums in pieces, few
// rows.
for (const [lead, n, k] of [
  [[1], 1, 1],
  [[0], 7, 16],
  [[], 2, 33],
  [[2, 7], 16, 17],
  [[3], 33, 128],
  [[8], 17, 64],
  [[9], 136, 24],
  [[12], 130, 40],
  [[16], 24, 4096],
  [[3, 33], 65, 130],
  [[65], 136, 160],
  [[136], 132, 16],
  [[257], 16, 128],
  [[130, 2], 250, 17],
] as const)
  for (const [dtype, biased] of [
    ['float32', true],
    ['bfloat16', true],
    ['float16', false],
  ] as const) {
    const [variant, frozen] = [`${text([...lead, k])} to ${n}, ${dtype}${biased ? ', bias' : ''}`, dtype !== 'float32']
    const inputs = (d: Draw) => ({
      x: d.normal([...lead, k]),
      w: frozen ? d.half([n, k], dtype, k ** -0.5) : d.normal([n, k], k ** -0.5),
      b: d.normal([n]),
      r: d.normal([...lead, n]),
    })
    const [slopes, product] = [
      frozen ? (biased ? (['x', 'b'] as const) : (['x'] as const)) : (['x', 'w', 'b'] as const),
      (i: Record<'x' | 'w' | 'b', NdArray>): NdArray => oracle.linear(i.x, i.w, biased ? i.b : undefined),
    ]
    define(
      'linear',
      `${variant}, residual`,
      inputs,
      [...slopes, 'r'],
      (i) => linear(i.x, i.w, biased ? i.b : undefined, { residual: i.r }),
      (i) => nd.add(product(i), i.r),
    )
    define(
      'linearGelu',
      variant,
      inputs,
      slopes,
      (i) => linearGelu(i.x, i.w, biased ? i.b : undefined),
      (i) => oracle.gelu(product(i)),
    )
    const half = (i: { x: NdArray; w: NdArray; b: NdArray }): NdArray => product({ ...i, x: nd.scale(i.x, 0.5) })
    define(
      'linear',
      `${variant}, and x again`,
      inputs,
      slopes,
      again((x, i) => linear(x, i.w, biased ? i.b : undefined)),
      (i) => [half(i), nd.scale(i.x, 0.5)],
    )
    define(
      'linearGelu',
      `${variant}, and x again`,
      inputs,
      slopes,
      again((x, i) => linearGelu(x, i.w, biased ? i.b : undefined)),
      (i) => [oracle.gelu(half(i)), nd.scale(i.x, 0.5)],
    )
    define(
      'lora',
      `${variant}, and x again`,
      (d) => ({ ...inputs(d), a: d.normal([5, k], 0.2), c: d.normal([n, 5]) }),
      ['x', 'a', 'c'],
      again((x, i) => lora(x, i.w, biased ? i.b : undefined, i.a, i.c, 2)),
      (i) => [oracle.lora(nd.scale(i.x, 0.5), i.w, biased ? i.b : undefined, i.a, i.c, 10), nd.scale(i.x, 0.5)],
    )
  }
define(
  'linear',
  'x W + x',
  (d) => ({ x: d.normal([17, 33]), w: d.normal([33, 33]) }),
  ['x', 'w'],
  (i) => linear(i.x, i.w, undefined, { residual: i.x }),
  (i) => nd.add(oracle.linear(i.x, i.w), i.x),
)

define(
  'linear',
  '[40,64] to 24, bfloat16, aligned',
  (d) => ({ x: d.normal([40, 64]), w: d.half([24, 64], 'bfloat16') }),
  ['x'],
  (i) => linear(i.x, i.w),
  (i) => oracle.linear(i.x, i.w),
)
define(
  'linear',
  '[9,11008] to 3, a long sum',
  (d) => ({ x: d.normal([9, 11008], 1, 0.5), w: d.uniform([3, 11008], 0, 1) }),
  ['x', 'w'],
  (i) => linear(i.x, i.w),
  (i) => oracle.linear(i.x, i.w),
)

// ---- attention ----

export interface Attention {
  /** Shapes of q and, where they differ, of k and v, as the tensors have them. */
  q: readonly number[]
  k?: readonly number[]
  heads: number
  over?: number
  mode?: 'off' | 'score' | 'attention'
  choices?: number
  padding?: boolean
  causal?: boolean
  /** A bias of each distance, and scores that are not divided by √d. */
  biased?: boolean
}

/** Biases of distances [heads, nq + nk − 1] as the oracle takes them, by pair [heads, nq, nk]. */
const byPair = (bias: NdArray, nq: number, nk: number): NdArray => {
  const heads = bias.shape[0]!
  const out = nd.array([heads, nq, nk])
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < nq; i++)
      for (let k = 0; k < nk; k++) out.data[(h * nq + i) * nk + k] = bias.data[h * bias.shape[1]! + k - i + nq - 1]!
  return out
}

/**
 * [a, n, h·d] or [a, b, n, h·d] with the attended dimension anywhere, as the oracle's [rows, heads, n, d]; and back.
 */
const inward = (t: NdArray, over: number, heads: number): NdArray => {
  const moved = nd.permute(t, [
    ...[...t.shape.keys()].filter((i) => i !== over && i !== t.shape.length - 1),
    over,
    t.shape.length - 1,
  ])
  return oracle.splitHeads(nd.reshape(moved, [size(moved.shape.slice(0, -2)), ...moved.shape.slice(-2)]), heads)
}
const outward = (t: NdArray, over: number, shape: readonly number[]): NdArray => {
  const order = [...[...shape.keys()].filter((i) => i !== over && i !== shape.length - 1), over, shape.length - 1]
  return nd.permute(
    nd.reshape(
      oracle.joinHeads(t),
      order.map((i) => shape[i]!),
    ),
    shape.map((_, i) => order.indexOf(i)),
  )
}

export function attend({
  q,
  k = q,
  heads,
  over = q.length - 2,
  mode = 'off',
  choices = 3,
  padding = false,
  causal = false,
  biased = false,
}: Attention): void {
  const [nq, nk] = [q[over]!, k[over]!]
  const batch = q.filter((_, i) => i !== over && i !== q.length - 1)
  const variant = [
    text(q),
    k === q ? '' : `to ${text(k)}`,
    `over ${over}`,
    `heads ${heads}`,
    mode === 'off' ? '' : `${mode} of ${choices}`,
    padding ? 'padding' : '',
    causal ? 'causal' : '',
    biased ? 'biased' : '',
  ]
    .filter(Boolean)
    .join(' ')
  define(
    'attention',
    variant,
    (d) => ({
      q: d.normal(q),
      k: d.normal(k),
      v: d.normal(k),
      // Of every row the first key is a token.
      keyMask: input(
        [...batch, nk],
        d.uniform([...batch, nk], 0, 1).wide.data.map((u, i) => (i % nk === 0 || u > 0.4 ? 1 : 0)),
        'uint8',
      ),
      // M_0 keeps everything, the others what chance has it.
      masks: input(
        [nq, nk],
        d.integers([nq, nk], 0, 2 ** choices).wide.data.map((bits) => bits | 1),
        'uint8',
      ),
      alpha: d.uniform([...batch, choices], 0.1, 1),
      bias: d.normal([heads, Math.max(0, nq + nk - 1)]),
    }),
    mode === 'off' ? ['q', 'k', 'v'] : ['q', 'k', 'v', 'alpha'],
    (i) =>
      attention(i.q, i.k, i.v, {
        heads,
        over,
        mode,
        causal,
        ...(padding && { keyMask: i.keyMask }),
        ...(biased && { bias: i.bias, scale: 1 / 3 }),
        ...(mode !== 'off' && { masks: i.masks, alpha: i.alpha }),
      }),
    (i) =>
      outward(
        oracle.attention(inward(i.q, over, heads), inward(i.k, over, heads), inward(i.v, over, heads), {
          mode,
          causal,
          keyMask: padding ? i.keyMask : undefined,
          ...(biased && { bias: byPair(i.bias, nq, nk), scale: 1 / 3 }),
          masks: i.masks,
          alpha: nd.reshape(i.alpha, [-1, choices]),
        }),
        over,
        q,
      ),
  )
}
attend({ q: [1, 1, 2], heads: 1 })
attend({ q: [2, 7, 24], heads: 2 })
attend({ q: [2, 16, 36], heads: 3, padding: true })
attend({ q: [1, 17, 88], heads: 1, causal: true })
attend({ q: [1, 33, 128], heads: 2, causal: true, padding: true })
attend({ q: [2, 7, 64], k: [2, 65, 64], heads: 1 })
attend({ q: [1, 17, 24], k: [1, 130, 24], heads: 2, padding: true })
attend({ q: [2, 1, 24], k: [2, 33, 24], heads: 2, causal: true })
attend({ q: [2, 3, 24], k: [2, 16, 24], heads: 2, causal: true, padding: true })
attend({ q: [2, 7, 3, 24], heads: 2, over: 1 })
attend({ q: [2, 2, 5, 24], heads: 2, over: 2, padding: true })
attend({ q: [1, 16, 7, 88], heads: 1, over: 1, padding: true })
attend({ q: [2, 65, 128], heads: 2, mode: 'attention', choices: 4 })
attend({ q: [0, 7, 24], heads: 2 })
// Biases of distances: both kinds of tiles, one query behind a cache, wide and odd heads, tensor cores' widths.
for (const causal of [false, true]) {
  attend({ q: [1, 1, 2], heads: 1, causal, biased: true })
  attend({ q: [2, 7, 24], heads: 2, causal, biased: true })
  attend({ q: [2, 17, 36], heads: 3, padding: true, causal, biased: true })
  attend({ q: [2, 1, 24], k: [2, 33, 24], heads: 2, causal, biased: true })
  attend({ q: [1, 7, 64], k: [1, 65, 64], heads: 1, padding: true, causal, biased: true })
  attend({ q: [1, 40, 128], heads: 2, causal, biased: true })
}
attend({ q: [2, 7, 3, 24], heads: 2, over: 1, biased: true })
attend({ q: [2, 0, 24], k: [2, 7, 24], heads: 2, biased: true })
attend({ q: [2, 0, 24], k: [2, 7, 24], heads: 2 })
// Heads as wide as the tensor cores' forms have them, lengths around their tiles; test/cuda/attention.test.ts has more.
for (const s of [64, 96, 161]) attend({ q: [1, s, 64], heads: 1, mode: 'attention', choices: 4, padding: true })
for (const t of [4, 15, 33]) attend({ q: [1, t, 3, 64], heads: 1, over: 1, mode: 'score', choices: 2 })
attend({ q: [2, 9, 16], heads: 2 })
attend({ q: [1, 129, 88], heads: 1, causal: true })
// Several segments of keys, fetched while others are in use.
attend({ q: [1, 130, 64], k: [1, 330, 64], heads: 1, padding: true })
attend({ q: [1, 100, 88], k: [1, 170, 88], heads: 1 })
attend({ q: [1, 331, 64], heads: 1, causal: true })
attend({ q: [1, 170, 64], heads: 1, mode: 'score', choices: 2 })
for (const mode of ['score', 'attention'] as const) {
  attend({ q: [1, 2, 2], heads: 1, mode, choices: 2 })
  attend({ q: [2, 7, 24], heads: 2, mode, choices: 1 })
  attend({ q: [3, 17, 36], heads: 3, mode, choices: 8, padding: true })
  attend({ q: [1, 33, 88], heads: 1, mode, choices: 4, causal: true })
  attend({ q: [1, 7, 64], k: [1, 65, 64], heads: 1, mode, padding: true })
  attend({ q: [2, 7, 3, 24], heads: 2, over: 1, mode, choices: 4 })
  attend({ q: [2, 3, 16, 24], heads: 2, over: 2, mode, choices: 3, padding: true, causal: true })
}

// Queries, keys and values as columns of one tensor: all their gradients lie side by side, those of nobody's columns
// are 0.
for (const [shape, width, over, heads, spare] of [
  [[2, 7, 72], 24, 1, 2, 0],
  [[2, 5, 3, 192], 64, 2, 1, 0],
  [[2, 5, 3, 192], 64, 1, 1, 0],
  [[1, 17, 76], 24, 1, 3, 4],
  [[2, 9, 384], 128, 1, 1, 0],
] as const)
  for (const causal of [false, true])
    define(
      'attention',
      `columns of ${text(shape)} over ${over}, heads ${heads}${causal ? ', causal' : ''}`,
      (d) => ({ x: d.normal(shape) }),
      ['x'],
      (i) => {
        const [q, k, v] = [0, 1, 2].map((j) => ({ of: i.x, start: spare + j * width, width }))
        return attention(q!, k!, v!, { heads, over, causal })
      },
      (i) => {
        const [q, k, v] = [0, 1, 2].map((j) =>
          inward(nd.slice(i.x, shape.length - 1, spare + j * width, spare + (j + 1) * width), over, heads),
        )
        return outward(oracle.attention(q!, k!, v!, { causal }), over, [...shape.slice(0, -1), width])
      },
    )
define(
  'attention',
  'keys and values as columns of another tensor than the queries',
  (d) => ({ q: d.normal([2, 5, 48]), x: d.normal([2, 9, 96]) }),
  ['q', 'x'],
  (i) => attention(i.q, { of: i.x, start: 0, width: 48 }, { of: i.x, start: 48, width: 48 }, { heads: 2 }),
  (i) =>
    outward(
      oracle.attention(
        inward(i.q, 1, 2),
        inward(nd.slice(i.x, 2, 0, 48), 1, 2),
        inward(nd.slice(i.x, 2, 48, 96), 1, 2),
        {},
      ),
      1,
      [2, 5, 48],
    ),
)

/** Attention over what is projected from a source; no gradients. Keys' biases matter to nobody. */
export function attendToSource(
  q: readonly number[],
  keys: number,
  from: number,
  heads: number,
  rank: number,
  dtype: DType,
): void {
  const [lead, n, width] = [q.slice(0, -2), q.at(-2)!, q.at(-1)!]
  const w = (d: Draw): Input =>
    dtype === 'float32' ? d.normal([width, from], from ** -0.5) : d.half([width, from], dtype, from ** -0.5)
  define(
    'sourceAttention',
    `${text(q)} to ${keys} of ${from}, heads ${heads}, ${dtype}, rank ${rank}`,
    (d) => ({
      q: d.normal(q),
      x: d.normal([...lead, keys, from]),
      wk: w(d),
      wv: w(d),
      bias: d.normal([width]),
      a: d.normal([rank, from], from ** -0.5),
      b: d.normal([width, rank]),
    }),
    [],
    (i) =>
      sourceAttention(i.q, i.x, i.wk, i.wv, {
        heads,
        bias: i.bias,
        ...(rank && { lora: { A: i.a, B: i.b, scaling: 2 } }),
      }),
    (i) => {
      const three = (t: NdArray, rows: number): NdArray => nd.reshape(t, [size(lead), rows, t.shape.at(-1)!])
      const source = three(i.x, keys)
      const v = rank ? oracle.lora(source, i.wv, i.bias, i.a, i.b, 2 * rank) : oracle.linear(source, i.wv, i.bias)
      const rows = (t: NdArray): NdArray => oracle.splitHeads(t, heads)
      return nd.reshape(
        oracle.joinHeads(oracle.attention(rows(three(i.q, n)), rows(oracle.linear(source, i.wk)), rows(v), {})),
        q,
      )
    },
  )
}
for (const [q, keys, from, heads, rank] of [
  [[1, 2], 1, 1, 1, 0],
  [[2, 7, 24], 5, 7, 2, 3],
  [[3, 2, 64], 17, 130, 1, 0],
  [[2, 2, 3, 36], 16, 33, 3, 1],
  [[0, 7, 24], 3, 8, 2, 2],
  [[2, 0, 24], 3, 8, 2, 0],
  [[2, 3, 24], 0, 8, 2, 2],
  [[5, 4, 128], 33, 65, 2, 16],
  [[2, 33, 192], 65, 136, 3, 8],
  [[1, 16, 88], 31, 264, 1, 4],
] as const)
  for (const dtype of ['float32', 'bfloat16', 'float16'] as const) attendToSource(q, keys, from, heads, rank, dtype)

/** b1 keeps what the hidden ReLU sees away from its corner; half of the units are off. */
export function routed(shape: readonly number[], over: number, hidden: number, choices: number): void {
  define(
    'router',
    `${text(shape)} over ${over}, ${hidden} hidden, ${choices} choices`,
    (d) => ({
      x: d.normal(shape),
      w1: d.uniform([hidden, shape.at(-1)!], -1, 1),
      b1: input(
        [hidden],
        Array.from({ length: hidden }, (_, i) => (i % 2 ? -1 : 1) * (1 + 3 * shape.at(-1)! ** 0.5)),
      ),
      w2: d.normal([choices, hidden], 1 / (hidden * shape.at(-1)!) ** 0.5),
      b2: d.normal([choices]),
    }),
    ['x', 'w1', 'b1', 'w2', 'b2'],
    (i) => router(i.x, i, over),
    (i) => {
      const rows = nd.permute(i.x, [
        ...[...shape.keys()].filter((k) => k !== over && k !== shape.length - 1),
        over,
        shape.length - 1,
      ])
      return nd.reshape(oracle.router(nd.reshape(rows, [size(rows.shape.slice(0, -2)), ...rows.shape.slice(-2)]), i), [
        ...rows.shape.slice(0, -2),
        choices,
      ])
    },
  )
}
for (const [shape, over, hidden, choices] of [
  [[1, 1, 1], 1, 1, 1],
  [[2, 7, 12], 1, 7, 2],
  [[2, 3, 5, 16], 2, 16, 3],
  [[2, 7, 3, 17], 1, 33, 4],
  [[0, 3, 4], 1, 2, 2],
  [[3, 2, 7], 1, 31, 33],
  [[4, 8, 33, 130], 1, 64, 4],
  [[2, 3, 5, 300], 2, 66, 4],
  [[2, 2, 3, 1032], 1, 9, 5],
  [[300, 2, 12], 1, 6, 3],
] as const)
  routed(shape, over, hidden, choices)

for (const [shape, over, first] of [
  [[2, 3, 5, 16], 2, 3],
  [[2, 7, 3, 17], 1, 1],
  [[3, 4, 7], 1, 2],
  [[2, 33, 40], 1, 33],
] as const) {
  const factors = (d: Draw) => ({
    w1: d.uniform([6, shape.at(-1)!], -1, 1),
    b1: input(
      [6],
      [1, -1, 1, -1, 1, -1].map((s) => s * (1 + 3 * shape.at(-1)! ** 0.5)),
    ),
    w2: d.normal([3, 6], 0.2),
    b2: d.normal([3]),
  })
  const head = (t: NdArray): NdArray => nd.slice(t, over, 0, first)
  const alpha = (i: Record<'x' | 'w1' | 'b1' | 'w2' | 'b2', NdArray>, x: NdArray): NdArray => {
    const rows = nd.permute(x, [
      ...[...x.shape.keys()].filter((k) => k !== over && k !== x.shape.length - 1),
      over,
      x.shape.length - 1,
    ])
    return nd.reshape(oracle.router(nd.reshape(rows, [size(rows.shape.slice(0, -2)), ...rows.shape.slice(-2)]), i), [
      ...rows.shape.slice(0, -2),
      3,
    ])
  }
  define(
    'router',
    `the first ${first} of ${text(shape)} over ${over}`,
    (d) => ({ x: d.normal(shape), ...factors(d) }),
    ['x', 'w1', 'b1', 'w2', 'b2'],
    (i) => router(i.x, i, over, first),
    (i) => alpha(i, head(i.x)),
  )
  define(
    'router',
    `the first ${first} of ${text(shape)} over ${over}, and x again`,
    (d) => ({ x: d.normal(shape), ...factors(d) }),
    ['x', 'w1', 'b1', 'w2', 'b2'],
    (i) => {
      const x = scale(i.x, 0.5)
      return [router(x, i, over, first), cast(x, 'float32')]
    },
    (i) => [alpha(i, head(nd.scale(i.x, 0.5))), nd.scale(i.x, 0.5)],
  )
}

// ---- decoding ----

for (const [rows, n] of [
  [1, 1],
  [2, 7],
  [3, 33],
  [2, 1025],
  [0, 5],
] as const) {
  const first = (x: NdArray): NdArray =>
    nd.array(
      [rows],
      Array.from({ length: rows }, (_, r) => {
        const row = [...x.data.slice(r * n, (r + 1) * n)]
        return row.every(Number.isFinite) ? row.indexOf(Math.max(...row)) : -1
      }),
    )
  define(
    'argmax',
    `[${rows},${n}]`,
    (d) => ({ x: d.normal([rows, n]) }),
    [],
    (i) => cast(argmax(i.x), 'float32'),
    (i) => first(i.x),
  )
  // Few values, so that the largest comes several times.
  define(
    'argmax',
    `[${rows},${n}] with equals`,
    (d) => ({ x: d.integers([rows, n], -2, 3) }),
    [],
    (i) => cast(argmax(cast(i.x, 'float32')), 'float32'),
    (i) => first(i.x),
  )
}

for (const [b, n, m, width, at] of [
  [1, 1, 5, 8, 4],
  [2, 3, 9, 7, 0],
  [3, 2, 70, 17, 33],
] as const)
  define(
    'cacheAppend',
    `${b}×${n} of ${m} rows of ${width} at ${at}`,
    (d) => ({
      k: d.normal([b, n, width]),
      v: d.normal([b, n, width]),
      at: d.integers([1], at, at + 1),
      keys: d.normal([b, m, width]),
      values: d.normal([b, m, width]),
    }),
    [],
    (i) => {
      const [keys, values] = [copy(i.keys), copy(i.values)]
      cacheAppend(i.k, i.v, i.at, keys, values)
      return [keys, values]
    },
    (i) =>
      (
        [
          ['k', 'keys'],
          ['v', 'values'],
        ] as const
      ).map(([from, to]) => {
        const out = nd.clone(i[to])
        for (let r = 0; r < b; r++)
          out.data.set(i[from].data.slice(r * n * width, (r + 1) * n * width), (r * m + at) * width)
        return out
      }),
  )

// ---- optimiser: values alone ----

/** AdamW on many tensors at once; `scale` of the gradients comes from clipping at `clip`, where that is not 0. */
export function manyAtOnce(
  shapes: number[][],
  { clip = 0, steps = 1, losses = 0 }: { clip?: number; steps?: number; losses?: number } = {},
): void {
  const [betas, eps] = [[0.9, 0.95] as const, 1e-8]
  const kinds = [
    { lr: 1e-2, weightDecay: 0 },
    { lr: 3e-3, weightDecay: 0.05 },
    { lr: 2e-2, weightDecay: 0.1 },
  ]
  const names = shapes.map((_, i) => `x${i}`)
  const draw = (d: Draw) =>
    Object.fromEntries([
      ...names.flatMap((n, i) => [
        [`w.${n}`, d.normal(shapes[i]!)],
        [`g.${n}`, d.normal(shapes[i]!)],
        [`h.${n}`, d.normal(shapes[i]!, 0.5)],
      ]),
      ['losses', d.normal([losses])],
    ]) as Record<string, Input>
  define(
    'adamwAll',
    `${shapes.length > 5 ? `${shapes.length} tensors` : shapes.map(text).join()}, ${steps} steps, clip ${clip}, ${losses} losses`,
    draw,
    [],
    (i) => {
      const device = i['w.x0']!.device
      const report = empty([3 + losses], 'float32', device)
      const schedule = empty([2 + 2 * kinds.length], 'int64', device)
      const sums = names.map((n) => contiguous(copy(i[`g.${n}`]!)))
      accumulate(
        sums,
        names.map((n) => contiguous(i[`h.${n}`]!)),
      )
      const trained = names.map((n, at) => ({
        param: copy(i[`w.${n}`]!),
        grad: sums[at]!,
        m: zeros(shapes[at]!, 'float32', device),
        v: zeros(shapes[at]!, 'float32', device),
        kind: at % kinds.length,
      }))
      for (let t = 1; t <= steps; t++) {
        adamwSchedule(schedule, t, betas, kinds)
        gradientNorm(sums, losses ? contiguous(i['losses']!) : undefined, clip, report)
        adamwAll(trained, report, schedule, { betas, eps })
      }
      return [report, ...sums, ...trained.flatMap((p) => [p.param, p.m, p.v])]
    },
    (i) => {
      const sums = names.map((n) => nd.add(i[`g.${n}`]!, i[`h.${n}`]!))
      const square = sums.reduce((sum, g) => sum + nd.dot(g.data, g.data), 0)
      const scale = clip ? Math.min(1, clip / (Math.sqrt(square) + 1e-6)) : 1
      const results = names.flatMap((n, at) => {
        const [w, state] = [nd.clone(i[`w.${n}`]!), oracle.moments(size(shapes[at]!))]
        for (let t = 0; t < steps; t++)
          oracle.adamw(
            w.data,
            sums[at]!.data.map((g) => g * scale),
            state,
            { ...kinds[at % kinds.length]!, betas, eps },
          )
        return [w, nd.array(shapes[at]!, state.average), nd.array(shapes[at]!, state.square)]
      })
      return [nd.array([3 + losses], [square, scale, 1, ...i['losses']!.data]), ...sums, ...results]
    },
  )
}
manyAtOnce([[1]])
manyAtOnce([[7], [0], [17, 33]], { clip: 0.5, steps: 3, losses: 2 })
manyAtOnce([[65, 17, 75], [4096], [4097], [3, 1]], { clip: 1e6, steps: 2, losses: 1 })
// More than a launch takes, of each of the kernels.
manyAtOnce(
  Array.from({ length: 250 }, (_, i) => [1 + (i % 5), 1 + ((7 * i) % 11)]),
  { clip: 1 },
)

for (const shape of [[1], [7], [0], [17, 33], [65, 17, 75]]) {
  define(
    'addSquareSum',
    text(shape),
    (d) => ({ x: d.normal(shape) }),
    [],
    (i) => {
      const sum = full([1], 0.5, 'float32', i.x!.device)
      addSquareSum(sum, contiguous(i.x))
      return sum
    },
    (i) => nd.array([1], [0.5 + nd.dot(i.x.data, i.x.data)]),
  )
  for (const [scaled, weightDecay] of [
    [false, 0],
    [true, 0.05],
  ] as const)
    define(
      'adamw',
      `${text(shape)}, three steps, decay ${weightDecay}${scaled ? ', clipped' : ''}`,
      (d) => ({ w: d.normal(shape), g: d.normal([3, ...shape]), s: d.uniform([1], 0.2, 0.9) }),
      [],
      (i) => {
        const [w, m, v] = [copy(i.w), zeros(shape, 'float32', i.w!.device), zeros(shape, 'float32', i.w!.device)]
        for (let t = 0; t < 3; t++) {
          const g = reshape(narrow(i.g, 0, t, 1), shape)
          adamw(w, g, m, v, {
            lr: 1e-2,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weightDecay,
            step: t + 1,
            ...(scaled && { scale: i.s }),
          })
        }
        return [w, m, v]
      },
      (i) => {
        const [w, state, n] = [nd.clone(i.w), oracle.moments(i.w.data.length), i.w.data.length]
        for (let t = 0; t < 3; t++)
          oracle.adamw(
            w.data,
            i.g.data.slice(t * n, (t + 1) * n).map((g) => g * (scaled ? i.s.data[0]! : 1)),
            state,
            { lr: 1e-2, betas: [0.9, 0.95], eps: 1e-8, weightDecay },
          )
        return [w, nd.array(shape, state.average), nd.array(shape, state.square)]
      },
    )
}
