// Attention's CUDA kernels at their limits: sizes of one more or less than a tile, a segment or a block, queries and keys
// packed in one tensor, over space and over time, rows that see no key, masks far under the row's maximum. Compared with
// the CPU twin.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { attention, type AttentionOptions } from '../../lib/ops/attention.js'
import { cast } from '../../lib/ops/copy.js'
import { split } from '../../lib/ops/views.js'
import { native } from '../../lib/native.js'
import { type Device, devices } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { empty, tensor } from '../../lib/tensor/tensor.js'
import type { DType } from '../../lib/tensor/dtype.js'
import { random } from '../oracle/random.js'
import { widen } from '../ops/support.js'

const { cuda } = devices()
const device = cuda.devices[0]?.device

interface Case {
  /** [b, n], with attention over n, or [b, frames, n], with attention over `over`. */
  shape: number[]
  over?: number
  /** Cross-attention: keys [b, keys] of another tensor. */
  keys?: number
  heads?: number
  d?: number
  mode?: AttentionOptions['mode']
  choices?: number
  causal?: boolean
  /** With a bias of each distance, and scores that are not divided. */
  biased?: boolean
  /** Which keys are tokens. */
  token?: (key: number, keys: number, row: number) => boolean
  keeps?: (query: number, key: number, mask: number) => boolean
  /** Standard deviation of the scores. */
  spread?: number
  /** Gradients wanted. */
  wanted?: string
}

const window = (i: number, j: number, mask: number): boolean => mask === 0 || Math.abs(i - j) <= 4 - mask

/** Output and gradients on a device. q, k and v are slices of one tensor, except in cross-attention. */
function results(c: Case, on: Device, dtype: DType): Record<string, Float64Array> {
  const {
    shape,
    heads = 2,
    d = 64,
    mode = 'off',
    choices = 3,
    causal = false,
    spread = 1,
    wanted = 'qkva',
    token,
    keeps = window,
  } = c
  const r = random(7)
  const [over, width] = [c.over ?? shape.length - 1, heads * d]
  const [nq, nk] = [shape[over]!, c.keys ?? shape[over]!]
  const batch = shape.filter((_, i) => i !== over)
  const numbers = (sizes: readonly number[], make: () => number) =>
    tensor(Float32Array.from({ length: sizes.reduce((a, b) => a * b, 1) }, make), sizes, 'float32', on)
  const normal = (sizes: readonly number[], std = 1) => numbers(sizes, () => std * r.normal())
  const bytes = (sizes: readonly number[], make: (i: number) => number) =>
    tensor(
      Uint8Array.from({ length: sizes.reduce((a, b) => a * b, 1) }, (_, i) => make(i)),
      sizes,
      'uint8',
      on,
    )
  return scope(() => {
    const leaf = (name: string, t: ReturnType<typeof normal>) => (wanted.includes(name) ? t.requireGrad(name) : t)
    const packed = c.keys === undefined ? leaf('q', normal([...shape, 3 * width], Math.sqrt(spread))) : undefined
    const q = packed ?? leaf('q', normal([...shape, width], Math.sqrt(spread)))
    const [k, v] = packed
      ? [packed, packed]
      : [leaf('k', normal([...batch, nk, width], Math.sqrt(spread))), leaf('v', normal([...batch, nk, width]))]
    const parts = packed ? split(cast(packed, dtype), [width, width, width], -1) : [q, k, v].map((t) => cast(t, dtype))
    const alpha = leaf(
      'a',
      numbers([...batch, choices], () => 0.1 + r.uniform()),
    )
    const y = attention(parts[0]!, parts[1]!, parts[2]!, {
      heads,
      over,
      mode,
      causal,
      ...(c.biased && { bias: normal([heads, nq + nk - 1]), scale: 0.2 }),
      ...(token && { keyMask: bytes([...batch, nk], (i) => Number(token(i % nk, nk, Math.floor(i / nk)))) }),
      ...(mode !== 'off' && {
        alpha,
        masks: bytes([nq, nk], (i) =>
          Array.from({ length: choices }, (_, j) => (keeps(Math.floor(i / nk), i % nk, j) ? 1 << j : 0)).reduce(
            (a, b) => a | b,
          ),
        ),
      }),
    })
    backward(y, cast(normal(y.shape), dtype))
    const read = (t: typeof y) => widen(t.dataBlocking(), t.dtype)
    return {
      y: read(y),
      ...Object.fromEntries(
        [
          ['q', q],
          ['k', k],
          ['v', v],
          ['a', alpha],
        ].flatMap(([n, t]) => ((t as typeof y).grad ? [[n, read((t as typeof y).grad!)]] : [])),
      ),
    }
  })
}

