// Tools for lists of operator cases: inputs by seed, their upload in several layouts, and the results of a case. No
// assertions and no list: cases.ts is the list, run-cases.test.ts the test.
import { cast } from '../../lib/ops/copy.js'
import { multiply, add } from '../../lib/ops/elementwise.js'
import { quantize } from '../../lib/ops/quantize.js'
import { sumDim } from '../../lib/ops/reduce.js'
import { reshape } from '../../lib/ops/views.js'
import type { Device } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { type Tensor, tensor } from '../../lib/tensor/tensor.js'
import { isQuantized, type DType, type QuantizedDType, type TypedArray } from '../../lib/tensor/dtype.js'
import { type NdArray, array, dot, norm, size } from '../oracle/array.js'
import { directional, gradient } from '../oracle/differences.js'
import { onBorder, quantised } from '../oracle/quantised.js'
import { type Random, random } from '../oracle/random.js'

// ---- cases ----

/** An argument: what the tensor holds (16-bit floats as bits) and the same numbers in float64, exactly. */
export interface Input {
  readonly shape: readonly number[]
  readonly dtype: DType
  readonly data: TypedArray
  readonly wide: NdArray
}

export interface OpCase<N extends string = string> {
  /** The function of lib/ops. */
  readonly operator: string
  /** Operator and variant; no two are equal. */
  readonly name: string
  /** The names of inputs that gradients flow to, all float32. */
  readonly differentiable: readonly N[]
  /** Gradients are rounded to bfloat16 on their way. */
  readonly narrow: boolean
  /** The same numbers at every call. */
  inputs(): Record<N, Input>
  run(inputs: Record<N, Tensor>): Tensor | Tensor[]
  oracle(inputs: Record<N, NdArray>): NdArray | NdArray[]
}

// ---- inputs ----

/** Draws inputs. */
export class Draw {
  readonly #r: Random
  constructor(name: string) {
    let seed = 2166136261
    for (const c of name) seed = Math.imul(seed ^ c.charCodeAt(0), 16777619)
    this.#r = random(seed)
  }
  #fill(shape: readonly number[], next: () => number): Float64Array {
    const out = new Float64Array(size(shape))
    for (let i = 0; i < out.length; i++) out[i] = next()
    return out
  }
  normal(shape: readonly number[], std = 1, mean = 0): Input {
    return input(
      shape,
      this.#fill(shape, () => mean + std * this.#r.normal()),
    )
  }
  /** Normal numbers at least `gap` from 0: no central difference steps over a corner there. */
  apart(shape: readonly number[], gap = 0.05): Input {
    return input(
      shape,
      this.#fill(shape, () => {
        const x = this.#r.normal()
        return x + (x < 0 ? -gap : gap)
      }),
    )
  }
  uniform(shape: readonly number[], low: number, high: number): Input {
    return input(
      shape,
      this.#fill(shape, () => low + (high - low) * this.#r.uniform()),
    )
  }
  /** Whole numbers in [from, to). */
  integers(shape: readonly number[], from: number, to: number, dtype: DType = 'int32'): Input {
    return input(
      shape,
      this.#fill(shape, () => this.#r.integer(from, to)),
      dtype,
    )
  }
  /** A weight in 8 or 4 bits, whose data are those that it is made of; none lies on the border of two codes. */
  quantised(shape: readonly number[], dtype: QuantizedDType): Input {
    const { wide } = this.normal(shape)
    if (dtype === 'nf4')
      for (let at = 0; at < wide.data.length; at += 64) {
        const block = wide.data.subarray(at, at + 64)
        const largest = block.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
        block.forEach((x, i) => onBorder(x, largest) && (block[i] = 0))
      }
    return { shape, dtype, data: Float32Array.from(wide.data), wide: quantised[dtype](wide) }
  }
  /** Normal numbers as a float type holds them. */
  half(shape: readonly number[], dtype: DType, std = 1, mean = 0): Input {
    return input(
      shape,
      this.#fill(shape, () => mean + std * this.#r.normal()),
      dtype,
    )
  }
}

/** Values as a dtype holds them. */
export function input(shape: readonly number[], values: ArrayLike<number>, dtype: DType = 'float32'): Input {
  const data =
    dtype === 'float32'
      ? new Float32Array(values)
      : dtype === 'int32'
        ? new Int32Array(values)
        : dtype === 'uint8'
          ? new Uint8Array(values)
          : dtype === 'int64'
            ? BigInt64Array.from(Array.from(values, BigInt))
            : Uint16Array.from(values, (x) => toBits(x, dtype))
  return { shape, dtype, data, wide: array(shape, widen(data, dtype)) }
}

/** Bits of significand and exponent. */
const halves = { bfloat16: [7, 8], float16: [10, 5] } as const
const formOf = (dtype: DType): readonly [number, number] => {
  if (dtype !== 'bfloat16' && dtype !== 'float16') throw new Error(`${dtype} is no 16-bit float`)
  return halves[dtype]
}

const powers = Float64Array.from({ length: 2100 }, (_, i) => 2 ** (i - 1075))
const power = (e: number): number => powers[e + 1075]!

