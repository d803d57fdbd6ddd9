// Who computes matrix products: MT_GEMM. cuBLASLt: cublaslt.test.ts.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { emulated, lines } from './emulated.js'

const test = emulated ? plain : plain.skip
if (!emulated)
  console.error(
    'test/cuda/products: skipped, since build-emulated is not built (node scripts/build.mjs --cuda=emulated)',
  )

for (const [value, answer] of [
  ['own', '5,11'],
  ['', '5,11'],
  ['mkl', 'readBlocking: gemm_forward: MT_GEMM: expected own or cublaslt, but got "mkl".'],
] as const)
  test(`MT_GEMM=${value}: ${answer}`, async () => {
    const out = await lines(
      `
      const { tensor, linear } = m
      const on = (data, shape) => tensor(data, shape, undefined, 'cuda:0')
      const y = linear(on([1, 2], [1, 2]), on([1, 2, 3, 4], [2, 2]))
      try { console.log(y.dataBlocking().join()) } catch (e) { console.log(e.message) }`,
      '',
      { MT_GEMM: value },
    )
    assert.equal(out, [answer])
  })

test('factors that are rounded and padded once, before their tiles are read, change no bit', async () => {
  const [same, padded, launched, plain] = await lines(
    `
    const { tensor, linear, cast, syncBlocking } = m
    const { narrow } = await import('${new URL('../../lib/ops/views.ts', import.meta.url).href}')
    const numbers = (...shape) => tensor(Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => Math.sin(i * i)), shape, undefined, 'cuda:0')
    const bits = (t) => Buffer.from(new Uint8Array(t.dataBlocking().buffer)).toString('base64')
    const [x, w] = [cast(numbers(129, 1024), 'bfloat16'), numbers(256, 1024)]
    const rounded = cast(w, 'bfloat16')
    console.log(bits(linear(x, w)) === bits(linear(x, rounded)))
    // 1020 columns, and the same with zeros behind them.
    const zeros = (t) => { const y = cast(t, 'float32').dataBlocking().map((v, i) => (i % 1024 < 1020 ? v : 0)); return cast(tensor(y, t.shape, undefined, 'cuda:0'), 'bfloat16') }
    console.log(bits(linear(narrow(x, 1, 0, 1020), narrow(rounded, 1, 0, 1020))) === bits(linear(zeros(x), zeros(rounded))))
    const count = (f) => { syncBlocking(); const before = m.native().devices().counts.launches; f(); syncBlocking(); return m.native().devices().counts.launches - before }
    console.log(count(() => linear(x, w)))
    console.log(count(() => linear(x, rounded)))`,
    '',
    { MT_GEMM: 'own' },
  )
  assert.equal([same, padded], ['true', 'true'])
  assert.is(Number(launched), Number(plain) + 1)
})

plain.run()
