// The fused attention against the float64 oracle: every mode, mask, stride and edge, gradients by central differences.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { attention, type AttentionOptions } from '../../lib/ops/attention.js'
import { sourceAttention } from '../../lib/ops/source-attention.js'
import { split } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { memory, syncBlocking, threads } from '../../lib/tensor/runtime.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { settled } from '../support/memory.js'
import { array, dot, norm, permute, relativeError, reshape, type NdArray } from '../oracle/array.js'
import * as oracle from '../oracle/attention.js'
import { directional, gradient } from '../oracle/differences.js'
import { random } from '../oracle/random.js'

const test = suite('ops/attention')
type Mode = 'off' | 'score' | 'attention'
const modes: Mode[] = ['off', 'score', 'attention']

interface Case {
  /** Batch dimensions, as the tensors have them: [b] or [b0, b1] with `over` between or behind. */
  batch: number[]
  over: number
  heads: number
  nq: number
  nk: number
  d: number
  p?: number
  mode: Mode
  causal?: boolean
  /** Share of the keys that are padding. The first key of a row never is. */
  padding?: number
  /** Bit j of a pair's mask. M_0 keeps everything unless given. */
  keeps?: (i: number, j: number, mask: number) => boolean
  /** Standard deviation of the scores. */
  spread?: number
  seed?: number
}
const base: Case = { batch: [2], over: 1, heads: 2, nq: 7, nk: 7, d: 12, mode: 'off' }

interface Data {
  /** float32 values, in the layout of the tensors. */
  q: Float32Array
  k: Float32Array
  v: Float32Array
  dy: Float32Array
  alpha: Float32Array
  masks: Uint8Array
  keyMask: Uint8Array | undefined
}

const shapeOf = (c: Case, n: number): number[] => [
  ...c.batch.slice(0, c.over),
  n,
  ...c.batch.slice(c.over),
  c.heads * c.d,
]
const rowsOf = (c: Case): number => c.batch.reduce((a, b) => a * b, 1)

function draw(c: Case): Data {
  const r = random(c.seed ?? 1)
  const p = c.p ?? 3
  const normals = (n: number, factor = 1): Float32Array => Float32Array.from({ length: n }, () => factor * r.normal())
  const [rows, width, root] = [rowsOf(c), c.heads * c.d, Math.sqrt(c.spread ?? 1)]
  const keeps = c.keeps ?? ((i, j, mask) => mask === 0 || Math.abs(i - j) <= 3 - mask)
  const masks = Uint8Array.from({ length: c.nq * c.nk }, (_, at) => {
    let bits = 0
    for (let m = 0; m < p; m++) if (keeps(Math.floor(at / c.nk), at % c.nk, m)) bits |= 1 << m
    return bits
  })
  const alpha = normals(rows * p).map(Math.exp)
  for (let i = 0; i < rows; i++) {
    const row = alpha.subarray(i * p, (i + 1) * p)
    const sum = row.reduce((a, b) => a + b)
    row.forEach((x, j) => (row[j] = x / sum))
  }
  return {
    q: normals(rows * c.nq * width, root),
    k: normals(rows * c.nk * width, root),
    v: normals(rows * c.nk * width),
    dy: normals(rows * c.nq * width),
    alpha,
    masks,
    keyMask:
      c.padding === undefined
        ? undefined
        : Uint8Array.from({ length: rows * c.nk }, (_, i) => (i % c.nk !== 0 && r.uniform() < c.padding! ? 0 : 1)),
  }
}

/** The layout of the tensors to the oracle's [rows, heads, n, d]. */
function toOracle(c: Case, n: number, values: ArrayLike<number>): NdArray {
  const rest = c.batch.map((_, i) => (i < c.over ? i : i + 1))
  const heads = array([...c.batch.slice(0, c.over), n, ...c.batch.slice(c.over), c.heads, c.d], values)
  return reshape(permute(heads, [...rest, c.batch.length + 1, c.over, c.batch.length + 2]), [
    rowsOf(c),
    c.heads,
    n,
    c.d,
  ])
}

