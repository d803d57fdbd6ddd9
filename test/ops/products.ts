// Matrix products of all shapes and dtypes against the oracle, for one instruction set: MT_CPU is read once per
// process, so linear.test.ts runs this file once for each. Prints the worst relative errors and a digest of all bits.
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { lora } from '../../lib/ops/lora.js'
import { linear } from '../../lib/ops/linear.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { syncBlocking, threads } from '../../lib/tensor/runtime.js'
import { type Tensor, tensor } from '../../lib/tensor/tensor.js'
import type { DType } from '../../lib/tensor/dtype.js'
import { type NdArray, array, norm, permute, scale, size } from '../oracle/array.js'
import * as oracle from '../oracle/ops.js'
import { random } from '../oracle/random.js'

export interface Report {
  errors: Record<string, number>
  digests: string[]
}

const rng = random(7)
/** Normal numbers that float32 holds exactly. */
export const normal = (shape: readonly number[]): NdArray =>
  array(
    shape,
    Float32Array.from({ length: size(shape) }, () => rng.normal()),
  )
export const upload = (a: NdArray): Tensor => tensor(Float32Array.from(a.data), a.shape)

/** A weight and what it widens to. */
export function weight(shape: readonly number[], dtype: DType): [Tensor, NdArray] {
  if (dtype === 'float32') {
    const a = normal(shape)
    return [upload(a), a]
  }
  // Any bits but those of infinities and NaN; bfloat16 with exponents near 1, lest its range drown all else.
  const bits = Uint16Array.from({ length: size(shape) }, () =>
    dtype === 'bfloat16'
      ? (rng.integer(0, 2) << 15) | (rng.integer(122, 129) << 7) | rng.integer(0, 128)
      : (rng.integer(0, 2) << 15) | rng.integer(0, 17 << 10),
  )
  const wide = Float32Array.from(bits, (b) => {
    if (dtype === 'bfloat16') return new Float32Array(Uint32Array.of(b << 16).buffer)[0]!
    const [e, m] = [(b >> 10) & 31, b & 1023]
    return (b >> 15 ? -1 : 1) * (e === 0 ? m * 2 ** -24 : 2 ** (e - 15) * (1 + m / 1024))
  })
  return [tensor(bits, shape, dtype), array(shape, wide)]
}

export const transpose = (a: NdArray): NdArray => permute(a, [1, 0])
/** ‖a − b‖ / ‖b‖, where an empty or zero reference counts as 1. */
export function error(a: Tensor, b: NdArray): number {
  if (`${a.shape}` !== `${b.shape}`) return Infinity
  const data = a.dataBlocking() as Float32Array
  return norm(b.data.map((x, i) => data[i]! - x)) / (norm(b.data) || 1)
}

const dtypes: DType[] = ['float32', 'bfloat16', 'float16']
const sizes = [0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 130, 257]

function run(): Report {
  const errors: Record<string, number> = {}
  const hashes = [1, 2].map(() => createHash('sha256'))
  const check = (name: string, results: Tensor[], reference: NdArray): void => {
    results.forEach((r, i) => hashes[i]!.update(new Uint8Array(r.dataBlocking().buffer)))
    const e = error(results[0]!, reference)
    errors[name] = !(e <= (errors[name] ?? 0)) ? e : errors[name]!
  }
  /** The same on one thread and on two. */
  /** With one thread and with two; what is queued ends before the number changes. */
  const twice = <T>(f: () => T): T[] =>
    [1, 2].map((n) => {
      threads(n)
      const made = f()
      syncBlocking()
      return made
    })

  const one = (m: number, n: number, k: number, r: number, dtype: DType): void =>
    scope(() => {
      const [w, wd] = weight([n, k], dtype)
      const [xd, bd, dyd, ad, ld] = [normal([m, k]), normal([n]), normal([m, n]), normal([r, k]), normal([n, r])]
      const dense = twice(() => {
        const [x, b] = [upload(xd).requireGrad(), upload(bd).requireGrad()]
        const weight = dtype === 'float32' ? w.detach().requireGrad() : w
        const y = linear(x, weight, b)
        backward(y, upload(dyd))
        return { y, dx: x.grad!, db: b.grad!, dw: weight.grad }
      })
      check(
        'linear y',
        dense.map((t) => t.y),
        oracle.linear(xd, wd, bd),
      )
      check(
        'linear dx',
        dense.map((t) => t.dx),
        oracle.linear(dyd, transpose(wd)),
      )
      if (dtype === 'float32')
        check(
          'linear dw',
          dense.map((t) => t.dw!),
          oracle.linear(transpose(dyd), transpose(xd)),
        )
      check(
        'linear dbias',
        dense.map((t) => t.db),
        array([n], oracle.linear(array([1, m], new Float64Array(m).fill(1)), transpose(dyd)).data),
      )

      const s = 0.75
      const low = twice(() => {
        const [x, a, b] = [upload(xd).requireGrad(), upload(ad).requireGrad(), upload(ld).requireGrad()]
        const y = lora(x, w, undefined, a, b, s)
        backward(y, upload(dyd))
        return { y, dx: x.grad!, da: a.grad!, db: b.grad! }
      })
      const g = scale(oracle.linear(dyd, transpose(ld)), s)
      const sum = (p: NdArray, q: NdArray): NdArray =>
        array(
          p.shape,
          p.data.map((v, i) => v + q.data[i]!),
        )
      check(
        'lora y',
        low.map((t) => t.y),
        sum(oracle.linear(xd, wd), scale(oracle.linear(oracle.linear(xd, ad), ld), s)),
      )
      check(
        'lora dx',
        low.map((t) => t.dx),
        sum(oracle.linear(dyd, transpose(wd)), oracle.linear(g, transpose(ad))),
      )
      check(
        'lora da',
        low.map((t) => t.da),
        oracle.linear(transpose(g), transpose(xd)),
      )
      check(
        'lora db',
        low.map((t) => t.db),
        scale(oracle.linear(transpose(dyd), transpose(oracle.linear(xd, ad))), s),
      )
    })

  const any = (): number => sizes[rng.integer(0, sizes.length)]!
  // k = 0 has no rows for the oracle to count, and is tested by itself.
  for (let i = 0; i < 45; i++) one(any(), any() || 3, any() || 5, [1, 4, 16, 17][i % 4]!, dtypes[i % 3]!)
  for (const dtype of dtypes)
    for (const [m, n, k] of [
      [300, 65, 385],
      [5, 768, 130],
      [33, 257, 770],
    ] as const)
      one(m, n, k, 16, dtype)
  return { errors, digests: hashes.map((h) => h.digest('hex')) }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(JSON.stringify(run()))