/** A finite number as the bits of a 16-bit float: to nearest, ties to even, past the largest to infinity. */
export function toBits(x: number, dtype: DType): number {
  const [m, exponents] = formOf(dtype)
  const bias = (1 << (exponents - 1)) - 1
  const sign = x < 0 || Object.is(x, -0) ? 1 << (m + exponents) : 0
  const a = Math.abs(x)
  if (a === 0) return sign
  let e = Math.max(Math.floor(Math.log2(a)), 1 - bias)
  while (e > 1 - bias && power(e) > a) e--
  while (power(e + 1) <= a) e++
  const scaled = a / power(e - m)
  let q = Math.floor(scaled)
  if (scaled - q > 0.5 || (scaled - q === 0.5 && q % 2 === 1)) q++
  return sign | Math.min((e + bias - 1) * (1 << m) + q, ((1 << exponents) - 1) << m)
}

/** What each bit pattern of a 16-bit float stands for. */
function numbersOf(dtype: 'bfloat16' | 'float16'): Float64Array {
  const [m, exponents] = formOf(dtype)
  const bias = 2 ** (exponents - 1) - 1
  return Float64Array.from({ length: 65536 }, (_, bits) => {
    const [e, f] = [(bits >> m) & (2 ** exponents - 1), bits & (2 ** m - 1)]
    const magnitude =
      e === 2 ** exponents - 1
        ? f
          ? NaN
          : Infinity
        : e === 0
          ? f * 2 ** (1 - bias - m)
          : (1 + f / 2 ** m) * 2 ** (e - bias)
    return bits >> (m + exponents) ? -magnitude : magnitude
  })
}
const numbers = { bfloat16: numbersOf('bfloat16'), float16: numbersOf('float16') }

/** The numbers that an array of a dtype stands for. */
export function widen(data: TypedArray, dtype: DType): Float64Array {
  if (dtype === 'int64') return Float64Array.from(data as BigInt64Array, Number)
  if (dtype !== 'bfloat16' && dtype !== 'float16') return new Float64Array(data as Float32Array)
  const [table, out] = [numbers[dtype], new Float64Array(data.length)]
  for (let i = 0; i < out.length; i++) out[i] = table[data[i] as number]!
  return out
}

// ---- layouts ----

/**
 * How inputs lie in memory: row-major; `spaced`, dimensions in reverse order and every second place; `sliced`, rows of
 * stride 1 cut out of wider ones, the dimensions before in reverse order.
 */
export type Layout = 'contiguous' | 'spaced' | 'sliced'

export function upload(x: Input, layout: Layout = 'contiguous', device: Device = 'cpu'): Tensor {
  if (isQuantized(x.dtype)) return quantize(tensor(x.data, x.shape), x.dtype).to(device).freeze()
  if (layout === 'contiguous' || x.shape.length === 0) return tensor(x.data, x.shape, x.dtype, device)
  const rank = x.shape.length
  const strides = new Array<number>(rank)
  let total = layout === 'spaced' ? 2 : 1
  const order = layout === 'spaced' ? x.shape.map((_, i) => i) : [rank - 1, ...x.shape.keys()].slice(0, rank)
  for (const i of order) {
    strides[i] = total
    total *= x.shape[i]!
    if (layout === 'sliced' && i === rank - 1) total += 3
  }
  const start = 1
  const store = new (x.data.constructor as Float32ArrayConstructor)(total + start)
  const index = x.shape.map(() => 0)
  for (let k = 0, at = start; k < x.data.length; k++) {
    store[at] = x.data[k] as number
    for (let i = rank - 1; i >= 0; i--) {
      at += strides[i]!
      if (++index[i]! < x.shape[i]!) break
      at -= index[i]! * strides[i]!
      index[i] = 0
    }
  }
  return tensor(store, [store.length], x.dtype, device).view(x.shape, strides, start)
}

// ---- results ----

export interface Result {
  outputs: Tensor[]
  gradients: Record<string, Tensor>
}

const several = <T extends object>(x: T | T[]): T[] => (Array.isArray(x) ? x : [x])
const named = <T>(names: readonly string[], f: (name: string) => T): Record<string, T> =>
  Object.fromEntries(names.map((n) => [n, f(n)]))

/** What outputs are multiplied with to get one number: multiples of 1/64 up to 2, exact in every float type. */
const projection = (c: OpCase, shapes: readonly (readonly number[])[]): Input[] => {
  const draw = new Draw(`${c.name} projection`)
  return shapes.map((s) =>
    input(
      s,
      draw.integers(s, -128, 129).wide.data.map((x) => x / 64),
    ),
  )
}

/** The arguments that may be bfloat16, by operator: what its header calls Act. Stands beside the cases. */
export const activations: Record<string, readonly string[]> = {}

/** Where and how a case is run. */
export interface Run {
  layout?: Layout
  device?: Device
  /** Activations as bfloat16: inputs are rounded by an operator that gradients pass, outputs stay so. */
  narrow?: boolean
}

