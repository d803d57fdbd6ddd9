// Products with frozen weights, which the CPU backend packs once, against float64 and against weights that are not
// frozen, for one instruction set: MT_CPU is read once per process, so frozen.test.ts runs this file once for each.
// Prints the worst relative errors and what differed in any bit.
import { fileURLToPath } from 'node:url'
import { linear, linearGelu } from '../../lib/ops/linear.js'
import { lora } from '../../lib/ops/lora.js'
import { sourceAttention } from '../../lib/ops/source-attention.js'
import { narrow } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { threads } from '../../lib/tensor/runtime.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import type { DType } from '../../lib/tensor/dtype.js'
import { type NdArray, add, array, relativeError, scale, size, zip } from '../oracle/array.js'
import * as oracle from '../oracle/ops.js'
import { transpose } from './products.js'
import { Draw, type Input, upload } from './support.js'

export interface Report {
  /**
   * By what was computed and the activations' dtype: the worst ‖a − b‖/‖b‖ of frozen weights, and between frozen and
   * not.
   */
  errors: Record<string, number>
  changes: Record<string, number>
  /** Cases in which another number of threads, or of rows, changed a bit of a row. */
  threads: string[]
  rows: string[]
}

const rows = [1, 3, 13, 14, 15, 29, 65]
const sizes = [1, 2, 7, 16, 31, 32, 33, 385, 770]
const ranks = [1, 5, 16]
export const weights: DType[] = ['float32', 'bfloat16', 'float16']
const activations: DType[] = ['float32', 'bfloat16']

/** Φ(z) + z φ(z), from two values of gelu, whose slope is smooth. */
const geluSlope = (z: NdArray): NdArray => {
  const h = 1e-5
  const [above, below] = [h, -h].map((d) =>
    oracle.gelu(
      array(
        z.shape,
        z.data.map((v) => v + d),
      ),
    ),
  )
  return zip(above!, below!, (a, b) => (a - b) / (2 * h))
}

/**
 * A matrix with a mean that keeps sums away from 0 and from GELU's far tail, where errors relative to them would be
 * large: a piece of one long row of numbers, since drawing them is what takes time. The name says which.
 */
export function draw(name: string, shape: readonly number[], dtype: DType): Input {
  const all = pool.get(dtype) ?? new Draw(dtype).half([600_000], dtype, 1, 1)
  pool.set(dtype, all)
  const [start, n] = [[...name].reduce((at, c) => at * 31 + c.charCodeAt(0), 0) % 4096, size(shape)]
  return {
    shape,
    dtype,
    data: all.data.slice(start, start + n),
    wide: array(shape, all.wide.data.subarray(start, start + n)),
  }
}
const pool = new Map<DType, Input>()

/** What activations and gradients hold, bfloat16 widened. */
export const numbers = (t: Tensor): Float32Array => {
  const data = t.dataBlocking()
  return data instanceof Float32Array
    ? data
    : new Float32Array(Uint32Array.from(data as Uint16Array, (bits) => bits << 16).buffer)
}
export const sameBits = (a: Float32Array, b: Float32Array): boolean =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))

interface Case {
  m: number
  n: number
  k: number
  rank: number
  weight: DType
  activation: DType
}

/** Runs all operators with a weight as it is given, frozen or not: results by name. */
export function results(i: Record<string, Input>, w: Tensor, s: number): Record<string, Float32Array> {
  return scope(() => {
    const out: Record<string, Float32Array> = {}
    const note = (name: string, y: Tensor, leaves: Record<string, Tensor>): void => {
      backward(y, upload(i['dy']!))
      for (const [key, t] of Object.entries({ y, ...leaves }))
        out[`${name} ${key}`] = numbers(key === 'y' ? t : t.grad!)
    }
    const leaf = (name: string): Tensor => {
      const t = upload(i[name]!)
      t.requiresGrad = true
      return t
    }
    const [bias, residual] = [upload(i['bias']!), upload(i['residual']!)]
    let x = leaf('x')
    note('linear', linear(x, w, bias, { residual }), { dx: x })
    x = leaf('x')
    note('gelu', linearGelu(x, w, bias), { dx: x })
    x = leaf('x')
    const [a, b] = [leaf('a'), leaf('b')]
    note('lora', lora(x, w, bias, a, b, s), { dx: x, da: a, db: b })
    return out
  })
}