/** Σ out∘dy in float64, of the tensors' layout. */
function loss(c: Case, data: Data, inputs: Partial<Record<'q' | 'k' | 'v' | 'alpha', ArrayLike<number>>>): number {
  return dot(reference(c, data, inputs).data, toOracle(c, c.nq, data.dy).data)
}
function reference(
  c: Case,
  data: Data,
  inputs: Partial<Record<'q' | 'k' | 'v' | 'alpha', ArrayLike<number>>> = {},
): NdArray {
  const rows = rowsOf(c)
  const of = (name: 'q' | 'k' | 'v', n: number): NdArray => toOracle(c, n, inputs[name] ?? data[name])
  return oracle.attention(of('q', c.nq), of('k', c.nk), of('v', c.nk), {
    mode: c.mode,
    causal: c.causal ?? false,
    masks: array([c.nq, c.nk], data.masks),
    alpha: array([rows, c.p ?? 3], inputs.alpha ?? data.alpha),
    keyMask: data.keyMask && array([rows, c.nk], data.keyMask),
  })
}

interface Result {
  y: Float32Array
  grads: Map<'q' | 'k' | 'v' | 'alpha', Float32Array>
}

function run(c: Case, data: Data, wanted: string[] = ['q', 'k', 'v', 'alpha']): Result {
  return scope(() => {
    const leaf = (name: string, values: Float32Array, shape: number[]): Tensor => {
      const t = tensor(values, shape)
      return wanted.includes(name) ? t.requireGrad(name) : t
    }
    const [q, k, v] = [
      leaf('q', data.q, shapeOf(c, c.nq)),
      leaf('k', data.k, shapeOf(c, c.nk)),
      leaf('v', data.v, shapeOf(c, c.nk)),
    ]
    const routed = c.mode !== 'off'
    const alpha = routed ? leaf('alpha', data.alpha, [...c.batch, c.p ?? 3]) : undefined
    const y = attention(q, k, v, options(c, data, alpha))
    const leaves = { q, k, v, ...(alpha && { alpha }) }
    if (wanted.length) backward(y, tensor(data.dy, [...y.shape]))
    const grads: Result['grads'] = new Map()
    for (const [name, t] of Object.entries(leaves)) {
      if (!t.grad) continue
      grads.set(name as 'q', t.grad.dataBlocking() as Float32Array)
      t.grad.dispose()
    }
    return { y: y.dataBlocking() as Float32Array, grads }
  })
}
const options = (c: Case, data: Data, alpha: Tensor | undefined): AttentionOptions => ({
  heads: c.heads,
  over: c.over,
  mode: c.mode,
  causal: c.causal,
  alpha,
  masks: alpha && tensor(data.masks, [c.nq, c.nk]),
  keyMask: data.keyMask && tensor(data.keyMask, [...c.batch, c.nk]),
})

/** Forward against the oracle; gradients along each coordinate where that is cheap, else along one direction. */
function verify(name: string, c: Case): void {
  const data = draw(c)
  const { y, grads } = run(c, data)
  const error = relativeError(toOracle(c, c.nq, y).data, reference(c, data).data)
  assert.ok(error <= 1e-5, `${name}: forward ${error}`)
  assert.is(grads.size, c.mode === 'off' ? 3 : 4)
  for (const [input, grad] of grads) {
    const x = Float64Array.from(data[input])
    const f = (values: Float64Array): number => loss(c, data, { [input]: values })
    if (x.length * rowsOf(c) * c.heads * c.nq * c.nk * c.d < (c.spread ? 2e6 : 4e5)) {
      const expected = gradient(f, x)
      // Differences of float64 resolve about 1e-9; a gradient that is 0 in truth is held against that.
      const scale = norm(expected) + 1e-4
      const off = norm(expected.map((g, i) => g - grad[i]!)) / scale
      assert.ok(off <= 1e-4, `${name}: d${input} ${off}`)
    } else {
      // Along the gradient itself, which shows a wrong length, and at random, which shows the rest.
      const r = random(9)
      const length = norm(grad)
      const direction = Float64Array.from(grad, (g) => (g * Math.sqrt(x.length)) / length + r.normal())
      const off = Math.abs(dot(grad, direction) - directional(f, x, direction, 1e-6)) / length
      assert.ok(off <= 1e-4, `${name}: d${input} ${off}`)
    }
  }
}

