// Products of bfloat16 on a CUDA device, of every kind, whether cuBLASLt computes it or not. test/cuda/cublaslt.test.ts
// runs this in processes of its own, since MT_GEMM is read once. Prints, by name, the error of results and gradients
// against the CPU's, and whether a rerun, a replayed graph and operands at other addresses give the same bits.
import { fileURLToPath } from 'node:url'
import { cast, write } from '../../../lib/ops/copy.js'
import { add } from '../../../lib/ops/elementwise.js'
import { linear, linearGelu } from '../../../lib/ops/linear.js'
import { lora } from '../../../lib/ops/lora.js'
import { quantize } from '../../../lib/ops/quantize.js'
import { narrow, reshape } from '../../../lib/ops/views.js'
import { devices } from '../../../lib/tensor/device.js'
import { Graph } from '../../../lib/tensor/cuda-graph.js'
import { keep, scope } from '../../../lib/tensor/scope.js'
import { backward } from '../../../lib/tensor/tape.js'
import { syncBlocking } from '../../../lib/tensor/runtime.js'
import { isQuantized, type QuantizedDType } from '../../../lib/tensor/dtype.js'
import { type Tensor, empty, tensor } from '../../../lib/tensor/tensor.js'
import { random } from '../../oracle/random.js'
import { widen } from '../../ops/support.js'

export interface Answer {
  error: number
  same: { rerun: boolean; replay: boolean; moved: boolean }
}
export interface Answers {
  products: { by: string; reason: string }
  answers: Record<string, Answer>
}

const rng = random(11)
interface Case {
  name: string
  shapes: Record<string, number[]>
  /** Names of tensors that stay float32. */
  wide?: string[]
  /** What w is quantised as. */
  weights?: QuantizedDType
  /** Results, and gradients of those that require one. */
  run(t: Record<string, Tensor>): Tensor[]
}

/** y, and the gradients of the inputs `of` for dy. */
function gradients(y: Tensor, dy: Tensor, ...of: Tensor[]): Tensor[] {
  backward(y, dy)
  return [y, ...of.map((t) => t.grad!)]
}
const trained = (t: Tensor): Tensor => cast(t, 'float32').detach().requireGrad()
const stored = (t: Tensor): Tensor => cast(t, 'bfloat16')

const [m, n, k] = [129, 256, 1024]
export const cases: Case[] = [
  { name: 'plain', shapes: { x: [41, 72], w: [64, 72] }, run: ({ x, w }) => [linear(x!, w!)] },
  {
    name: 'odd rows, residual',
    shapes: { x: [37, 80], w: [40, 80], r: [37, 40] },
    run: ({ x, w, r }) => [linear(x!, w!, undefined, { residual: r! })],
  },
  { name: 'bias', shapes: { x: [m, k], w: [n, k], b: [n] }, wide: ['b'], run: ({ x, w, b }) => [linear(x!, w!, b!)] },
  {
    name: 'bias and residual',
    shapes: { x: [m, k], w: [n, k], b: [n], r: [m, n] },
    wide: ['b'],
    run: ({ x, w, b, r }) => [linear(x!, w!, b!, { residual: r! })],
  },
  {
    name: 'gelu',
    shapes: { x: [m, k], w: [n, k], b: [n] },
    wide: ['b'],
    run: ({ x, w, b }) => [linearGelu(x!, w!, b!)],
  },
  {
    name: 'gelu, kept for the backward',
    shapes: { x: [m, k], w: [n, k], b: [n], dy: [m, n] },
    wide: ['b'],
    run: ({ x, w, b, dy }) => {
      const t = trained(x!)
      return gradients(linearGelu(stored(t), w!, b!), dy!, t)
    },
  },
  {
    name: 'backward input',
    shapes: { x: [41, 72], w: [64, 72], dy: [41, 64] },
    run: ({ x, w, dy }) => {
      const t = trained(x!)
      return gradients(linear(stored(t), w!), dy!, t)
    },
  },
  {
    name: 'backward weight',
    shapes: { x: [72, 48], w: [64, 48], dy: [72, 64] },
    wide: ['w'],
    run: ({ x, w, dy }) => {
      const [t, u] = [trained(x!), trained(w!)]
      return gradients(linear(stored(t), u), dy!, t, u)
    },
  },
  {
    name: 'lora',
    shapes: { x: [m, k], w: [n, k], b: [n], A: [16, k], B: [n, 16], dy: [m, n] },
    wide: ['b', 'A', 'B'],
    run: ({ x, w, b, A, B, dy }) => {
      const [t, u, v] = [trained(x!), trained(A!), trained(B!)]
      return gradients(lora(stored(t), w!, b!, u, v, 0.5), dy!, t, u, v)
    },
  },
  { name: 'few rows', shapes: { x: [8, 72], w: [64, 72] }, run: ({ x, w }) => [linear(x!, w!)] },
  { name: 'few columns', shapes: { x: [41, 72], w: [32, 72] }, run: ({ x, w }) => [linear(x!, w!)] },
  { name: 'rows of an odd pitch', shapes: { x: [41, 70], w: [64, 70] }, run: ({ x, w }) => [linear(x!, w!)] },
  {
    name: 'rows of an odd pitch that are padded',
    shapes: { x: [m, k - 4], w: [n, k - 4] },
    run: ({ x, w }) => [linear(x!, w!)],
  },
  {
    name: 'an odd number of columns, backward input',
    shapes: { x: [m, k], w: [250, k], dy: [m, 250] },
    run: ({ x, w, dy }) => {
      const t = trained(x!)
      return gradients(linear(stored(t), w!), dy!, t)
    },
  },
  {
    name: 'a float32 weight that is rounded first',
    shapes: { x: [m, k], w: [n, k] },
    wide: ['w'],
    run: ({ x, w }) => [linear(x!, w!)],
  },
  { name: 'a float32 weight', shapes: { x: [41, 72], w: [64, 72] }, wide: ['w'], run: ({ x, w }) => [linear(x!, w!)] },
  ...(['int8', 'nf4'] as const).map(
    (weights): Case => ({
      name: `${weights} weights`,
      shapes: { x: [m, k], w: [n, k], b: [n], A: [16, k], B: [n, 16], dy: [m, n] },
      wide: ['b', 'A', 'B'],
      weights,
      run: ({ x, w, b, A, B, dy }) => {
        const t = trained(x!)
        const u = add(linear(stored(t), w!, b!), lora(stored(t), w!, b!, A!, B!, 0.5))
        return gradients(u, dy!, t)
      },
    }),
  ),
]