/** The same in float64. */
export function expected(i: Record<string, Input>, s: number): Record<string, NdArray> {
  const [x, w, bias, residual, a, b, dy] = ['x', 'w', 'bias', 'residual', 'a', 'b', 'dy'].map((n) => i[n]!.wide) as [
    NdArray,
    NdArray,
    NdArray,
    NdArray,
    NdArray,
    NdArray,
    NdArray,
  ]
  const z = oracle.linear(x, w, bias)
  const [dx, shrunk, g] = [
    oracle.linear(dy, transpose(w)),
    oracle.linear(x, a),
    scale(oracle.linear(dy, transpose(b)), s),
  ]
  return {
    'linear y': add(z, residual),
    'linear dx': dx,
    'gelu y': oracle.gelu(z),
    'gelu dx': oracle.linear(
      zip(dy, geluSlope(z), (p, q) => p * q),
      transpose(w),
    ),
    'lora y': add(z, scale(oracle.linear(shrunk, b), s)),
    'lora dx': add(dx, oracle.linear(g, transpose(a))),
    'lora da': oracle.linear(transpose(g), transpose(x)),
    'lora db': scale(oracle.linear(transpose(dy), transpose(shrunk)), s),
  }
}

function one({ m, n, k, rank, weight, activation }: Case, report: Report): void {
  const name = `[${m},${k}] to ${n}, rank ${rank}, ${weight}, ${activation}`
  const d = (what: string, shape: readonly number[], dtype: DType = 'float32'): Input => draw(what, shape, dtype)
  const i = {
    x: d('x', [m, k], activation),
    w: d('w', [n, k], weight),
    bias: d('bias', [n]),
    residual: d('residual', [m, n], activation),
    a: d('a', [rank, k]),
    b: d('b', [n, rank]),
    dy: d('dy', [m, n], activation),
  }
  scope(() => {
    const [w, loose] = [upload(i.w).freeze(), upload(i.w)]
    threads(1)
    const [alone, unfrozen] = [results(i, w, 0.25), results(i, loose, 0.25)]
    threads(3)
    const shared = results(i, upload(i.w).freeze(), 0.25) // packed by three threads as well
    for (const [key, reference] of Object.entries(expected(i, 0.25))) {
      const [kind, y] = [`${key}, ${activation}`, alone[key]!]
      const worst = (all: Record<string, number>, e: number): number =>
        (all[kind] = !(e <= (all[kind] ?? 0)) ? e : all[kind]!)
      worst(report.errors, relativeError(y, reference.data))
      worst(report.changes, relativeError(y, unfrozen[key]!))
      if (!sameBits(y, shared[key]!)) report.threads.push(`${key}: ${name}`)
    }
  })
}

/** The first rows of many, by themselves: forward and backward to the bit. */
function fewer(n: number, k: number, weight: DType, activation: DType, report: Report): void {
  scope(() => {
    const w = upload(draw('w', [n, k], weight)).freeze()
    const [x, bias, dy] = [
      upload(draw('x', [40, k], activation)),
      upload(draw('bias', [n], 'float32')),
      upload(draw('dy', [40, n], activation)),
    ]
    const compute = (count: number): Record<string, Float32Array> => {
      const part = narrow(x, 0, 40 - count, count)
      part.requiresGrad = true
      const y = linear(part, w, bias)
      backward(y, narrow(dy, 0, 40 - count, count))
      return { y: numbers(y), gelu: numbers(linearGelu(part, w, bias)), dx: numbers(part.grad!) }
    }
    const all = compute(40)
    for (const count of [1, 13])
      for (const [key, few] of Object.entries(compute(count)))
        if (!sameBits(few, all[key]!.subarray(-few.length)))
          report.rows.push(`${key}: ${count} of 40 rows of ${k} to ${n}, ${weight}, ${activation}`)
  })
}