for (const mode of modes) {
  test(`${mode}: sizes, head widths and padding`, () => {
    for (const [nq, nk, d] of [
      [1, 1, 1],
      [1, 1, 12],
      [7, 7, 12],
      [7, 7, 1],
      [5, 9, 16],
      [33, 33, 16],
      [9, 33, 64],
      [33, 33, 88],
      [130, 130, 12],
      [7, 33, 128],
    ] as const)
      for (const padding of [undefined, 0.4])
        verify(`${mode} ${nq}x${nk} d${d} padding ${padding}`, {
          ...base,
          batch: [nq > 30 ? 1 : 2],
          nq,
          nk,
          d,
          mode,
          ...(padding && { padding }),
        })
    verify(`${mode} 257`, { ...base, batch: [1], heads: 1, nq: 257, nk: 257, d: 20, mode })
  })
  test(`${mode}: causal, with a cache too`, () => {
    for (const [nq, nk] of [
      [7, 7],
      [1, 9],
      [3, 8],
      [33, 33],
      [40, 130],
    ] as const)
      verify(`causal ${nq}x${nk}`, { ...base, batch: [1], nq, nk, d: 16, mode, causal: true })
    verify('causal, padded', { ...base, nq: 6, nk: 9, mode, causal: true, padding: 0.4 })
  })
  test(`${mode}: the channel swap is a stride`, () => {
    for (const over of [0, 1, 2])
      verify(`over ${over}`, { ...base, batch: [2, 3], over, nq: 5, nk: 5, d: 4, mode, padding: 0.3 })
    const space = { ...base, batch: [2, 3], over: 1, nq: 5, nk: 5, mode }
    const data = draw(space)
    // [B,T,L,D] over T is [B,L,T,D] over L.
    const turn = (x: Float32Array): Float32Array =>
      Float32Array.from(permute(array([2, 5, 3, 24], x), [0, 2, 1, 3]).data)
    const turned = run(
      { ...space, over: 2 },
      { ...data, q: turn(data.q), k: turn(data.k), v: turn(data.v), dy: turn(data.dy) },
    )
    const direct = run(space, data)
    assert.equal(turn(direct.y), turned.y)
    for (const name of ['q', 'k', 'v'] as const) assert.equal(turn(direct.grads.get(name)!), turned.grads.get(name))
    assert.equal(direct.grads.get('alpha'), turned.grads.get('alpha'))
  })
}

for (const mode of ['score', 'attention'] as const) {
  test(`${mode}: 1 to 8 masks, and masks that keep nothing`, () => {
    for (let p = 1; p <= 8; p++)
      verify(`p ${p}`, { ...base, mode, p, nq: 5, nk: 6, keeps: (i, j, m) => m === 0 || (i * 7 + j * 3 + m) % 4 < 2 })
    verify('rows that a mask leaves empty', {
      ...base,
      mode,
      padding: 0.5,
      keeps: (i, j, m) => m === 0 || ((i + m) % 3 === 0 && i === j),
    })
    verify('pairs in no mask', { ...base, mode, keeps: (i, j, m) => (i + 2 * j + m) % 3 === 0 })
    verify('causal and narrow', {
      ...base,
      mode,
      causal: true,
      nq: 9,
      nk: 9,
      keeps: (i, j, m) => m === 0 || j === i + 1,
    })
  })
}

test('scores of ±80: a narrow mask far below the row has its own maximum', () => {
  // Mask 1 keeps the smallest scores alone: relative to the row's maximum their exponentials vanish in float32.
  for (const mode of modes) {
    const c: Case = { ...base, batch: [1], heads: 1, nq: 6, nk: 33, d: 16, mode, p: 2, spread: 40 }
    const data = draw(c)
    const s = (i: number, j: number): number =>
      dot(data.q.subarray(i * 16, i * 16 + 16), data.k.subarray(j * 16, j * 16 + 16)) / 4
    const row = Array.from({ length: 6 }, (_, i) => Array.from({ length: 33 }, (_, j) => s(i, j)))
    assert.ok(row.some((r) => Math.max(...r) - Math.min(...r) > 120))
    verify(`sharp ${mode}`, {
      ...c,
      keeps: (i, j, m) => m === 0 || row[i]![j]! <= [...row[i]!].sort((a, b) => a - b)[2]!,
    })
  }
})

test('a row of padding alone gives zeros, forward and backward', () => {
  for (const mode of modes) {
    const c: Case = { ...base, mode, padding: 0 }
    const data = draw(c)
    data.keyMask!.fill(0, 0, c.nk)
    const { y, grads } = run(c, data)
    const half = (x: Float32Array, i: number): Float32Array => x.subarray((i * x.length) / 2, ((i + 1) * x.length) / 2)
    for (const x of [y, ...grads.values()]) {
      assert.ok(half(x, 0).every((value) => value === 0))
      assert.ok(half(x, 1).some((value) => value !== 0) && half(x, 1).every(Number.isFinite))
    }
  }
})