/** Whether a case has activations that can be bfloat16. */
export const canBeNarrow = (c: OpCase): boolean =>
  !!activations[c.operator]?.some((n) => n in c.inputs() && c.inputs()[n]!.dtype === 'float32')

/** The inputs as bfloat16 activations hold them, still float32. */
export const roundedInputs = (c: OpCase, given = c.inputs()): Record<string, Input> =>
  named(Object.keys(given), (n) => {
    const x = given[n]!
    return activations[c.operator]?.includes(n) && x.dtype === 'float32'
      ? input(
          x.shape,
          widen(
            Uint16Array.from(x.wide.data, (v) => toBits(v, 'bfloat16')),
            'bfloat16',
          ),
        )
      : x
  })

/** Runs a case forward, and backward from the projection of its outputs. The caller's scope owns the result. */
export function evaluate(
  c: OpCase,
  { layout = 'contiguous', device = 'cpu', narrow = false }: Run = {},
  given = c.inputs(),
): Result {
  return scope(() => {
    const t = named(Object.keys(given), (n) => upload(given[n]!, layout, device))
    for (const n of c.differentiable) t[n]!.requireGrad(n)
    const used = narrow
      ? named(Object.keys(t), (n) =>
          activations[c.operator]!.includes(n) && t[n]!.dtype === 'float32' ? cast(t[n]!, 'bfloat16') : t[n]!,
        )
      : t
    const outputs = several(c.run(used))
    if (c.differentiable.length) {
      const dys = projection(
        c,
        outputs.map((y) => y.shape),
      ).map((d, i) => cast(upload(d, 'contiguous', device), outputs[i]!.dtype))
      if (outputs.length === 1) backward(outputs[0]!, dys[0])
      else
        backward(
          outputs
            .map((y, i) => sumDim(multiply(reshape(y, [y.size]), reshape(dys[i]!, [y.size])), 0))
            .reduce((a, b) => add(a, b)),
        )
    }
    const gradients = named(
      c.differentiable.filter((n) => t[n]!.grad),
      (n) => t[n]!.grad!.detach(),
    )
    for (const n of c.differentiable) t[n]!.grad?.dispose()
    return { outputs, gradients }
  })
}

/** All bits of a result, output by output and gradient by gradient. */
export function bits({ outputs, gradients }: Result): Buffer[] {
  return [...outputs, ...Object.values(gradients)].map((t) => Buffer.from(t.dataBlocking().buffer))
}

export interface Errors {
  forward: number
  gradients: Record<string, number>
}

/**
 * Relative errors against the oracle, forward and of each gradient: ‖g − slope‖/‖slope‖ over all coordinates of inputs
 * of at most `most` numbers, else along two random directions, |g·d − slope|/‖g‖. A gradient below a thousandth of the
 * case's largest is mere rounding to it (a softmax of one key) and is held against that thousandth.
 */
export function errors(c: OpCase, result: Result, most = 64, given = c.inputs()): Errors {
  const wide = named(Object.keys(given), (n) => given[n]!.wide)
  const expected = several(c.oracle(wide))
  if (result.outputs.map((t) => `[${t.shape}]`).join() !== expected.map((t) => `[${t.shape}]`).join())
    throw new Error(
      `${c.name}: shapes ${result.outputs.map((t) => `[${t.shape}]`)}, the oracle has ${expected.map((t) => `[${t.shape}]`)}`,
    )
  const got = result.outputs.map((t) => widen(t.dataBlocking(), t.dtype))
  const forward = Math.max(
    ...got.map((y, i) => norm(y.map((v, k) => v - expected[i]!.data[k]!)) / (norm(expected[i]!.data) || 1)),
  )

  const dys = projection(
    c,
    expected.map((y) => y.shape),
  ).map((d) => d.wide.data)
  const draw = new Draw(`${c.name} directions`)
  const grads = named(c.differentiable, (n) => {
    const g = result.gradients[n]
    if (`${g?.shape}` !== `${given[n]!.shape}`)
      throw new Error(`${c.name}: gradient of ${n} has shape [${g?.shape}], ${n} has [${given[n]!.shape}]`)
    return Float64Array.from(g!.dataBlocking() as Float32Array)
  })
  const floor = 1e-3 * Math.max(...Object.values(grads).map(norm)) || 1
  return {
    forward,
    gradients: named(c.differentiable, (n) => {
      const [g, x] = [grads[n]!, wide[n]!]
      const f = (v: Float64Array): number =>
        several(c.oracle({ ...wide, [n]: array(x.shape, v) })).reduce((s, y, i) => s + dot(y.data, dys[i]!), 0)
      if (g.length <= most) {
        const slope = gradient(f, x.data)
        return norm(g.map((v, i) => v - slope[i]!)) / Math.max(norm(slope), floor)
      }
      const along = (): number => {
        const d = draw.normal(x.shape).wide.data
        return Math.abs(dot(g, d) - directional(f, x.data, d)) / Math.max(norm(g), floor)
      }
      return Math.max(along(), along())
    }),
  }
}
