// What attention looks at, against the float64 oracle: over time and over space, in every mode, with more elements than a
// head is wide, with LoRA and padding.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Attend, attentionWeights, type AttentionWeights } from '../../lib/nn/attention.js'
import { project } from '../../lib/nn/layers.js'
import { Random } from '../../lib/ops/random.js'
import { router } from '../../lib/ops/router.js'
import { scope } from '../../lib/tensor/scope.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { array, type NdArray } from '../oracle/array.js'
import { attentionWeights as oracle } from '../oracle/attention.js'

const [B, T, L, D, HEADS] = [2, 7, 3, 8, 2]
const random = new Random(4)
const normal = (...shape: number[]): Tensor => random.normal(shape, 0, 0.7)
const layer = () => ({ weight: normal(D, D), bias: normal(D) })
const weights: AttentionWeights = {
  query: layer(),
  key: layer(),
  value: layer(),
  dense: layer(),
  norm: { weight: normal(D), bias: normal(D), eps: 1e-12 },
  heads: HEADS,
}
const lora = () => ({ A: normal(2, D), B: normal(D, 2), scaling: 0.5 })

/** [b0,b1,n,h·d] with the attended dimension third as [b0·b1, h, n, d]. */
async function byHead(t: Tensor, over: number): Promise<NdArray> {
  const data = (await t.data()) as Float32Array
  const [outer, n] = [over === 2 ? [B, T] : [B, L], over === 2 ? L : T]
  const d = D / HEADS
  const out = array([outer[0]! * outer[1]!, HEADS, n, d])
  for (let b = 0; b < B; b++)
    for (let r = 0; r < outer[1]!; r++)
      for (let i = 0; i < n; i++)
        for (let h = 0; h < HEADS; h++)
          for (let c = 0; c < d; c++) {
            const [time, query] = over === 2 ? [r, i] : [i, r]
            out.data[(((b * outer[1]! + r) * HEADS + h) * n + i) * d + c] =
              data[((b * T + time!) * L + query!) * D + h * d + c]!
          }
  return out
}

for (const over of [1, 2])
  for (const mode of ['off', 'score', 'attention'] as const)
    test(`attention over dimension ${over}, mode ${mode}`, async () => {
      const n = over === 2 ? L : T
      const x = normal(B, T, L, D)
      const own = { q: lora(), v: lora() }
      const bits = Uint8Array.from(
        { length: n * n },
        (_, k) => 1 | (Math.abs(Math.floor(k / n) - (k % n)) <= 1 ? 2 : 0),
      )
      const net = { w1: normal(4, D), b1: normal(4), w2: normal(2, 4), b2: normal(2) }
      const o: Attend = {
        over,
        lora: own,
        ...(mode !== 'off' && { routing: { mode, masks: tensor(bits, [n, n], 'uint8'), router: net } }),
      }
      const rows = over === 2 ? B * T : B * L
      const expected = oracle(
        await byHead(project(weights.query, x, own.q), over),
        await byHead(project(weights.key, x), over),
        mode === 'off'
          ? {}
          : {
              mode,
              masks: { shape: [n, n], data: Float64Array.from(bits) },
              alpha: { shape: [rows, 2], data: Float64Array.from((await router(x, net, over).data()) as Float32Array) },
            },
      )
      const seen = scope(() => attentionWeights(weights, x, o).data())
      const got = (await seen) as Float32Array
      assert.is(got.length, B * T * L * n)
      let worst = 0
      for (let b = 0; b < B; b++)
        for (let t = 0; t < T; t++)
          for (let l = 0; l < L; l++) {
            const [row, i] = over === 2 ? [b * T + t, l] : [b * L + l, t]
            let sum = 0
            for (let j = 0; j < n; j++) {
              let mean = 0
              for (let h = 0; h < HEADS; h++) mean += expected.data[((row * HEADS + h) * n + i) * n + j]! / HEADS
              const value = got[((b * T + t) * L + l) * n + j]!
              worst = Math.max(worst, Math.abs(value - mean))
              sum += value
            }
            assert.ok(Math.abs(sum - 1) < 1e-5, `a row sums to ${sum}`)
          }
      assert.ok(worst < 2e-6, `off by ${worst}`)
    })

test.run()
