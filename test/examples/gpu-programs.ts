/** Checks of the programs in examples/gpu on one device, against float64 written out here and central differences. */
import type { Test } from 'uvu'
import * as assert from 'uvu/assert'
import { byCopy, byStride } from '../../examples/gpu/channel-swap.js'
import { factorized } from '../../examples/gpu/factorized-attention.js'
import { fit, type Batch } from '../../examples/gpu/graph-step.js'
import { forwardBackward } from '../../examples/gpu/lora.js'
import { backward, scope, tensor, type Device, type Tensor } from '../../lib/public/tensor.js'
import { directional } from '../oracle/differences.js'
import { random } from '../oracle/random.js'
import { bytes, settled } from '../support/memory.js'

type Numbers = ArrayLike<number>

/** Numbers that float32 holds exactly, so that both sides compute on the same. */
function normal(seed: number, n: number, std = 1): Float64Array {
  const rng = random(seed)
  return Float64Array.from({ length: n }, () => Math.fround(std * rng.normal()))
}

/** ‖a − b‖ / ‖b‖ */
function distance(a: Numbers, b: Numbers): number {
  assert.is(a.length, b.length)
  const norm = (x: Numbers): number => Math.hypot(...Array.from(x))
  return norm(Array.from(a, (x, i) => x - b[i]!)) / norm(b)
}
const dot = (a: Numbers, b: Numbers): number => Array.from(a, (x, i) => x * b[i]!).reduce((s, x) => s + x, 0)

/** x [n,K] times the transpose of w [N,K]. */
function product(x: Numbers, w: Numbers, K: number): Float64Array {
  const [n, N] = [x.length / K, w.length / K]
  const y = new Float64Array(n * N)
  for (let i = 0; i < n; i++)
    for (let j = 0; j < N; j++) for (let k = 0; k < K; k++) y[i * N + j]! += x[i * K + k]! * w[j * K + k]!
  return y
}

/** Rows [n,D] that attend to each other, head by head. */
function attended(q: Numbers[], k: Numbers[], v: Numbers[], heads: number): Float64Array[] {
  const D = q[0]!.length
  const d = D / heads
  return q.map((query) => {
    const y = new Float64Array(D)
    for (let h = 0; h < heads; h++) {
      const scores = k.map((key) => {
        let s = 0
        for (let c = h * d; c < (h + 1) * d; c++) s += query[c]! * key[c]!
        return s / Math.sqrt(d)
      })
      const top = Math.max(...scores)
      const weights = scores.map((s) => Math.exp(s - top))
      const sum = weights.reduce((a, b) => a + b, 0)
      weights.forEach((weight, j) => {
        for (let c = h * d; c < (h + 1) * d; c++) y[c]! += (weight / sum) * v[j]![c]!
      })
    }
    return y
  })
}

/** Attention over the frames (`time`) or the queries of x [T,L,D] after projection by w. */
function attention(
  x: Float64Array,
  w: Float64Array[],
  [T, L, D]: number[],
  heads: number,
  time: boolean,
): Float64Array {
  const [q, k, v] = w.map((m) => product(x, m, D!)) as [Float64Array, Float64Array, Float64Array]
  const out = new Float64Array(x.length)
  const groups = Array.from({ length: time ? L! : T! }, (_, g) =>
    Array.from({ length: time ? T! : L! }, (_, i) => (time ? i * L! + g : g * L! + i) * D!),
  )
  for (const starts of groups) {
    const rows = (m: Float64Array): Float64Array[] => starts.map((at) => m.subarray(at, at + D!))
    attended(rows(q), rows(k), rows(v), heads).forEach((y, i) => out.set(y, starts[i]))
  }
  return out
}

const numbers = async (t: Tensor): Promise<Float32Array> => (await t.data()) as Float32Array