test('padding that fills whole blocks of keys, at the beginning too', () => {
  for (const mode of modes)
    for (const [first, last] of [
      [0, 200],
      [60, 200],
      [128, 257],
    ] as const) {
      const c: Case = { ...base, batch: [1], heads: 1, nq: 9, nk: 257, d: 20, mode, padding: 0 }
      const data = draw(c)
      data.keyMask!.fill(0, first, last)
      assert.ok(
        relativeError(toOracle(c, c.nq, run(c, data).y).data, reference(c, data).data) <= 1e-5,
        `${mode} ${first} to ${last}`,
      )
    }
})

test('NaN in, NaN out, and only where it is seen', () => {
  for (const nq of [2, 9]) {
    const c: Case = { ...base, batch: [2], heads: 1, nq, nk: 33, d: 16 }
    const [one, all] = [draw(c), draw(c)]
    one.q[16 + 3] = NaN // of query 1
    all.k[5] = NaN // of a key that all queries of the first row see
    const [y, z] = [run(c, one, []).y, run(c, all, []).y]
    y.forEach((value, i) => assert.is(Number.isNaN(value), i >= 16 && i < 32))
    z.forEach((value, i) => assert.is(Number.isNaN(value), i < z.length / 2))
  }
})

test('one key: the gradients of queries and keys are exactly 0', () => {
  for (const mode of modes) {
    const { grads } = run({ ...base, nq: 1, nk: 1, mode }, draw({ ...base, nq: 1, nk: 1, mode }))
    if (mode !== 'attention') assert.ok([...grads.get('q')!, ...grads.get('k')!].every((g) => g === 0))
    else assert.ok(norm([...grads.get('q')!, ...grads.get('k')!]) < 1e-6)
  }
})

test('sizes of 0', () => {
  for (const mode of modes)
    for (const [b, nq, nk] of [
      [2, 0, 3],
      [2, 3, 0],
      [0, 3, 3],
      [2, 0, 0],
    ] as const) {
      const c = { ...base, batch: [b], nq, nk, mode }
      const { y, grads } = run(c, draw(c))
      assert.ok([y, ...grads.values()].every((x) => x.every((value) => value === 0)))
    }
})

test('slices of a packed tensor and broadcast padding need no copy', () => {
  const c: Case = { ...base, batch: [2, 3], over: 2, mode: 'off' }
  const data = draw(c)
  const width = c.heads * c.d
  const packed = new Float32Array(3 * data.q.length)
  for (let i = 0; i < data.q.length / width; i++)
    [data.q, data.k, data.v].forEach((x, s) => packed.set(x.subarray(i * width, (i + 1) * width), (3 * i + s) * width))
  const keep = Uint8Array.from([1, 1, 0, 1, 1, 1, 0])
  const plain = run(c, { ...data, keyMask: Uint8Array.from({ length: 6 * 7 }, (_, i) => keep[i % 7]!) })
  scope(() => {
    const all = tensor(packed, [2, 3, 7, 3 * width]).requireGrad()
    const [q, k, v] = split(all, [width, width, width], -1) as [Tensor, Tensor, Tensor]
    const y = attention(q, k, v, { heads: c.heads, keyMask: tensor(keep) })
    assert.equal(y.dataBlocking(), plain.y)
    backward(y, tensor(data.dy, [...y.shape]))
    const grad = all.grad!.dataBlocking() as Float32Array
    ;(['q', 'k', 'v'] as const).forEach((name, s) => {
      const mine = Float32Array.from(
        plain.grads.get(name)!,
        (_, i) => grad[(3 * Math.floor(i / width) + s) * width + (i % width)]!,
      )
      assert.equal(mine, plain.grads.get(name))
    })
    all.grad!.dispose()
  })
})

