// Checks of the oracle that need no golden file: closed forms, small cases by hand, and the model against itself.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type NdArray,
  array,
  clone,
  concat,
  dot,
  map,
  mean,
  permute,
  relativeError,
  reshape,
  size,
  slice,
} from './array.js'
import { directional, gradient } from './differences.js'
import {
  type Adapter,
  type Batch,
  type Json,
  adapterConfig,
  features,
  forward,
  greedyIds,
  model,
  modelConfig,
  trainedShapes,
  visualTokens,
} from './model.js'
import * as ops from './ops.js'
import { random } from './random.js'
import { readCheckpoint } from './safetensors.js'
import { type TinyKind, tinyCheckpoint, tinyInputs, tinyParameters, writeTiny } from './tiny.js'

const draw = (seed: number, ...shape: number[]): NdArray => {
  const rng = random(seed)
  return map(array(shape), () => rng.normal())
}
const close = (actual: number, expected: number, limit: number, label = ''): void =>
  assert.ok(Math.abs(actual - expected) <= limit, `${label} ${actual} against ${expected}`)
const bits = (a: NdArray, row: number): number[] => [...slice(a, 0, row, row + 1).data]

test('erf is the known erf to 1e-15, erfc keeps its digits where it is small', () => {
  const known: [number, number][] = [
    [0, 0],
    [0.1, 0.1124629160182848922],
    [0.5, 0.5204998778130465377],
    [1, 0.8427007929497148693],
    [1.5, 0.9661051464753107271],
    [2, 0.9953222650189527342],
    [2.5, 0.9995930479825550411],
    [3, 0.9999779095030014146],
    [6, 1],
  ]
  for (const [x, y] of known) {
    close(ops.erf(x), y, 1e-15, `erf ${x}`)
    close(ops.erf(-x), -y, 1e-15, `erf ${-x}`)
  }
  close(ops.erfc(3) / 2.209049699858544137e-5, 1, 1e-14)
  close(ops.erfc(6) / 2.151973671249891312e-17, 1, 1e-13)
  assert.is(ops.erf(1e-9), (2 / Math.sqrt(Math.PI)) * 1e-9)
})

test('masks per layer: the 12 of the full model', () => {
  assert.equal(
    Array.from({ length: 12 }, (_, m) => ops.masksOfLayer(m, 12, 4)),
    [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4],
  )
  assert.equal(
    Array.from({ length: 6 }, (_, m) => ops.masksOfLayer(m, 6, 4)),
    [1, 1, 2, 3, 3, 4],
  )
})

test('window masks: distance within a modality, every query-text pair', () => {
  assert.equal(bits(ops.windowTemporal(5, [2, 1, 0]), 0), [15, 7, 3, 1, 1])
  assert.equal(bits(ops.windowTemporal(5, [2, 1, 0]), 2), [3, 7, 15, 7, 3])
  assert.equal(bits(ops.windowTemporal(1, [2, 1, 0]), 0), [15])
  // three queries, then four text tokens whose distance is that of their own positions
  const spatial = ops.windowSpatial(3, 4, [2, 1, 0])
  assert.equal(bits(spatial, 0), [15, 7, 3, 15, 15, 15, 15])
  assert.equal(bits(spatial, 6), [15, 15, 15, 1, 3, 7, 15])
  assert.equal(bits(ops.windowTemporal(4, [2, 1, 0], 2), 0), [3, 3, 3, 1])
  assert.throws(() => ops.windowTemporal(4, [2], 3), /mask 2/)
})

test('modality masks: same, other and oneself, same with text within 8', () => {
  const set = ops.modalitySpatial(2, 10)
  assert.equal(bits(set, 0), [15, 11, ...Array<number>(10).fill(5)])
  assert.equal(bits(set, 2), [5, 5, 15, ...Array<number>(8).fill(11), 3])
  assert.equal(bits(ops.modalitySpatial(2, 0), 1), [11, 15])
})