/**
 * Attention that reads a head's rows and columns of packed weights: heads as wide as panels, wider, and such that
 * panels and pairs are cut.
 */
function source(heads: number, width: number, weight: DType, report: Report): void {
  const [groups, n, keys, from] = [3, 5, 19, 45]
  const spread = (what: string, shape: readonly number[], dtype: DType = 'float32'): Input =>
    new Draw(`${what} ${heads} ${width}`).half(shape, dtype, from ** -0.5)
  const [q, e, wk, wv, bias] = [
    draw('q', [groups, n, heads * width], 'float32'),
    draw('e', [groups, keys, from], 'float32'),
    spread('wk', [heads * width, from], weight),
    spread('wv', [heads * width, from], weight),
    draw('bias', [heads * width], 'float32'),
  ]
  const [kv, rows] = [
    (w: Input) => oracle.splitHeads(oracle.linear(e.wide, w.wide), heads),
    oracle.splitHeads(q.wide, heads),
  ]
  const reference = oracle.joinHeads(oracle.attention(rows, kv(wk), kv(wv), {}))
  const expected = zip(
    reference,
    array(
      reference.shape,
      reference.data.map((_, i) => bias.wide.data[i % (heads * width)]!),
    ),
    (x, b) => x + b,
  )
  scope(() => {
    const compute = (freeze: boolean, count: number): Float32Array => {
      threads(count)
      const [k, v] = [upload(wk), upload(wv)]
      return numbers(
        sourceAttention(upload(q), upload(e), freeze ? k.freeze() : k, freeze ? v.freeze() : v, {
          heads,
          bias: upload(bias),
        }),
      )
    }
    const [alone, shared, unfrozen] = [compute(true, 1), compute(true, 5), compute(false, 1)]
    const worst = (all: Record<string, number>, error: number): number =>
      (all['source y, float32'] = Math.max(all['source y, float32'] ?? 0, error))
    worst(report.errors, relativeError(alone, expected.data))
    worst(report.changes, relativeError(alone, unfrozen))
    if (!sameBits(alone, shared)) report.threads.push(`source: heads ${heads} of ${width}, ${weight}`)
  })
}

function run(): Report {
  const report: Report = { errors: {}, changes: {}, threads: [], rows: [] }
  let turn = 0
  for (const weight of weights)
    for (const [heads, width] of [
      [2, 32],
      [3, 64],
      [2, 16],
      [3, 7],
      [5, 8],
      [2, 33],
    ] as const)
      source(heads, width, weight, report)
  for (const weight of weights)
    for (const activation of activations) {
      // Every size with every other, rows, ranks and activations in turn; then every number of rows at sizes that are
      // cut and have tails.
      for (const n of sizes)
        for (const k of sizes)
          if ((sizes.indexOf(n) + sizes.indexOf(k) + weights.indexOf(weight) + activations.indexOf(activation)) % 2)
            one({ m: rows[turn++ % rows.length]!, n, k, rank: ranks[turn % ranks.length]!, weight, activation }, report)
      for (const m of rows)
        for (const [n, k] of [
          [33, 385],
          [385, 31],
        ] as const)
          one({ m, n, k, rank: ranks[turn++ % ranks.length]!, weight, activation }, report)
      // More rows than meet one panel after the other.
      one({ m: 300, n: 70, k: 99, rank: 5, weight, activation }, report)
      for (const [n, k] of [
        [1, 7],
        [33, 31],
        [31, 385],
        [770, 33],
        [65, 1024],
      ] as const)
        fewer(n, k, weight, activation, report)
    }
  return report
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(JSON.stringify(run()))
