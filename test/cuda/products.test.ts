// Who computes matrix products: MT_GEMM. cuBLASLt: cublaslt.test.ts.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { emulated, lines } from './emulated.js'

const test = emulated ? plain : plain.skip
if (!emulated) console.error('test/cuda/products: skipped, since build-emulated is not built (node native/build.mjs --cuda=emulated)')

for (const [value, answer] of [
  ['own', '5,11'],
  ['', '5,11'],
  ['mkl', 'readBlocking: gemm_forward: MT_GEMM: expected own or cublaslt, but got "mkl".'],
] as const)
  test(`MT_GEMM=${value}: ${answer}`, async () => {
    const out = await lines(`
      const { tensor, linear } = m
      const on = (data, shape) => tensor(data, shape, undefined, 'cuda:0')
      const y = linear(on([1, 2], [1, 2]), on([1, 2, 3, 4], [2, 2]))
      try { console.log(y.dataBlocking().join()) } catch (e) { console.log(e.message) }`, '', { MT_GEMM: value })
    assert.equal(out, [answer])
  })

plain.run()
