// Calls every operator and every function of the addon with random arguments, by seed; fuzz.test.ts runs it in a process
// of its own, so that a crash fails the test and does not end the run. Prints a line of JSON: how many calls there were,
// and what was wrong with them. There are two sources of arguments: any value for any parameter; and the calls that the
// operators of lib/ops make, forward and backward, with one or two arguments replaced, which pass most checks.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { native, type NativeTensor } from '../../lib/native.js'
import * as all from '../../lib/ops/attention.js'
import { accumulate, adamw, adamwAll, adamwSchedule, addSquareSum, gradientNorm } from '../../lib/ops/adamw.js'
import { cast, copy, full, write } from '../../lib/ops/copy.js'
import { crossEntropy } from '../../lib/ops/cross-entropy.js'
import * as elementwise from '../../lib/ops/elementwise.js'
import { embedding } from '../../lib/ops/embedding.js'
import { linear, linearGelu } from '../../lib/ops/linear.js'
import { layerNorm } from '../../lib/ops/layernorm.js'
import { lora } from '../../lib/ops/lora.js'
import { sourceAttention } from '../../lib/ops/source-attention.js'
import { patchify } from '../../lib/ops/patchify.js'
import { Random } from '../../lib/ops/random.js'
import { mean, sumDim } from '../../lib/ops/reduce.js'
import { quantize } from '../../lib/ops/quantize.js'
import { rmsNorm } from '../../lib/ops/rmsnorm.js'
import { rope } from '../../lib/ops/rope.js'
import { router } from '../../lib/ops/router.js'
import { concat, expand, permute, swap } from '../../lib/ops/views.js'
import { siluMul } from '../../lib/ops/silu-mul.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { memory } from '../../lib/tensor/runtime.js'
import { empty, tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { random } from '../oracle/random.js'

const [seed, rounds] = process.argv.slice(2).map(Number) as [number, number]
const rng = random(seed)
const pick = <T>(list: readonly T[]): T => list[rng.integer(0, list.length)]!
const n = native()
const ops = { ...n.ops } as unknown as Record<string, (...args: unknown[]) => void>
const functions = n as unknown as Record<string, (...args: unknown[]) => unknown>
const signatures = new Map(
  n.signatures.map((s) => [s.slice(0, s.indexOf('(')), s.slice(s.indexOf('(') + 1, -1).split(', ')]),
)

// ---- random values ----

class Trap extends Error {}
const folder = mkdtempSync(join(tmpdir(), 'mt-fuzz-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const path = join(folder, 'weights')
writeFileSync(path, new Uint8Array(4096).fill(1))
const file = n.map(path)

const quantised = ['int8', 'nf4']
const dtypes = ['float32', 'bfloat16', 'float16', 'int64', 'int32', 'uint8', ...quantised]
const sizes: Record<string, number> = { float32: 4, bfloat16: 2, float16: 2, int64: 8, int32: 4, uint8: 1 }
const dims = [0, 1, 1, 2, 3, 4, 5, 7, 8, 17]
const numbers = [
  0,
  -0,
  1,
  -1,
  2,
  3,
  7,
  0.5,
  -0.5,
  1e-12,
  NaN,
  Infinity,
  -Infinity,
  255,
  256,
  2 ** 31,
  -(2 ** 31),
  2 ** 32,
  2 ** 40,
  2 ** 46,
  2 ** 53,
  -(2 ** 53),
  2 ** 53 + 2,
  2 ** 63,
  1e308,
  -1e308,
]

function made(shape: number[], dtype: string): NativeTensor {
  if (quantised.includes(dtype)) {
    const [rows = 1, ...rest] = shape
    const whole = [rows, rest.reduce((a, b) => a * b, 1)]
    const q = n.create(whole, dtype)
    n.ops.quantize([made(whole, 'float32')], q)
    return q
  }
  const bytes = new Uint8Array(shape.reduce((a, b) => a * b, 1) * sizes[dtype]!)
  for (let i = 0; i < bytes.length; i++)
    bytes[i] = dtype === 'float32' ? [0, 0, 128, 63][i % 4]! : dtype === 'uint8' ? i % 4 : i % sizes[dtype]! ? 0 : i % 3
  return n.upload(bytes, shape, dtype)
}
/** Another view with as many dimensions or fewer: gaps, repeated elements, swapped dimensions, an offset. */
function odd(shape: number[], dtype: string): NativeTensor {
  if (quantised.includes(dtype)) return made(shape, dtype)
  const strides = shape.map(() => pick([0, 1, 1, 2, 3, 5, 8]))
  const offset = rng.integer(0, 4)
  const reach = shape.reduce((a, s, i) => a + Math.max(0, s - 1) * strides[i]!, offset) + 1
  return n.view(made([reach], dtype), shape, strides, offset)
}
function anyTensor(like?: number[], likeType?: string): NativeTensor {
  const dtype = likeType && rng.integer(0, 4) ? likeType : pick(dtypes)
  let shape = like && rng.integer(0, 4) ? [...like] : Array.from({ length: rng.integer(0, 7) }, () => pick(dims))
  if (rng.integer(0, 4) === 0 && shape.length) shape[rng.integer(0, shape.length)] = pick(dims)
  if (rng.integer(0, 8) === 0) shape = shape.slice(1)
  while (shape.reduce((a, b) => a * b, 1) > 4096) shape = shape.slice(1)
  switch (rng.integer(0, 12)) {
    case 0:
    case 1:
    case 2:
      return odd(shape, dtype)
    case 3:
      return n.create(quantised.includes(dtype) ? [2, pick(dims)] : shape, dtype) // never written
    case 4: {
      const t = made(shape, dtype)
      n.release(t)
      return t
    }
    case 5:
      return n.mapped(file, pick([0, 1, 8]), [2, pick(dims)], quantised.includes(dtype) ? 'uint8' : dtype)
    case 6:
      return n.create([pick([2 ** 30, 2 ** 40, 2 ** 46]), pick([0, 1])], dtype)
    case 7:
      return n.create([pick([0, 1]), pick([2 ** 20, 2 ** 23])], dtype)
    default:
      return made(shape, dtype)
  }
}
function trapped(target: object): object {
  return new Proxy(target, {
    get: () => {
      throw new Trap('get')
    },
    has: () => {
      throw new Trap('has')
    },
    getPrototypeOf: () => {
      throw new Trap('prototype')
    },
  })
}
function anything(): unknown {
  switch (rng.integer(0, 26)) {
    case 0:
      return undefined
    case 1:
      return null
    case 2:
      return Symbol('s')
    case 3:
      return 10n ** 30n
    case 4:
      return pick(['', 'float32', 'NaN', '0', 'x'.repeat(500), 'ü€😀'.repeat(30), 'line\nbreak', path])
    case 5:
      return {}
    case 6:
      return pick([true, false])
    case 7:
      return () => 1
    case 8:
      return trapped({})
    case 9:
      return trapped(made([2], 'float32'))
    case 10:
      return Object.create(made([2], 'float32'))
    case 11:
      return file
    case 12:
      return new Float32Array(3)
    case 13:
      return new Uint8Array(pick([0, 4, 8]))
    case 14:
      return new Date(0)
    case 15:
      return [pick(numbers), pick(numbers)]
    case 16:
      return [1, '2', {}]
    case 17: {
      const a = [2, 3]
      Object.defineProperty(a, 0, {
        get: () => {
          throw new Trap('element')
        },
      })
      return a
    }
    case 18:
      return Object.assign([], { length: 4294967295 })
    case 19:
      return n.ops
    case 20: {
      const { proxy, revoke } = Proxy.revocable([1], {})
      revoke()
      return proxy
    }
    case 21:
      return pick([[2, 3], [1], [], [0, 4], [3, 1]])
    case 22:
      return new WeakRef({})
    case 23:
      return anyTensor()
    default:
      return pick(numbers)
  }
}
/** Numbers as an array, or as a Float64Array, which lib passes; sometimes a detached one. */
function several(...values: number[]): number[] | Float64Array {
  if (rng.integer(0, 2)) return values
  const array = Float64Array.from(values)
  if (rng.integer(0, 8) === 0) structuredClone(array, { transfer: [array.buffer] })
  return array
}
/** The argument `into`: a released tensor, a live one or any value. */
function into(): unknown {
  const t = anyTensor()
  if (rng.integer(0, 2)) judged('release', () => n.release(t))
  return pick([undefined, t, t, anything()])
}
function anyOf(type: string): unknown {
  if (rng.integer(0, 6) === 0) return anything()
  if (type === 'float' || type === 'int') return pick(numbers)
  if (type === 'bool') return rng.integer(0, 2) === 1
  if (type.endsWith('s')) return Array.from({ length: rng.integer(0, 4) }, () => anyOf(type.slice(0, -1)))
  if (type.endsWith('?') && rng.integer(0, 4) === 0) return null
  return anyTensor()
}

// ---- calls, and what holds after them ----

const faults: string[] = []
const count = { calls: 0, thrown: 0, rejected: 0, computed: 0 }
const fault = (text: string): void => void (faults.length < 20 && faults.push(text))
const names = [...signatures.keys()]

function judged(name: string, f: () => unknown): boolean {
  count.calls++
  try {
    f()
    return true
  } catch (error) {
    count.thrown++
    if (error instanceof Trap) return false
    const message = (error as Error)?.message
    if (!(error instanceof Error)) fault(`${name} threw ${String(error)}`)
    else if (
      !(error instanceof RangeError) &&
      (!message.startsWith(`${name}: `) || !message.endsWith('.') || message.includes('\n') || message.length > 400)
    )
      fault(`${name} threw "${message}"`)
    return false
  }
}
async function settled(name: string): Promise<void> {
  try {
    await n.sync()
    count.computed++
  } catch (error) {
    count.rejected++
    const message = (error as Error).message
    if (!names.some((o) => message.startsWith(`${o}: `))) fault(`after ${name}, sync rejected with "${message}"`)
  }
}

/** Calls every operator and function with random values. */
async function blind(): Promise<void> {
  for (const [name, types] of signatures) {
    const args = types.map(anyOf)
    if (rng.integer(0, 8) === 0) args.length = rng.integer(0, args.length + 1)
    if (rng.integer(0, 16) === 0) args.push(anything())
    if (judged(name, () => ops[name]!(...args))) await settled(name)
  }
  const usual: Record<string, () => unknown[]> = {
    create: () => [
      pick([several(2, 3), several(pick(numbers), pick(numbers)), several(2 ** 40, 2 ** 40, 0), anything()]),
      pick([...dtypes, rng.integer(0, dtypes.length), anything()]),
      pick([undefined, -1, pick(numbers), anything()]),
      into(),
    ],
    upload: () => [pick([new Uint8Array(8), anything()]), pick([[2], [8], anything()]), pick([...dtypes, anything()])],
    view: () => [
      anyTensor(),
      pick([several(2), several(2, 2), several(1, 1), several(pick(numbers)), anything()]),
      pick([several(1), several(2, 1), several(pick(numbers)), anything()]),
      pick([0, 1, pick(numbers), anything()]),
      into(),
    ],
    map: () => [pick([path, folder, join(folder, 'none'), '/dev/zero', `${path}\0x`, anything()])],
    mapped: () => [
      pick([file, anything()]),
      pick([0, 4, 4092, pick(numbers)]),
      pick([[2], [1024], [pick(numbers)], anything()]),
      pick([...dtypes, anything()]),
    ],
    release: () => [anything()],
    readBlocking: () => [pick([anyTensor(), anything()])],
    threads: () => [pick([1, 2, -1, 0, 1.5, 257, 2 ** 40, anything()])],
    memory: () => [anything()],
    resetPeak: () => [anything()],
    releaseCached: () => [anything()],
    syncBlocking: () => [anything()],
  }
  for (const [name, args] of Object.entries(usual)) judged(name, () => functions[name]!(...args()))
  for (const t of [anyTensor(), anything()]) {
    let promise: unknown
    if (!judged('read', () => (promise = functions['read']!(t)))) continue
    await (promise as Promise<unknown>).catch((error: Error) => {
      count.rejected++
      if (!/^(read|\w+): /.test(error.message)) fault(`read rejected with "${error.message}"`)
    })
  }
  // No process of mpirun: nothing of it can be called.
  for (const [name, f] of Object.entries(n.mpi as unknown as Record<string, (...args: unknown[]) => unknown>)) {
    let promise: unknown
    if (!judged(name, () => (promise = f(anything(), anything())))) continue
    await Promise.resolve(promise).catch((error: Error) => {
      count.rejected++
      if (/\n/.test(error.message)) fault(`${name} rejected with "${error.message}"`)
    })
  }
  // Reading this array's element releases the tensor that the call uses.
  const victim = made([4], 'float32')
  const shape = [2]
  let released = 0
  Object.defineProperty(shape, 0, { get: () => (released++ || n.release(victim), 2) })
  judged('view', () => n.view(victim, shape, [1], 0))
}

// ---- calls that are correct but for one or two arguments ----

const shapes = new WeakMap<object, [number[], string]>()
let mutating = false
function replaced(args: unknown[], types: string[]): unknown[] {
  const out = [...args]
  for (let times = rng.integer(1, 3); times > 0; times--) {
    const i = rng.integer(0, out.length)
    const type = types[i]!
    const known = typeof out[i] === 'object' && out[i] ? shapes.get(out[i]) : undefined
    if (Array.isArray(out[i]) && type.endsWith('s') && rng.integer(0, 4)) {
      const [list, one] = [[...(out[i] as unknown[])], type.slice(0, -1)]
      out[i] = list.length
        ? replaced(
            list,
            list.map(() => one),
          )
        : list
    } else if (/^(tensor|out|inout)/.test(type)) {
      const others = args.filter((a) => typeof a === 'object' && a)
      out[i] = pick([
        () => anyTensor(known?.[0], known?.[1]),
        () => anyTensor(known?.[0], known?.[1]),
        () => pick(others),
        () => null,
        anything,
      ])()
    } else out[i] = anyOf(type)
  }
  return out
}
const pending: string[] = []
const table = n.ops as unknown as Record<string, unknown>
for (const [name, types] of signatures) {
  table[name] = (...args: unknown[]) => {
    if (mutating) {
      mutating = false
      for (let i = 0; i < 6; i++) {
        const changed = replaced(args, types)
        if (judged(name, () => ops[name]!(...changed))) pending.push(name)
        // A failure in the queue is reported once: wait after every call.
        try {
          n.syncBlocking()
          count.computed++
        } catch (error) {
          count.rejected++
          const message = (error as Error).message
          if (!names.some((o) => message.startsWith(`syncBlocking: ${o}: `))) fault(`${name} failed with "${message}"`)
        }
      }
      mutating = true
    }
    ops[name]!(...args)
  }
}
for (const name of ['create', 'upload', 'view'] as const) {
  const inner = functions[name]!
  functions[name] = (...args: unknown[]) => {
    const t = inner(...args) as object
    const given = args[name === 'create' ? 1 : 2] as string | number
    const dtype = typeof given === 'number' ? dtypes[given]! : given
    shapes.set(t, [
      // A detached array has no numbers, and cannot be spread.
      (args[name === 'create' ? 0 : 1] as number[]).length ? [...(args[name === 'create' ? 0 : 1] as number[])] : [],
      name === 'view' ? (shapes.get(args[0] as object)?.[1] ?? 'float32') : dtype,
    ])
    return t
  }
}

const values = new Random(seed)
const dim = (): number => pick([0, 1, 2, 3, 5, 8, 17, 33])
const x = (...shape: number[]): Tensor => values.normal(shape)
const p = (...shape: number[]): Tensor => values.normal(shape).requireGrad()
const ids = (count: number, below: number): Tensor =>
  tensor(Int32Array.from({ length: count }, () => rng.integer(0, Math.max(1, below))))
function programs(): (() => Tensor | undefined)[] {
  const [a, b, c] = [dim(), dim(), dim()]
  const batch = pick([1, 2])
  return [
    () => elementwise.add(p(a, b), pick([p(a, b), p(b)]), 0.5),
    () => elementwise.scale(p(a, b), 2),
    () => elementwise.multiply(p(a), p(a)),
    () => elementwise.gelu(p(a, b)),
    () => elementwise.geluTanh(p(a, b)),
    () => elementwise.relu(p(a, b)),
    () => siluMul(p(a, b), p(a, b)),
    () => elementwise.gate(p(a, b), p(a, b), p(1)),
    () => linear(p(a, b), p(c, b), pick([p(c), undefined]), { residual: pick([p(a, c), undefined]) }),
    () => linearGelu(p(a, b), p(c, b), pick([p(c), undefined])),
    () => linear(p(a, b), quantize(x(c, b), pick(['int8', 'nf4'])), p(c)),
    () => linear(p(a, b), cast(x(c, b), pick(['bfloat16', 'float16']))),
    () => lora(p(a, b), cast(x(c, b), pick(['float32', 'bfloat16'])), pick([x(c), undefined]), p(3, b), p(c, 3), 0.5),
    () =>
      sourceAttention(x(batch, a, 6), x(batch, b, c), x(6, c), cast(x(6, c), pick(['float32', 'bfloat16'])), {
        heads: pick([1, 2, 3]),
        bias: pick([x(6), undefined]),
        ...pick([{ lora: { A: x(2, c), B: x(6, 2), scaling: 0.5 } }, {}]),
      }),
    () => copy(permute(p(a, b, c), [2, 0, 1])),
    () => copy(expand(p(1, b), [a, b])),
    () => concat([p(a, b), p(a, c)], 1),
    () => swap(p(batch, a, b, c)),
    () => layerNorm(p(a, b), p(b), p(b), 1e-6),
    () => rmsNorm(p(a, b), p(b), 1e-6),
    () => embedding(ids(a, b), p(Math.max(1, b), c)),
    () =>
      rope(
        p(batch, a, 2, 6),
        tensor(
          Int32Array.from({ length: batch * a }, (_, i) => i),
          [batch, a],
        ),
        10000,
      ),
    () => patchify(values.normal([batch, 3, 6, 9]), 3),
    () => pick([sumDim, mean])(p(Math.max(1, a), b, c), 0),
    () => crossEntropy(p(a, Math.max(1, b)), ids(a, b), 0.5),
    () =>
      all.attention(p(batch, a, 6), p(batch, b, 6), p(batch, b, 6), {
        heads: 2,
        causal: pick([true, false]),
        keyMask: pick([undefined, full([batch, b], 1, 'uint8')]),
        ...pick([{}, { bias: x(2, Math.max(0, a + b - 1)), scale: 1 }]),
      }),
    () =>
      all.attention(p(batch, 3, a, 8), p(batch, 3, a, 8), p(batch, 3, a, 8), {
        heads: 2,
        over: 2,
        mode: pick(['score', 'attention']),
        masks: full([a, a], 3, 'uint8'),
        alpha: p(batch, 3, 2),
      }),
    () => router(p(batch, 3, Math.max(1, a), 5), { w1: p(4, 5), b1: p(4), w2: p(3, 4), b2: p(3) }, 2),
    () => {
      const sum = full([1], 0)
      addSquareSum(sum, x(a, b))
      adamw(x(a, b), x(a, b), full([a, b], 0), full([a, b], 0), {
        lr: 0.1,
        betas: [0.9, 0.99],
        eps: 1e-8,
        weightDecay: 0.1,
        step: 1,
        scale: sum,
      })
      write(x(a, b), x(a, b))
      return undefined
    },
    () => {
      const [betas, schedule, report] = [[0.9, 0.99] as const, empty([6], 'int64'), empty([5])]
      adamwSchedule(schedule, 3, betas, [
        { lr: 0.1, weightDecay: 0 },
        { lr: 0.2, weightDecay: 0.1 },
      ])
      const [one, two] = [x(a, b), x(a)]
      accumulate([one, two], [x(a, b), x(a)])
      gradientNorm([one, two], x(2), 0.5, report)
      adamwAll(
        [one, two].map((grad, kind) => ({
          param: full(grad.shape, 1),
          grad,
          m: full(grad.shape, 0),
          v: full(grad.shape, 0),
          kind,
        })),
        report,
        schedule,
        { betas, eps: 1e-8 },
      )
      return undefined
    },
  ]
}
async function nearly(): Promise<void> {
  for (const program of programs()) {
    try {
      await scope(async () => {
        mutating = true
        const y = program()
        if (y) backward(y, full(y.shape, 1))
        mutating = false
        await n.sync()
      })
    } catch (error) {
      // A replaced argument may make the rest of the program fail, but with an error.
      mutating = false
      if (!(error instanceof Error) || error.message.length < 10) fault(`a program threw ${String(error)}`)
      await n.sync().catch(() => undefined)
    }
  }
}

async function main(): Promise<void> {
  const kept = memory().tensors
  for (let i = 0; i < rounds; i++) {
    await blind()
    await nearly()
    n.threads(2)
    // The device can still compute.
    const sum = scope(() => elementwise.add(tensor([1, 2, 3]), tensor([10, 20, 30])))
    const got = [...(await sum.data())].join()
    if (got !== '11,22,33') fault(`1,2,3 + 10,20,30 became ${got}`)
    sum.dispose()
  }
  // Every handle is freed with its object, whatever calls it went through.
  for (let i = 0; i < 50 && memory().tensors > kept; i++) {
    ;(globalThis as { gc?: () => void }).gc!()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  if (memory().tensors > kept) fault(`${memory().tensors} tensors are left`)
  console.log(JSON.stringify({ ...count, faults }))
}
await main()