const norm = (x: Float64Array): number => Math.sqrt(x.reduce((s, v) => s + v * v, 0))
const numbers = (t: Tensor): Float64Array => widen(t.dataBlocking(), t.dtype)
const bits = (list: Tensor[]): Buffer[] => list.map((t) => Buffer.from(new Uint8Array(t.dataBlocking().buffer)))
const equal = (a: Buffer[], b: Buffer[]): boolean => a.every((x, i) => x.equals(b[i]!))

/** The same numbers at an address one element further, so that no row is aligned; quantised ones are always aligned. */
function moved(t: Tensor): Tensor {
  if (isQuantized(t.dtype)) return t
  const all = empty([t.size + 1], t.dtype, t.device)
  const place = narrow(all, 0, 1, t.size)
  write(place, reshape(t, [t.size]))
  return reshape(place, t.shape)
}

function answer({ shapes, wide = [], weights, run }: Case): Answer {
  return scope(() => {
    const made: Record<string, Tensor> = {}
    for (const [name, shape] of Object.entries(shapes)) {
      const x = tensor(
        Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => rng.normal()),
        shape,
      )
      made[name] = name === 'w' && weights ? quantize(x, weights) : wide.includes(name) ? x : cast(x, 'bfloat16')
    }
    const expected = run(made).map(numbers)
    const there = Object.fromEntries(Object.entries(made).map(([name, t]) => [name, t.to('cuda:0')]))
    const found = run(there)
    const first = bits(found)
    const error = Math.max(
      ...found.map((t, i) => norm(numbers(t).map((v, j) => v - expected[i]![j]!)) / norm(expected[i]!)),
    )
    const rerun = equal(first, bits(run(there)))
    const elsewhere = equal(
      first,
      bits(run(Object.fromEntries(Object.entries(there).map(([name, t]) => [name, moved(t)])))),
    )
    syncBlocking()
    const { graph, result } = Graph.capture('cuda:0', () => run(there).map(keep))
    graph.replay()
    graph.replay()
    const replay = equal(first, bits(result))
    graph.dispose()
    return { error, same: { rerun, replay, moved: elsewhere } }
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wanted = process.argv[2]?.split(',')
  const answers = Object.fromEntries(
    cases.filter(({ name }) => !wanted || wanted.includes(name)).map((c) => [c.name, answer(c)]),
  )
  console.log(JSON.stringify({ products: devices().cuda.products, answers } satisfies Answers))
}
