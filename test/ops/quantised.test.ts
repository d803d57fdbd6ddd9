// Weights in 8 and 4 bits: right at every tail on every instruction set; the levels and scales of their definitions;
// several as one; what quantize() refuses; their size in memory.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { native } from '../../lib/native.js'
import { cast, copy, full } from '../../lib/ops/copy.js'
import { embedding } from '../../lib/ops/embedding.js'
import { linear } from '../../lib/ops/linear.js'
import { dequantize, quantize } from '../../lib/ops/quantize.js'
import { sourceAttention } from '../../lib/ops/source-attention.js'
import { narrow, permute, reshape } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { memory, sync } from '../../lib/tensor/runtime.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { bytesOf, type QuantizedDType } from '../../lib/tensor/dtype.js'
import { concat, relativeError, slice } from '../oracle/array.js'
import * as oracle from '../oracle/ops.js'
import { dynamicMap, nf4Levels, nf4Quantiles, quantised } from '../oracle/quantised.js'
import { LEVELS } from '../support/levels.js'
import { draw, numbers } from './frozen.js'
import { transpose } from './products.js'
import { matrix, type Report } from './quantised.js'
import { settled } from '../support/memory.js'
import { upload } from './support.js'

const both: QuantizedDType[] = ['int8', 'nf4']

// ---- values ----

/** As of weights that are not quantised (frozen.test.ts); the weights themselves are to be those of float64. */
const most = (kind: string): number =>
  kind === 'weight'
    ? 1e-6
    : kind.endsWith(' y, float32')
      ? 1e-5
      : /float32|da|db/.test(kind)
        ? 1e-4
        : kind.startsWith('gelu dx')
          ? 1.2e-2
          : 4e-3

// Of what MT_CPU leaves open, AVX-512 is without AMX.
for (const level of ['', ...LEVELS])
  test(`${level || 'the best there is'}: every tail and dtype as in float64, one thread as three, few rows as one`, () => {
    const program = fileURLToPath(new URL('quantised.ts', import.meta.url))
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', program], {
      env: { ...process.env, MT_CPU: level },
      encoding: 'utf8',
    })
    assert.is(status, 0, stderr)
    const { errors, threads, rows } = JSON.parse(stdout) as Report
    assert.is(Object.keys(errors).length, 17)
    for (const [kind, e] of Object.entries(errors)) assert.ok(e <= most(kind), `${kind}: relative error ${e}`)
    assert.equal(threads, [], 'another number of threads changes no bit')
    assert.equal(rows, [], 'the number of other rows changes no bit of a row')
  })

test('NF4 has the published levels: a block that holds them keeps them, two in a byte, the first in the upper half', () => {
  const levels = nf4Levels
  levels.forEach((x, i) => assert.ok(Math.abs(x - nf4Quantiles[i]!) < 1e-6, `level ${i}: ${nf4Quantiles[i]}`))
  scope(() => {
    const block = Float32Array.from({ length: 64 }, (_, i) => 4 * levels[i % 16]!)
    const q = quantize(tensor(block, [1, 64]), 'nf4')
    const bytes = q.dataBlocking() as Uint8Array
    assert.equal([...bytes.subarray(0, 8)], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef])
    // One block: its scale is the mean of all, which is kept as it is.
    assert.equal(dequantize(q).dataBlocking(), block)
    // Between two levels the upper begins above their midpoint.
    const edges = levels.slice(1).map((x, i) => (x + levels[i]!) / 2)
    const near = (by: number): number[] => {
      const numbers = Float32Array.from([1, ...edges.map((x) => x + by), ...Array<number>(48).fill(0)])
      const codes = quantize(tensor(numbers, [1, 64]), 'nf4').dataBlocking() as Uint8Array
      return Array.from({ length: 15 }, (_, i) => ((codes[(i + 1) >> 1]! >> ((i + 1) % 2 ? 0 : 4)) & 15) - i)
    }
    assert.equal(near(1e-6), Array(15).fill(1))
    assert.equal(near(-1e-6), Array(15).fill(0))
  })
})

test('scales are quantised in turn by the dynamic map, less their mean', () => {
  assert.is(dynamicMap.length, 256)
  assert.is(new Set(dynamicMap).size, 256)
  scope(() => {
    // Blocks of one number each: 1 in the first, then 3, 2, 2, …: the mean is 2, so that what is kept is -1, 1, 0, 0, ….
    const data = new Float32Array(64 * 256)
    for (let b = 0; b < 256; b++) data[b * 64] = b === 0 ? 1 : b === 1 ? 3 : 2
    const q = quantize(tensor(data, [4, 4096]), 'nf4')
    const codes = (q.dataBlocking() as Uint8Array).subarray(8192, 8192 + 256)
    assert.equal([codes[0], codes[1], codes[2], codes[255]], [0, 255, dynamicMap.indexOf(0), dynamicMap.indexOf(0)])
    const kept = dequantize(q).dataBlocking() as Float32Array
    assert.ok(Math.abs(kept[0]! - (2 + dynamicMap[0]!)) < 1e-6)
    assert.is(kept[64], 3)
    assert.is(kept[128], 2)
    assert.is(kept[1], 0, 'a zero stays zero')
  })
})