test('attention weights of every row sum to 1, padded and future keys weigh exactly 0', () => {
  const [q, k] = [draw(1, 3, 2, 5, 4), draw(2, 3, 2, 6, 4)]
  const keyMask = array([3, 6], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1])
  const alpha = ops.softmax(draw(3, 3, 3))
  const masks = slice(ops.windowTemporal(6, [2, 0]), 0, 0, 5)
  for (const mode of ['off', 'score', 'attention'] as const)
    for (const causal of [false, true]) {
      const p = ops.attentionWeights(q, k, { mode, alpha, masks, keyMask, causal })
      for (let at = 0; at < p.data.length; at += 6) {
        const [row, i] = [Math.floor(at / 60), (at / 6) % 5]
        const weights = p.data.subarray(at, at + 6)
        close(
          weights.reduce((a, b) => a + b),
          1,
          1e-14,
          `${mode} causal ${causal}`,
        )
        const seen = [...weights.keys()].filter((j) => keyMask.data[row * 6 + j] === 1 && !(causal && j > i + 1))
        if (seen.length > 0) weights.forEach((w, j) => assert.ok(seen.includes(j) || w === 0))
        else weights.forEach((w) => close(w, 1 / 6, 1e-15, 'no key at all'))
      }
    }
})

test('attention by hand: two keys', () => {
  const q = array([1, 1, 1, 1], [1])
  const [k, v] = [array([1, 1, 2, 1], [0, Math.log(3)]), array([1, 1, 2, 1], [0, 1])]
  close(ops.attention(q, k, v).data[0]!, 0.75, 1e-15)
  const routed = { masks: array([1, 2], [3, 1]), alpha: array([1, 2], [0.5, 0.5]) }
  close(ops.attention(q, k, v, { mode: 'score', ...routed }).data[0]!, Math.sqrt(3) / (1 + Math.sqrt(3)), 1e-15)
  close(ops.attention(q, k, v, { mode: 'attention', ...routed }).data[0]!, 0.375, 1e-15)
  // M_1 keeps the first key alone; where that is padding, M_0 stands in for M_1
  close(ops.attention(q, k, v, { mode: 'attention', ...routed, keyMask: array([1, 2], [0, 1]) }).data[0]!, 1, 1e-15)
})

test('attention backward as docs/model.md writes it equals central differences', () => {
  const [n, d, p] = [4, 3, 3]
  const [q, k, v, dout] = [1, 2, 3, 4].map((s) => draw(s, 1, 1, n, d)) as [NdArray, NdArray, NdArray, NdArray]
  const alpha = ops.softmax(draw(5, 1, p))
  const masks = ops.windowTemporal(n, [1, 0])
  const bit = (j: number, at: number): number => (masks.data[at]! >> j) & 1
  const s = map(ops.linear(reshape(q, [n, d]), reshape(k, [n, d])), (x) => x / Math.sqrt(d))
  const dp = ops.linear(reshape(dout, [n, d]), reshape(v, [n, d]))
  for (const mode of ['score', 'attention'] as const) {
    const ds = array([n, n])
    const dalpha = new Float64Array(p)
    for (let j = 0; j < (mode === 'score' ? 1 : p); j++) {
      const only = array([1, p])
      only.data[j] = 1
      const pj = ops.attentionWeights(q, k, { mode, masks, alpha: mode === 'score' ? alpha : only }).data
      for (let i = 0; i < n; i++) {
        let rowsum = 0
        for (let c = 0; c < n; c++) rowsum += pj[i * n + c]! * dp.data[i * n + c]!
        for (let at = i * n; at < (i + 1) * n; at++) {
          const inner = pj[at]! * (dp.data[at]! - rowsum)
          if (mode === 'attention') ds.data[at]! += alpha.data[j]! * inner
          else
            for (let m = 0; m < p; m++) {
              ds.data[at]! += inner * alpha.data[m]! * bit(m, at)
              dalpha[m]! += inner * s.data[at]! * bit(m, at)
            }
        }
        if (mode === 'attention') dalpha[j]! += rowsum
      }
    }
    const dq = map(ops.linear(ds, permute(reshape(k, [n, d]), [1, 0])), (x) => x / Math.sqrt(d))
    const f = (q: NdArray, alpha: NdArray): number =>
      dot(ops.attention(q, k, v, { mode, masks, alpha }).data, dout.data)
    assert.ok(
      relativeError(
        gradient((x) => f(array(q.shape, x), alpha), q.data),
        dq.data,
      ) < 1e-9,
      `${mode} dq`,
    )
    assert.ok(
      relativeError(
        gradient((x) => f(q, array(alpha.shape, x)), alpha.data),
        dalpha,
      ) < 1e-9,
      `${mode} dalpha`,
    )
  }
})

test('differences: a polynomial, by coordinate and along a direction', () => {
  const f = (x: Float64Array): number => x[0]! ** 2 * x[1]! + 3 * x[1]!
  const x = Float64Array.of(2, 5)
  assert.ok(relativeError(gradient(f, x), [20, 7]) < 1e-9)
  close(directional(f, x, [1, -1]), 13, 1e-8)
  assert.equal(x, Float64Array.of(2, 5))
})

