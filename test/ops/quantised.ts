// Products with weights in 8 and 4 bits against the float64 product with the numbers that they stand for, for one
// instruction set: MT_CPU is read once per process, so quantised.test.ts runs this file once for each. Prints the worst
// relative errors and what differed in any bit.
import { fileURLToPath } from 'node:url'
import { linear } from '../../lib/ops/linear.js'
import { dequantize, quantize } from '../../lib/ops/quantize.js'
import { narrow } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import type { DType, QuantizedDType } from '../../lib/tensor/dtype.js'
import { threads } from '../../lib/tensor/runtime.js'
import { relativeError } from '../oracle/array.js'
import { quantised } from '../oracle/quantised.js'
import { draw, expected, numbers, results, sameBits } from './frozen.js'
import { Draw, type Input, upload } from './support.js'

export interface Report {
  /** By what was computed and the activations' dtype. */
  errors: Record<string, number>
  /** Cases in which another number of threads changed a bit. */
  threads: string[]
  /** Cases in which other rows, up to 16 in all, changed a bit of a row. */
  rows: string[]
}

const weights: QuantizedDType[] = ['int8', 'nf4']
const stored: DType[] = ['float32', 'bfloat16', 'float16']

/** A matrix whose rows and columns differ in size, some numbers far from the others, and a row of zeros. */
export function matrix(n: number, k: number, dtype: DType): Input {
  const plain = new Draw(`${n} ${k} ${dtype}`).half([n, k], dtype, 1, 0.25)
  for (let r = 0; r < n; r++)
    for (let c = 0; c < k; c++) {
      const at = r * k + c
      if (r === 2) plain.data[at] = 0
      // One power of two more in the exponent, or four.
      else if (c % 97 === 5) plain.data[at] = scaled(plain.data[at] as number, dtype, 8)
      else if (r % 3 === 1) plain.data[at] = scaled(plain.data[at] as number, dtype, 2)
      plain.wide.data[at] = r === 2 ? 0 : plain.wide.data[at]! * (c % 97 === 5 ? 8 : r % 3 === 1 ? 2 : 1)
    }
  return plain
}
/** A power of two times a number, in its dtype: exponents are raised, and 0 stays. */
function scaled(x: number, dtype: DType, by: number): number {
  if (dtype === 'float32') return x * by
  return x & 0x7fff ? x + Math.log2(by) * (dtype === 'bfloat16' ? 1 << 7 : 1 << 10) : x
}

function one(m: number, n: number, k: number, weight: QuantizedDType, from: DType, activation: DType, report: Report) {
  const name = `[${m},${k}] to ${n}, ${weight} of ${from}, ${activation}`
  const d = (what: string, shape: readonly number[], dtype: DType = 'float32'): Input => draw(what, shape, dtype)
  const given = matrix(n, k, from)
  const i = {
    x: d('x', [m, k], activation),
    w: { ...given, wide: quantised[weight](given.wide) },
    bias: d('bias', [n]),
    residual: d('residual', [m, n], activation),
    a: d('a', [5, k]),
    b: d('b', [n, 5]),
    dy: d('dy', [m, n], activation),
  }
  scope(() => {
    threads(1)
    const w = quantize(upload(given), weight)
    const worst = (kind: string, e: number): number =>
      (report.errors[kind] = !(e <= (report.errors[kind] ?? 0)) ? e : report.errors[kind]!)
    worst('weight', relativeError(numbers(dequantize(w)), i.w.wide.data))
    const alone = results(i, w, 0.25)
    threads(3)
    const again = quantize(upload(given), weight)
    if (Buffer.compare(w.dataBlocking() as Uint8Array, again.dataBlocking() as Uint8Array) !== 0)
      report.threads.push(`weight: ${name}`)
    const shared = results(i, again, 0.25)
    for (const [key, reference] of Object.entries(expected(i, 0.25))) {
      worst(`${key}, ${activation}`, relativeError(alone[key]!, reference.data))
      if (!sameBits(alone[key]!, shared[key]!)) report.threads.push(`${key}: ${name}`)
    }
  })
}

/** The last rows of up to 16 by themselves, to the bit. */
function fewer(n: number, k: number, weight: QuantizedDType, report: Report): void {
  scope(() => {
    const w = quantize(upload(matrix(n, k, 'float32')), weight)
    const rows = Math.min(16, Math.floor(k / 64))
    const x = upload(draw('x', [rows, k], 'float32'))
    const all = numbers(linear(x, w))
    for (let count = 1; count < rows; count++) {
      const few = numbers(linear(narrow(x, 0, rows - count, count), w))
      if (!sameBits(few, all.subarray(-few.length))) report.rows.push(`${count} of ${rows} rows of ${k} to ${n}`)
    }
  })
}

function run(): Report {
  const report: Report = { errors: {}, threads: [], rows: [] }
  let turn = 0
  for (const weight of weights) {
    for (const m of [1, 2, 3, 4, 5, 14, 16, 17, 65])
      for (const [n, k] of [
        [33, 1024],
        [130, 704],
        [7, 1090],
        [65, 96],
        [385, 33],
      ] as const)
        one(m, n, k, weight, stored[turn % 3]!, turn++ % 2 ? 'bfloat16' : 'float32', report)
    for (const [m, n, k] of [
      [1, 1, 1],
      [3, 3, 2],
      [300, 257, 770],
      [29, 2, 64],
      [3, 5, 1],
      [20, 5, 1],
      [2, 260, 128],
      [1, 5, 4096],
      // Whose width panels are unpacked of in registers.
      [40, 300, 1408],
      [17, 45, 384],
      [70, 70, 256],
    ] as const)
      for (const activation of ['float32', 'bfloat16'] as const)
        one(m, n, k, weight, stored[turn++ % 3]!, activation, report)
    for (const [n, k] of [
      [33, 1024],
      [6, 4096],
      [9, 1090],
    ] as const)
      fewer(n, k, weight, report)
  }
  return report
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(JSON.stringify(run()))
