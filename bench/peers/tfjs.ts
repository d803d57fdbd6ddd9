/**
 * TensorFlow.js on WebAssembly as an opponent: `tfjs.ts THREADS`. Its build for Node.js computes with one thread,
 * however many are asked for.
 */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { invalid } from '../../lib/errors.js'
import { readAsFloat32, readHeader } from '../../lib/files/safetensors.js'
import { serve } from './serve.js'
import type { PeerCase } from './client.js'

/** What is used of it: a peer's dependency, not there for the compiler. */
interface T {
  shape: number[]
  reshape(shape: number[]): T
  transpose(perm?: number[]): T
  add(other: T | number): T
  sub(other: T): T
  mul(other: T | number): T
  square(): T
  rsqrt(): T
  softmax(): T
  mean(axis: number, keepDims: boolean): T
  dataSync(): Float32Array
  dispose(): void
}

interface Library {
  tensor(data: Float32Array, shape: number[]): T
  matMul(a: T, b: T): T
  tidy<R>(f: () => R): R
}

type Tensors = Record<string, T>

/** q [rows,n,D], k and v [rows,m,D] to [rows,n,D] */
function attention(tf: Library, q: T, k: T, v: T, heads: number): T {
  const [rows, n, d] = q.shape as [number, number, number]
  const split = (x: T, perm: number[]): T => x.reshape([rows, x.shape[1]!, heads, d / heads]).transpose(perm)
  const scores = tf.matMul(split(q, [0, 2, 1, 3]).mul(1 / Math.sqrt(d / heads)), split(k, [0, 2, 3, 1]))
  return tf
    .matMul(scores.softmax(), split(v, [0, 2, 1, 3]))
    .transpose([0, 2, 1, 3])
    .reshape([rows, n, d])
}

/** [B,T,L,D] to [B·L,T,D] */
function swap(x: T): T {
  const [B, T, L, D] = x.shape as [number, number, number, number]
  return x.transpose([0, 2, 1, 3]).reshape([B * L, T, D])
}

/** [B·L,T,D] to [B,T,L,D] */
function unswap(x: T, B: number): T {
  const [rows, T, D] = x.shape as [number, number, number]
  return x.reshape([B, rows / B, T, D]).transpose([0, 2, 1, 3])
}

function core(tf: Library, { q, k, v }: Tensors, { form, sizes: { B, T, L, D, heads } }: PeerCase): Tensors {
  const over = (shape: number[]): T =>
    attention(tf, q!.reshape(shape), k!.reshape(shape), v!.reshape(shape), heads).reshape([B, T, L, D])
  if (form === 'joint') return { joint: over([B, T * L, D]) }
  return { space: over([B * T, L, D]), time: unswap(attention(tf, swap(q!), swap(k!), swap(v!), heads), B) }
}

function block(tf: Library, t: Tensors, { form, sizes: { B, T, L, D, heads, eps = 1e-12 } }: PeerCase): Tensors {
  const one = (x: T): T => {
    const flat = x.reshape([-1, D]) // one product of matrices is many times faster than a batch of them
    const linear = (x: T, name: string): T => tf.matMul(x, t[`${name}.weight`]!).add(t[`${name}.bias`]!)
    const part = (name: string): T => linear(flat, name).reshape(x.shape)
    const mixed = attention(tf, part('query'), part('key'), part('value'), heads)
    const sum = flat.add(linear(mixed.reshape([-1, D]), 'dense'))
    const centred = sum.sub(sum.mean(-1, true))
    return centred
      .mul(centred.square().mean(-1, true).add(eps).rsqrt())
      .mul(t['norm.weight']!)
      .add(t['norm.bias']!)
      .reshape(x.shape)
  }
  const x = t.x!
  if (form === 'joint') return { y: one(x.reshape([B, T * L, D])).reshape([B, T, L, D]) }
  return { y: unswap(one(swap(one(x.reshape([B * T, L, D])).reshape([B, T, L, D]))), B) }
}

function linear(tf: Library, { x, weight }: Tensors): Tensors {
  return { y: tf.matMul(x!, weight!) }
}

const KINDS: Partial<Record<PeerCase['kind'], (tf: Library, tensors: Tensors, c: PeerCase) => Tensors>> = {
  core,
  block,
  linear,
}

await serve(async () => {
  const require = createRequire(import.meta.url)
  const tf = require('@tensorflow/tfjs-core')
  const wasm = require('@tensorflow/tfjs-backend-wasm')
  wasm.setWasmPaths(join(dirname(require.resolve('@tensorflow/tfjs-backend-wasm')), '/'))
  require('@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops')
  if (!(await tf.setBackend('wasm'))) throw new Error('its WebAssembly does not start')
  const simd = await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT')
  return {
    version: tf.version_core,
    details: { threads: `${wasm.getThreadsCount()}`, SIMD: simd ? 'yes' : 'no' },
    async prepare(c) {
      const compute = KINDS[c.kind]
      if (!compute) throw invalid('kind', Object.keys(KINDS).join(', '), c.kind)
      if (c.pass !== 'forward') throw invalid('pass', 'forward', c.pass)
      if (c.dtype !== 'float32') throw invalid('dtype', 'float32', c.dtype, 'it has no other')
      if (c.sizes.rank) throw invalid('rank', 'none', c.sizes.rank)
      const header = await readHeader(c.tensors)
      const tensors: Tensors = {}
      for (const [name, { shape }] of header.entries) {
        const data = await readAsFloat32(header, name)
        // Its products are quick where neither side is transposed.
        tensors[name] = tf.tidy(() =>
          name.endsWith('weight') && shape.length === 2 ? tf.tensor(data, shape).transpose() : tf.tensor(data, shape),
        )
      }
      let results: Tensors = {}
      const clear = (): void => Object.values(results).forEach((t) => t.dispose())
      return {
        run: () => {
          clear()
          results = tf.tidy(() => compute(tf, tensors, c))
        },
        outputs: () =>
          Object.fromEntries(
            Object.entries(results).map(([name, t]) => [name, { shape: t.shape, data: t.dataSync() }]),
          ),
        forget: () => {
          clear()
          Object.values(tensors).forEach((t) => t.dispose())
        },
      }
    },
  }
})