function check(c: Case): void {
  for (const [dtype, limit] of [
    ['float32', 2e-5],
    ['bfloat16', 1e-2],
  ] as const) {
    const [mine, theirs, again] = [results(c, device!, dtype), results(c, 'cpu', dtype), results(c, device!, dtype)]
    const text = `${JSON.stringify(c)} ${dtype}`
    assert.equal(Object.keys(mine), Object.keys(theirs), text)
    for (const [name, x] of Object.entries(theirs)) {
      const y = mine[name]!
      const e = Math.sqrt(x.reduce((s, v, i) => s + (v - y[i]!) ** 2, 0) / (x.reduce((s, v) => s + v * v, 0) || 1))
      assert.ok(e <= limit, `${text}: ${name} is ${e} from the CPU's`)
      assert.equal(again[name], y, `${text}: a rerun changes ${name}`)
    }
  }
}

const sizes = (name: string, list: Case[]) => test(`attention on ${device}: ${name}`, () => list.forEach(check))

if (!device) test.skip(`attention on CUDA: ${cuda.reason}`, () => {})
else {
  sizes(
    'lengths in space',
    [1, 7, 16, 17, 33, 64, 65, 96, 128, 160, 161].map((s) => ({ shape: [s < 33 ? 5 : 1, s], heads: 1 })),
  )
  sizes(
    'lengths with masks',
    (['score', 'attention'] as const).flatMap((mode) =>
      [1, 16, 33, 65, 128, 161].map((s) => ({ shape: [s < 33 ? 5 : 1, s], heads: 1, mode, choices: s === 33 ? 8 : 4 })),
    ),
  )
  sizes(
    'time',
    [1, 4, 8, 15, 16, 17, 33, 64, 65].flatMap((t): Case[] => [
      { shape: [1, t, 3], over: 1, heads: 1 },
      { shape: [1, t, 2], over: 1, heads: 1, mode: t % 2 ? 'attention' : 'score', choices: 1 + (t % 4) },
    ]),
  )
  sizes(
    'head widths',
    [8, 24, 88, 104, 128, 136].flatMap((d): Case[] => [
      { shape: [1, 19], d, heads: 2 },
      { shape: [2, 9], d, heads: 1, mode: 'attention' },
    ]),
  )
  sizes('causal', [
    { shape: [1, 65], causal: true },
    { shape: [1, 3], keys: 40, causal: true },
    { shape: [2, 40], keys: 3, causal: true },
    { shape: [1, 33], causal: true, mode: 'attention' },
    { shape: [1, 33], causal: true, mode: 'score' },
  ])
  sizes('long', [
    { shape: [1, 200], heads: 1 },
    { shape: [1, 210], heads: 1, causal: true, token: (k) => k > 5 },
    { shape: [1, 130], heads: 1, d: 128, causal: true },
  ])
  sizes(
    'cross',
    ['qkv', 'qv', 'v', 'q', 'k'].map((wanted) => ({
      shape: [2, 32],
      keys: wanted === 'qv' ? 257 : 40,
      heads: 1,
      wanted,
    })),
  )
  sizes(
    'one gradient with masks',
    ['q', 'k', 'v', 'a'].flatMap((wanted) =>
      (['score', 'attention'] as const).map((mode): Case => ({ shape: [2, 9], keys: 20, wanted, mode })),
    ),
  )
  sizes(
    'padding',
    (['off', 'score', 'attention'] as const).flatMap((mode): Case[] => [
      { shape: [2, 40], mode, token: (k) => k < 32 }, // all of the text
      { shape: [3, 20], mode, token: (k, n, row) => row % 3 !== 1 && (k * 7) % n < 9 }, // some rows see no key
      { shape: [2, 3, 17], over: 1, mode, token: (k) => k > 0 },
    ]),
  )
  sizes('masks without keys', [
    { shape: [2, 30], mode: 'attention', token: (k) => k > 14 },
    { shape: [1, 70], heads: 1, mode: 'attention', keeps: (i, j, m) => m === 1 || i > 20 || Math.abs(i - j) < m },
  ])
  const lengths = [63, 97, 128, 160, 161, 193, 257, 1000]
  sizes(
    'one query over many keys, as in decoding',
    [64, 96, 128].flatMap((d, j) =>
      lengths
        .filter((_, i) => i % 3 === j || d === 128)
        .flatMap((keys): Case[] => [
          { shape: [1, 1], keys, d, heads: 1, causal: true, wanted: 'q', token: (k) => k > 5 }, // a cache that ends with the query, padding on its left
          { shape: [1, 1], keys, d, heads: 2, wanted: 'q', token: (k) => k < keys - 70 || k % 2 === 0 }, // one that ends with keys not there yet
        ]),
    ),
  )
  sizes(
    'biases of distances',
    [1, 17, 40, 65, 161, 210].flatMap((n, i): Case[] => [
      { shape: [i < 3 ? 2 : 1, n], heads: i < 3 ? 2 : 1, biased: true, token: (k) => k < 40 || k % 3 > 0 },
      { shape: [1, n], heads: 1, d: i % 2 ? 64 : 24, causal: true, biased: true },
    ]),
  )
  sizes('biases where queries and keys differ', [
    { shape: [2, 1], keys: 70, causal: true, biased: true, wanted: 'q' },
    { shape: [1, 1], keys: 300, heads: 1, causal: true, biased: true },
    { shape: [1, 50], keys: 20, heads: 1, biased: true, wanted: 'kv' },
    { shape: [1, 12], d: 88, biased: true },
  ])
  sizes('a few queries over split keys', [
    { shape: [1, 7], keys: 200, heads: 1, causal: true, wanted: 'q' },
    { shape: [3, 2], keys: 300, heads: 1, wanted: 'q', token: (k, _, row) => row !== 1 && k > 100 },
  ])
  test(`attention on ${device}: strides of dimensions of one do not matter`, () => {
    const r = random(3)
    scope(() => {
      const [n, h, d] = [9, 1, 64]
      const made = (rows: number) =>
        cast(
          tensor(
            Float32Array.from({ length: rows * h * d }, () => r.normal()),
            [rows * h * d],
            'float32',
            device,
          ),
          'bfloat16',
        )
      for (const nq of [1, n]) {
        const [q, k, v] = [made(nq), made(n), made(n)]
        const forward = (odd: boolean): number[] => {
          const rows = (t: typeof q, count: number) =>
            t.view([1, 1, count, h, d], odd ? [3, 5, count === 1 ? 7 : d, 11, 1] : [count * d, count * d, d, d, 1])
          const [y, lse] = [empty([nq * d], 'bfloat16', device), empty([1, 1, h, nq, 1], 'float32', device)]
          native().ops.attention_forward(
            rows(q, nq).handle,
            rows(k, n).handle,
            rows(v, n).handle,
            null,
            null,
            null,
            null,
            0,
            false,
            1 / Math.sqrt(d),
            rows(y, nq).handle,
            lse.handle,
          )
          return [...(y.dataBlocking() as Uint16Array), ...(lse.dataBlocking() as Float32Array)]
        }
        assert.equal(forward(true), forward(false))
      }
    })
  })
  sizes('scores that lie far apart', [
    { shape: [2, 40], mode: 'attention', spread: 120 },
    { shape: [1, 40], spread: 120 },
    { shape: [1, 40], mode: 'score', spread: 60 },
  ])
}

test.run()