test('patchify is a convolution whose stride is its kernel', () => {
  const [x, w] = [draw(1, 2, 3, 4, 6), draw(2, 5, 3, 2, 2)]
  const y = ops.linear(ops.patchify(x, 2), reshape(w, [5, -1]))
  assert.equal(y.shape, [2, 6, 5])
  let sum = 0 // image 1, patch (1, 2), channel 3
  for (let c = 0; c < 3; c++)
    for (let i = 0; i < 2; i++)
      for (let j = 0; j < 2; j++) sum += x.data[((3 + c) * 4 + 2 + i) * 6 + 4 + j]! * w.data[((9 + c) * 2 + i) * 2 + j]!
  close(y.data[(6 + 5) * 5 + 3]!, sum, 1e-14)
})

test('rope keeps norms and turns scores by the difference of positions alone', () => {
  const [q, k] = [draw(1, 1, 1, 1, 6), draw(2, 1, 1, 1, 6)]
  const at = (x: NdArray, position: number): NdArray => ops.rope(x, array([1, 1], [position]), 10000)
  assert.equal(at(q, 0).data, q.data)
  close(dot(at(q, 9).data, at(q, 9).data), dot(q.data, q.data), 1e-13)
  close(dot(at(q, 9).data, at(k, 4).data), dot(at(q, 105).data, at(k, 100).data), 1e-13)
})

test('norms, cross-entropy, swap', () => {
  const y = ops.layerNorm(draw(1, 2, 7), array([7], Array(7).fill(1)), array([7]), 0)
  close(
    y.data.subarray(0, 7).reduce((a, b) => a + b),
    0,
    1e-13,
  )
  close(dot(y.data.subarray(0, 7), y.data.subarray(0, 7)), 7, 1e-12)
  assert.ok(
    relativeError(ops.rmsNorm(array([2], [3, 4]), array([2], [1, 2]), 0).data, [
      3 / Math.sqrt(12.5),
      8 / Math.sqrt(12.5),
    ]) < 1e-15,
  )
  const logits = array([3, 2], [0, 0, Math.log(3), 0, 5, 5])
  close(ops.crossEntropy(logits, [0, 0, -100], 'sum'), Math.log(2) + Math.log(4 / 3), 1e-15)
  close(ops.crossEntropy(logits, [0, 0, -100]), (Math.log(2) + Math.log(4 / 3)) / 2, 1e-15)
  const x = draw(3, 2, 3, 4, 5)
  assert.equal(ops.unswap(ops.swap(x), 2).data, x.data)
  assert.is(ops.swap(x).data[((1 * 4 + 2) * 3 + 1) * 5 + 3], x.data[((1 * 3 + 1) * 4 + 2) * 5 + 3])
})

test('trained parameters of the full model: 2,499,126, and 12 gates more', () => {
  const full = modelConfig({ model_type: 'instructblip', text_config: { model_type: 'llama' } })
  const count = (json: Json): number =>
    [...trainedShapes(full, adapterConfig(json)).values()].reduce((n, shape) => n + size(shape), 0)
  assert.is(count({}), 2_499_126)
  assert.is(count({ temporal: { residual: 'gated' } }), 2_499_138)
})

// The whole model on tiny checkpoints.

const tiny = (kind: TinyKind): { config: Json; m: ReturnType<typeof model> } => {
  const { config, tensors } = tinyCheckpoint(kind, 7)
  return { config, m: model(tensors, config) }
}
// Windows that leave pairs out at five queries, seven text tokens and three frames.
const adapterOf = (config: Json, json: Json): Adapter => {
  const dar = { spatial_windows: [3, 2, 1], temporal_windows: [1, 1, 0], ...json['dar'] }
  const settings = adapterConfig({ lora: { r: 3, alpha: 5 }, t_max: 6, ...json, dar })
  return { config: settings, params: tinyParameters(config, settings, 11) }
}
const frame = (batch: Batch, t: number): Batch => ({ ...batch, pixelValues: slice(batch.pixelValues!, 1, t, t + 1) })

const switches: Json[] = [
  {},
  { dar: { mode: 'score' } },
  { dar: { mode: 'off' } },
  { dar: { spatial_masks: 'modality' } },
  { temporal: { residual: 'gated' } },
  { temporal: { weights: 'fresh' } },
  { temporal: { attention: 'none' }, aggregate: 'concat' },
  { temporal: { attention: 'joint' }, dar: { mode: 'off' } },
  { fusion: false },
  { fusion: false, temporal: { attention: 'joint' }, dar: { mode: 'off' } },
]

