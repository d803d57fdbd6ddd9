/**
 * NaN in, NaN out, for every operator of the models, on a device. A NaN that an operator turned into a finite number
 * would change answers without any sign of it.
 */
import { strict as assert } from 'node:assert'
import { attention, type AttentionOptions } from '../../lib/ops/attention.js'
import { cast } from '../../lib/ops/copy.js'
import { crossEntropy } from '../../lib/ops/cross-entropy.js'
import { add, gate, gelu, geluTanh, multiply, relu, scale } from '../../lib/ops/elementwise.js'
import { linear, linearGelu } from '../../lib/ops/linear.js'
import { layerNorm, layerNormJoin, layerNormSplit } from '../../lib/ops/layernorm.js'
import { Random } from '../../lib/ops/random.js'
import { mean } from '../../lib/ops/reduce.js'
import { rmsNorm } from '../../lib/ops/rmsnorm.js'
import { rope } from '../../lib/ops/rope.js'
import { router } from '../../lib/ops/router.js'
import { siluMul } from '../../lib/ops/silu-mul.js'
import type { Device } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'

type Dtype = 'float32' | 'bfloat16'
const values = async (t: Tensor): Promise<Float32Array> => (await cast(t, 'float32').data()) as Float32Array

/** Rows [3,n] of which the middle one holds a NaN, through everything that works on rows. */
export async function rowsKeepNaN(device: Device, dtype: Dtype): Promise<void> {
  for (const n of [1, 7, 33, 258]) {
    await scope(async () => {
      const random = new Random(n, device)
      const draw = (shape: number[], to: Dtype = dtype): Tensor => cast(random.normal(shape), to)
      const spoil = async (shape: number[], at: number): Promise<Tensor> => {
        const data = (await draw(shape, 'float32').data()) as Float32Array
        data[at] = NaN
        return cast(tensor(data, shape).to(device), dtype)
      }
      const x = await spoil([3, n], n + (n >> 1))
      const [w, b, y] = [draw([5, n]), draw([5], 'float32'), draw([3, n])]
      const norm = [draw([n], 'float32'), draw([n], 'float32')] as const
      const column = cast(tensor(Float32Array.of(NaN), [1]).to(device), 'float32')
      const labels = tensor(Int32Array.of(0, 0, 0), [3], 'int32').to(device)
      const weights = {
        w1: draw([8, n], 'float32'),
        b1: draw([8], 'float32'),
        w2: draw([4, 8], 'float32'),
        b2: draw([4], 'float32'),
      }
      const element = 1
      // How many numbers of the result are NaN: the element, its row, or all.
      const cases: Record<string, [Tensor, number]> = {
        relu: [relu(x), element],
        gelu: [gelu(x), element],
        geluTanh: [geluTanh(x), element],
        scale: [scale(x, 2), element],
        add: [add(x, y), element],
        multiply: [multiply(y, x), element],
        'siluMul, gate': [siluMul(x, y), element],
        'siluMul, up': [siluMul(y, x), element],
        'gate, its scalar': [gate(y, y, column), 3 * n],
        layerNorm: [layerNorm(x, ...norm, 1e-6), n],
        rmsNorm: [rmsNorm(x, norm[0], 1e-6), n],
        mean: [mean(x, 0), element],
        'linear, x': [linear(x, w, undefined), 5],
        'linear, weight': [linear(y, await spoil([5, n], 2 * n), undefined), 3],
        linearGelu: [linearGelu(y, await spoil([5, n], 2 * n), b), 3],
        crossEntropy: [crossEntropy(x, labels), 1],
        router: [router(await spoil([2, 5, n], 6 * n), weights, 1), 4],
      }
      const [one, two] = [
        { x: y, weight: norm[0], bias: norm[1], eps: 1e-6 },
        { x, weight: norm[0], bias: norm[1], eps: 1e-6 },
      ]
      const halves = await spoil([3, 2 * n], 2 * n)
      cases['layerNorm, side by side'] = [layerNormJoin([one, two]), n]
      for (const [i, t] of layerNormSplit(x, ...norm, 1e-6, 1).entries()) cases[`layerNorm, part ${i}`] = [t, i * n]
      cases['siluMul, columns'] = [
        siluMul({ of: halves, start: 0, width: n }, { of: halves, start: n, width: n }),
        element,
      ]
      // A gradient that x has from elsewhere, and that backward passes add to.
      for (const [name, f] of Object.entries({
        layerNorm: (t: Tensor) => layerNorm(t, ...norm, 1e-6),
        rmsNorm: (t: Tensor) => rmsNorm(t, norm[0], 1e-6),
        linear: (t: Tensor) => linear(t, draw([n, n])),
      })) {
        const leaf = random.normal([3, n]).requireGrad()
        const inner = cast(scale(leaf, 1), dtype)
        backward(add(f(inner), inner), x)
        // Of a row's gradient all is NaN, since what comes back through f is.
        cases[`${name}, gradient`] = [leaf.grad!, n]
      }
      if (n % 2 === 0)
        cases['rope, heads that are copied'] = [
          rope(await spoil([1, 3, 2, n], n), tensor(Int32Array.of(0, 1, 2), [1, 3], 'int32').to(device), 1e4, 1),
          element,
        ]
      if (n % 2 === 0)
        cases.rope = [
          rope(await spoil([1, 3, 1, n], n), tensor(Int32Array.of(0, 1, 2), [1, 3], 'int32').to(device), 1e4),
          2,
        ]
      for (const [name, [t, wanted]] of Object.entries(cases)) {
        assert.equal((await values(t)).filter(Number.isNaN).length, wanted, `${name}, n = ${n}, ${dtype}, ${device}`)
      }
    })
  }
}

/** Attention where every key is spoiled, as a damaged weight of the keys leaves them, and where one is. */
export async function attentionKeepsNaN(device: Device, dtype: Dtype): Promise<void> {
  for (const options of [
    { causal: true, mode: 'off' },
    { mode: 'off' },
    { mode: 'attention' },
    { mode: 'score' },
  ] as const) {
    for (const [n, d] of [
      [1, 4],
      [9, 10],
      [64, 64],
      [200, 32],
    ] as const) {
      await scope(async () => {
        const random = new Random(n, device)
        const draw = (): Tensor => cast(random.normal([1, n, d]), dtype)
        const routing =
          options.mode === 'off'
            ? {}
            : {
                masks: tensor(new Uint8Array(n * n).fill(3), [n, n], 'uint8').to(device),
                alpha: tensor(Float32Array.of(0.5, 0.5), [1, 2]).to(device),
              }
        for (const bad of ['all', 'first'] as const) {
          const data = (await random.normal([1, n, d]).data()) as Float32Array
          for (let i = 0; i < (bad === 'all' ? n : 1); i++) data[i * d] = NaN
          const k = cast(tensor(data, [1, n, d]).to(device), dtype)
          const out = await values(
            attention(draw(), k, draw(), { heads: 1, ...options, ...routing } as AttentionOptions),
          )
          assert.equal(
            out.filter(Number.isNaN).length,
            n * d,
            `${bad} of ${n} keys, ${JSON.stringify(options)}, ${dtype}, ${device}`,
          )
        }
      })
    }
  }
}