/** Registers the checks on a suite. */
export function checkPrograms(test: Test, device: Device): void {
  const put = (data: Numbers, shape: number[]): Tensor => tensor(Float32Array.from(data), shape, 'float32', device)

  test(`${device}: factorized attention, forward against float64 and backward against central differences`, async () => {
    const [B, T, L, D, heads] = [2, 3, 5, 12, 3]
    const x = normal(1, B * T * L * D)
    const w = [2, 3, 4].map((seed) => normal(seed, D * D, D ** -0.5))
    const dy = normal(5, x.length)
    const reference = (x: Float64Array): Float64Array => {
      const y = new Float64Array(x.length)
      for (let b = 0, n = T * L * D; b < B; b++) {
        const space = attention(x.slice(b * n, (b + 1) * n), w, [T, L, D], heads, false)
        y.set(attention(space, w, [T, L, D], heads, true), b * n)
      }
      return y
    }
    await scope(async () => {
      const given = put(x, [B, T, L, D]).requireGrad('x')
      const [q, k, v] = w.map((m) => put(m, [D, D])) as [Tensor, Tensor, Tensor]
      const y = factorized(given, { q, k, v }, heads)
      backward(y, put(dy, y.shape as number[]))
      assert.ok(distance(await numbers(y), reference(x)) < 1e-5)
      const dx = await numbers(given.grad!)
      given.grad!.dispose()
      for (const seed of [6, 7, 8]) {
        const direction = normal(seed, x.length)
        const slope = directional((at) => dot(reference(at), dy), x, direction)
        assert.ok(Math.abs(dot(dx, direction) - slope) < 1e-4 * Math.abs(slope), `slope ${slope}`)
      }
    })
  })

  test(`${device}: the channel swap by stride and by copy gives the same bits, and float64's numbers`, async () => {
    const [T, L, D, heads] = [4, 6, 8, 2]
    const x = normal(9, T * L * D)
    await scope(async () => {
      const given = put(x, [1, T, L, D])
      const [strided, copied] = [await numbers(byStride(given, heads)), await numbers(byCopy(given, heads))]
      assert.equal([...strided], [...copied])
      const identity = Float64Array.from({ length: D * D }, (_, i) => Number(i % (D + 1) === 0))
      assert.ok(distance(strided, attention(x, [identity, identity, identity], [T, L, D], heads, true)) < 1e-5)
    })
  })

  test(`${device}: LoRA against the merged weight in float64, its gradients against central differences`, async () => {
    const [n, K, N, r, scaling] = [7, 10, 6, 3, 0.5]
    const [x, W, bias, dy] = [normal(1, n * K), normal(2, N * K), normal(3, N), normal(4, n * N)]
    const [A, B] = [normal(5, r * K), normal(6, N * r)]
    const reference = (A: Float64Array, B: Float64Array): Float64Array => {
      const merged = W.slice()
      for (let i = 0; i < N; i++)
        for (let k = 0; k < K; k++)
          for (let c = 0; c < r; c++) merged[i * K + k]! += scaling * B[i * r + c]! * A[c * K + k]!
      return product(x, merged, K).map((y, i) => y + bias[i % N]!)
    }
    await scope(async () => {
      const layer = {
        W: put(W, [N, K]),
        bias: put(bias, [N]),
        A: put(A, [r, K]).requireGrad('A'),
        B: put(B, [N, r]).requireGrad('B'),
        scaling,
      }
      const { y, dA, dB } = forwardBackward(put(x, [n, K]), layer, put(dy, [n, N]))
      assert.ok(distance(await numbers(y), reference(A, B)) < 1e-5)
      for (const [seed, gradient, f, at] of [
        [7, dA, (a: Float64Array) => dot(reference(a, B), dy), A],
        [8, dB, (b: Float64Array) => dot(reference(A, b), dy), B],
      ] as const) {
        const direction = normal(seed, at.length)
        const slope = directional(f, at, direction)
        assert.ok(Math.abs(dot(await numbers(gradient), direction) - slope) < 1e-4 * Math.abs(slope), `slope ${slope}`)
      }
      for (const t of [dA, dB]) t.dispose()
    })
  })

  test(`${device}: the training step learns as AdamW in float64 does, and leaves nothing behind`, async () => {
    const [n, D, classes, lr] = [6, 5, 3, 0.1]
    const start = normal(1, classes * D)
    const batches: Batch[] = Array.from({ length: 6 }, (_, s) => ({
      x: Float32Array.from(normal(10 + s, n * D)),
      labels: Int32Array.from({ length: n }, (_, i) => (i + s) % classes),
    }))
    // Softmax regression and AdamW, written out.
    const w = start.slice()
    const [m, v] = [new Float64Array(w.length), new Float64Array(w.length)]
    const losses = batches.map(({ x, labels }, s) => {
      const logits = product(x, w, D)
      const gradient = new Float64Array(w.length)
      let loss = 0
      labels.forEach((label, i) => {
        const row = logits.slice(i * classes, (i + 1) * classes)
        const sum = row.reduce((total, z) => total + Math.exp(z), 0)
        loss += (Math.log(sum) - row[label]!) / n
        row.forEach((z, c) => {
          const slope = (Math.exp(z) / sum - Number(c === label)) / n
          for (let k = 0; k < D; k++) gradient[c * D + k]! += slope * x[i * D + k]!
        })
      })
      w.forEach((value, i) => {
        m[i] = 0.9 * m[i]! + 0.1 * gradient[i]!
        v[i] = 0.95 * v[i]! + 0.05 * gradient[i]! ** 2
        const update = m[i]! / (1 - 0.9 ** (s + 1)) / (Math.sqrt(v[i]! / (1 - 0.95 ** (s + 1))) + 1e-8)
        w[i] = value * (1 - lr * 0.05) - lr * update
      })
      return loss
    })
    const before = await settled()
    const learned = put(start, [classes, D])
    assert.ok(distance(await fit(learned, n, batches, device, lr), losses) < 1e-4)
    assert.ok(distance(await numbers(learned), w) < 1e-4)
    learned.dispose()
    assert.is(await bytes(), before)
  })
}