for (const kind of ['instructblip', 'blip2'] as const) {
  test(`${kind}: every switch gives another, finite loss, and each trained tensor that the paper's model has moves it`, () => {
    const { config, m } = tiny(kind)
    const batch = tinyInputs(config, 3)
    const seen = new Set<number>()
    for (const json of switches) {
      if (kind === 'blip2' && json['fusion'] !== false) continue
      const { loss, visualTokens: visual } = forward(m, batch, adapterOf(config, json))
      assert.ok(Number.isFinite(loss))
      assert.equal(visual.shape, [2, json['aggregate'] === 'concat' ? 15 : 5, 30])
      seen.add(loss)
    }
    assert.is(seen.size, kind === 'blip2' ? 2 : switches.length)

    const adapter = adapterOf(config, { fusion: kind === 'instructblip', temporal: { residual: 'gated' } })
    const known = { ...batch, features: features(m, batch) }
    for (const [name, tensor] of adapter.params) {
      const rng = random(1)
      const direction = tensor.data.map(() => rng.normal())
      const f = (x: Float64Array): number =>
        forward(m, known, { ...adapter, params: new Map(adapter.params).set(name, array(tensor.shape, x)) }).loss
      assert.ok(Math.abs(directional(f, tensor.data, direction)) > 1e-7, `${name} does not move the loss`)
    }
  })

  test(`${kind}: an adapter that does nothing leaves the image model, frame by frame`, () => {
    const { config, m } = tiny(kind)
    const batch = tinyInputs(config, 3)
    for (const [json, gate] of [
      [{ temporal: { attention: 'none' }, dar: { mode: 'off' } }, 1],
      [{ temporal: { residual: 'gated' }, dar: { mode: 'off' } }, 0],
    ] as const) {
      const adapter = adapterOf(config, { ...json, fusion: kind === 'instructblip' })
      const params = new Map(
        [...adapter.params].map(([name, t]) => [
          name,
          /lora_B|position/.test(name) || (gate === 0 && name.endsWith('gate')) ? array(t.shape) : t,
        ]),
      )
      const video = visualTokens(m, batch, { ...adapter, params })
      const frames = [0, 1, 2].map((t) => visualTokens(m, frame(batch, t), undefined))
      const average = mean(reshape(concat(frames, 0), [3, ...video.shape]), 0)
      assert.ok(relativeError(video.data, average.data) < 1e-13)
    }
  })

  test(`${kind}: padding changes nothing, on whichever side`, () => {
    const { config, m } = tiny(kind)
    const adapter = adapterOf(config, { fusion: kind === 'instructblip' })
    const [right, left] = (['right', 'left'] as const).map((padding) => tinyInputs(config, 3, { padding })) as [
      Batch,
      Batch,
    ]
    const a = forward(m, right, adapter)
    close(forward(m, left, adapter).loss, a.loss, 1e-13)
    assert.equal(greedyIds(m, a.visualTokens, left, 4).data, greedyIds(m, a.visualTokens, right, 4).data)
    // other ids behind the mask
    const noisy = { ...right, inputIds: clone(right.inputIds) }
    noisy.attentionMask.data.forEach((x, i) => {
      if (x === 0) noisy.inputIds.data[i] = 17
    })
    assert.is(forward(m, noisy, adapter).loss, a.loss)
  })
}

test('a tiny checkpoint is the same for the same seed, another for another, exact in float32, and survives its file', () => {
  const [a, b, c] = [tinyCheckpoint('blip2', 1), tinyCheckpoint('blip2', 1), tinyCheckpoint('blip2', 2)]
  for (const [name, t] of a.tensors) {
    assert.equal(t.data, b.tensors.get(name)!.data)
    t.data.forEach((x) => assert.is(Math.fround(x), x))
  }
  assert.not.equal(a.tensors.get('query_tokens')!.data, c.tensors.get('query_tokens')!.data)
  const folder = mkdtempSync(join(tmpdir(), 'oracle-'))
  try {
    writeTiny(folder, a)
    const back = readCheckpoint(folder)
    assert.equal(back.config, a.config)
    assert.equal([...back.tensors.keys()], [...a.tensors.keys()])
    for (const [name, t] of back.tensors) assert.equal(t.data, a.tensors.get(name)!.data)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('fusion without a text path is refused', () => {
  const { config, m } = tiny('blip2')
  assert.throws(() => forward(m, tinyInputs(config, 3, { qformerText: 4 }), adapterOf(config, {})), /text path/)
})

test.run()