test('the same bits again, with any number of threads, and whichever gradients are wanted', () => {
  const before = threads()
  try {
    for (const mode of modes) {
      const c: Case = { ...base, batch: [4, 5], over: 1, heads: 3, nq: 33, nk: 33, d: 16, mode, padding: 0.2, p: 4 }
      const data = draw(c)
      threads(1)
      const first = run(c, data)
      threads(3)
      assert.equal(run(c, data), first)
      for (const wanted of [['q'], ['v'], ['k', 'alpha'], []]) {
        const { y, grads } = run(c, data, wanted)
        assert.equal(y, first.y)
        for (const [name, g] of grads) assert.equal(g, first.grads.get(name))
        assert.equal(
          [...grads.keys()],
          wanted.filter((w) => w !== 'alpha' || mode !== 'off'),
        )
      }
    }
  } finally {
    threads(before)
  }
})

test('memory returns to where it began', async () => {
  const c: Case = { ...base, mode: 'attention', padding: 0.3 }
  const data = draw(c)
  run(c, data)
  await settled()
  const { bytes, tensors } = memory()
  for (let i = 0; i < 3; i++) run(c, data)
  syncBlocking()
  assert.is(memory().bytes, bytes)
  assert.is(memory().tensors, tensors)
})

test('refuses what does not fit, by name', () => {
  scope(() => {
    const q = tensor(new Float32Array(2 * 3 * 8), [2, 3, 8])
    const call =
      (o: Partial<AttentionOptions>, k = q) =>
      () =>
        attention(q, k, k, { heads: 2, ...o })
    assert.throws(call({ heads: 3 }), /heads: expected a divisor of the width 8/)
    assert.throws(call({ over: 2 }), /over: expected a dimension/)
    assert.throws(call({ mode: 'score' }), /masks and alpha in mode score/)
    assert.throws(call({ keyMask: tensor(new Uint8Array(4)) }), /keyMask: expected a shape that repeats to \[2,3\]/)
    assert.throws(call({ keyMask: tensor(new Float32Array(3)) }), /key_mask: expected dtype uint8/)
    assert.throws(call({}, tensor(new Float32Array(2 * 3 * 4), [2, 3, 4])), /k: expected shape \[2,1,3,2,4\]/)
    const bias = tensor(new Float32Array(2 * 5), [2, 5])
    assert.throws(call({ bias: tensor(new Float32Array(2 * 6), [2, 6]) }), /bias: expected shape \[2,5\]/)
    assert.throws(call({ bias: tensor(new Int32Array(2 * 5), [2, 5]) }), /bias: expected dtype float32/)
    assert.throws(call({ scale: NaN }), /scale: expected a finite number/)
    const masks = tensor(new Uint8Array(9), [3, 3])
    assert.throws(
      call({ mode: 'score', masks, alpha: tensor(new Float32Array(4), [2, 2]), bias }),
      /bias: expected none with masks/,
    )
    assert.throws(
      call({ bias: bias.requireGrad('table') }),
      /bias: expected a tensor that needs no gradient, but got "table"/,
    )
    assert.throws(
      call({ mode: 'attention', masks, alpha: tensor(new Float32Array(18), [2, 9]) }),
      /alpha: expected 1 to 8 choices/,
    )
    assert.throws(
      call({ mode: 'attention', masks: tensor(new Uint8Array(6), [3, 2]), alpha: tensor(new Float32Array(4), [2, 2]) }),
      /masks: expected shape \[3,3\]/,
    )
  })
})

test('attention to a source refuses what does not fit, and to be recorded', () => {
  scope(() => {
    const of = (...shape: number[]): Tensor => tensor(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)
    const call =
      (q: Tensor, e: Tensor, wk: Tensor, heads: number, lora?: { A: Tensor; B: Tensor; scaling: number }) => () =>
        sourceAttention(q, e, wk, of(8, 6), { heads, lora })
    const [q, e, w] = [of(2, 3, 8), of(2, 5, 6), of(8, 6)]
    assert.throws(call(q, e, w, 3), /heads: expected a divisor of the width 8, but got 3/)
    assert.throws(call(q, of(5, 6), w, 2), /source: expected the dimensions of q but for the last two/)
    assert.throws(call(q, e, of(6, 8), 2), /wk: expected shape \[8,6\], but got \[6,8\]/)
    assert.throws(
      call(q, e, w, 2, { A: of(2, 6), B: of(8, 3), scaling: 1 }),
      /b: expected shape \[8,2\], but got \[8,3\]/,
    )
    assert.throws(
      call(of(2, 3, 8).requireGrad(), e, w, 2),
      /sourceAttention: expected no argument that requires a gradient/,
    )
  })
})

test.run()