test('int8 keeps the columns that stand out, and rounds all others to 255 steps of their row', () =>
  scope(() => {
    const data = Float32Array.from({ length: 3 * 130 }, (_, i) => ((i * 37) % 255) - 127)
    for (let r = 0; r < 3; r++) [data[r * 130 + 7], data[r * 130 + 64]] = [[1000, 1001, 1003][r]!, -2000]
    const q = quantize(tensor(data, [3, 130]), 'int8')
    const kept = dequantize(q).dataBlocking() as Float32Array
    // bfloat16 has 8 bits: here multiples of 4.
    assert.equal([kept[7], kept[137], kept[267], kept[64]], [1000, 1000, 1004, -2000])
    data.forEach((x, i) => {
      if (![7, 64].includes(i % 130)) assert.ok(Math.abs(kept[i]! - x) <= 0.5, `${i}: ${kept[i]} for ${x}`)
    })
  }))

// ---- several as one ----

test('several weights as one: nf4 each as by itself, rows of them as they are', () =>
  scope(() => {
    const parts = [64, 128, 5].map((n) => matrix(n, 256, 'float32'))
    const x = draw('x', [3, 256], 'float32')
    const dy = draw('dy', [3, 197], 'float32')
    for (const dtype of both) {
      const all = quantize(
        parts.map((p) => upload(p)),
        dtype,
      )
      const wide =
        dtype === 'nf4'
          ? concat(
              parts.map((p) => quantised.nf4(p.wide)),
              0,
            )
          : quantised.int8(
              concat(
                parts.map((p) => p.wide),
                0,
              ),
            )
      assert.equal(all.shape, [197, 256])
      assert.ok(relativeError(numbers(dequantize(all)), wide.data) < 1e-6, dtype)
      const input = upload(x).requireGrad()
      backward(linear(input, all), upload(dy))
      assert.ok(relativeError(numbers(input.grad!), oracle.linear(dy.wide, transpose(wide)).data) < 1e-5, dtype)
      for (const [from, to] of [
        [0, 64],
        [64, 192],
        [192, 197],
      ] as const) {
        const y = numbers(linear(upload(x), narrow(all, 0, from, to - from)))
        assert.ok(
          relativeError(y, oracle.linear(x.wide, slice(wide, 0, from, to)).data) < 1e-5,
          `${dtype} from ${from}`,
        )
      }
    }
    assert.throws(
      () => quantize([upload(matrix(5, 256, 'float32')), upload(parts[0]!)], 'nf4'),
      /expected a multiple of 16384 elements before another matrix, but got shape \[5,256\]/,
    )
  }))

// ---- errors ----

test('what cannot be done with a quantised weight is an error that says so', () =>
  scope(() => {
    const w = upload(matrix(8, 64, 'float32'))
    for (const dtype of both) {
      const q = quantize(w, dtype)
      const fails = (f: () => unknown, message: RegExp): void => assert.throws(f, message)
      fails(() => q.requireGrad('q'), /q: expected dtype float32, but got (")?(int8|nf4)/)
      fails(() => reshape(q, [64, 8]), /whole rows of a matrix/)
      fails(() => linear(full([2, 8], 1), permute(q, [1, 0])), /whole rows of a matrix/)
      fails(() => cast(q, 'float32'), /dequantize\(\) gives the numbers/)
      fails(() => copy(q), /dequantize\(\) gives the numbers/)
      fails(() => embedding(tensor(Int32Array.of(1), [1], 'int32'), q), /table: expected float32, bfloat16 or float16/)
      fails(
        () => sourceAttention(full([1, 2, 8], 1), full([1, 3, 64], 1), q, q, { heads: 1 }),
        /wk: expected dtype float32, bfloat16/,
      )
      fails(() => quantize(q, dtype), /expected dtype float32, bfloat16 or float16/)
      fails(() => native().upload(new Uint8Array(3), [8, 64], dtype), /expected \d+ bytes/)
      fails(() => native().create([8, 8, 8], dtype), /expected 2 dimensions/)
      fails(() => tensor(new Uint8Array(8), [8], dtype), /quantize\(\)/)
    }
    fails2(() => quantize(w, 'int4' as 'int8'), /expected dtype int8 or nf4, but got "int4"/)
    fails2(() => quantize([], 'int8'), /a weight or several/)
    fails2(() => quantize(full([8, 64], 1).requireGrad('w'), 'int8'), /a frozen weight, but got "?w that requires/)
    fails2(() => quantize([w, full([8, 32], 1)], 'int8'), /matrices of 64 columns/)
    const bytes = Uint8Array.from(quantize(w, 'int8').dataBlocking() as Uint8Array)
    const columns = 512 + 64
    bytes[columns + 1] = 1
    fails2(() => native().upload(bytes, [8, 64], 'int8'), /columns of a matrix in ascending order/)
  }))
const fails2 = (f: () => unknown, message: RegExp): void => assert.throws(f, message)

// ---- memory ----

test('it takes its bits and its scales, and is never unpacked as a whole', async () => {
  const [n, k] = [1024, 1024]
  const w = full([n, k], 0.5)
  for (const dtype of both) {
    await settled()
    const before = memory()
    const q: Tensor = quantize(w, dtype)
    await sync()
    const bytes = memory().bytes - before.bytes
    assert.is(bytes, dtype === 'int8' ? n * k + n * 4 + 64 + n * 8 * 2 : (n * k) / 2 + (n * k) / 64 + 64 * 8 + 1088)
    for (const shape of [
      [n, k],
      [1, 1],
      [3, 130],
      [7, 1000],
    ])
      assert.is(quantize(full(shape, 1), dtype).dataBlocking().byteLength, bytesOf(dtype, shape), `${dtype} ${shape}`)
    scope(() => backward(linear(full([9, k], 1).requireGrad(), q), full([9, n], 1)))
    await sync()
    assert.is(memory().packed, before.packed)
    q.dispose()
  }
  w.dispose()
})

test.run()
