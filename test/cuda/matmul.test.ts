// Matrix products by the project's own kernels, and the values of MT_GEMM. For cuBLASLt see cublaslt.test.ts.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { prelude } from '../native/child.js'
import { emulated, lines } from './emulated.js'

const test = emulated ? plain : plain.skip
if (!emulated)
  console.error('test/cuda/matmul: skipped, since build-emulated is not built (node scripts/build.mjs --cuda=emulated)')

for (const [value, answer] of [
  ['own', '5,11'],
  ['', '5,11'],
  ['mkl', 'readBlocking: linear_forward: MT_GEMM: expected own or cublaslt, but got "mkl".'],
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

/** Products that are cut into pieces, in all forms and with all terms that follow a sum; bits as base64 texts. */
const split = `
  const { tensor, linear, lora, cast, backward, scope } = m
  const numbers = (dtype, ...shape) => cast(tensor(Float32Array.from({ length: shape[0] * (shape[1] ?? 1) }, (_, i) => Math.sin(i * i) * 1.5 ** (i % 7)), shape, undefined, 'cuda:0'), dtype)
  const bits = (t) => Buffer.from(new Uint8Array(t.dataBlocking().buffer)).toString('base64')
  const sizes = [[40, 2048, 24], [70, 1542, 15], [16, 2048, 40]]
  const all = () => sizes.flatMap(([rows, inner, cols]) => ['float32', 'bfloat16'].flatMap((dtype) => {
    const trained = (...shape) => numbers('float32', ...shape).requireGrad()
    const [x, w, a, b, v] = [trained(rows, inner), trained(cols, inner), trained(4, inner), trained(cols, 4), trained(24, cols)]
    const [bias, residual, long, dv] = [numbers('float32', cols), numbers(dtype, rows, cols), numbers(dtype, inner, cols), numbers(dtype, inner, 24)]
    const y = linear(cast(x, dtype), cast(w, dtype), bias, { residual })
    backward(y, residual)
    const z = lora(cast(x, dtype), numbers(dtype, cols, inner), bias, a, b, 0.5)
    backward(z, residual)
    backward(linear(long, v), dv)
    return [y, z, x.grad, w.grad, a.grad, b.grad, v.grad]
  }))
`

test('pieces of a product: the same bits in every order of blocks, at once and late, and one launch', async () => {
  const code = `${split}
    console.log(scope(() => all().map(bits)).join())
    console.log(scope(() => all().map(bits)).join())
    const count = (f) => { m.syncBlocking(); const before = m.native().devices().counts; f(); m.syncBlocking(); const after = m.native().devices().counts; return [after.launches - before.launches, after.mallocs - before.mallocs] }
    const [x, w] = [numbers('bfloat16', 40, 2048), numbers('bfloat16', 24, 2048)]
    console.log(scope(() => count(() => linear(x, w))).join())`
  const [bits, again, counted] = await lines(code, '', { MT_GEMM: 'own' })
  assert.not.match(Buffer.from(bits!.slice(0, bits!.indexOf(',')), 'base64').toString('hex'), /0{32}|f{32}/)
  assert.ok(again === bits, 'a rerun')
  assert.is(counted, '1,2', 'one launch; memory for the result, and for the sums of its pieces')
  for (const modes of ['order=reversed,late', 'order=random:3'])
    assert.ok((await lines(code, modes, { MT_GEMM: 'own' }))[0] === bits, modes)
})

test('pieces of products on two streams at once, and in graphs of both: each gets its own bits', async () => {
  const loader = `(await import(${JSON.stringify(import.meta.resolve('tsx/esm/api'))})).register()\n`
  const work = `const { parentPort } = await import('node:worker_threads')
    ${split}
    const shapes = sizes.map(([rows, inner, cols]) => [numbers('bfloat16', rows, inner), numbers('bfloat16', cols, inner)])
    m.syncBlocking()
    const { graph, result } = m.Graph.capture('cuda:0', () => shapes.map(([x, w]) => m.keep(linear(x, w))))
    const seen = new Set()
    for (let i = 0; i < 3; i++) {
      graph.replay()
      seen.add([...scope(() => shapes.map(([x, w]) => bits(linear(x, w)))), ...result.map(bits)].join())
    }
    parentPort.postMessage([...seen, ...scope(() => all().map(bits))].join())`
  const out = await lines(
    `
    const { Worker } = await import('node:worker_threads')
    const code = ${JSON.stringify(loader + prelude + work)}
    const start = () => new Promise((resolve, reject) => {
      let last
      new Worker(new URL('data:text/javascript,' + encodeURIComponent(code))).on('message', (x) => (last = x)).on('error', reject).on('exit', () => resolve(last))
    })
    const alone = await start()
    const together = await Promise.all([start(), start(), start()])
    const [one, two, three, four, five, six] = alone.split(',')
    console.log([one === four, two === five, three === six, together.every((x) => x === alone)].join())`,
    '',
    { MT_GEMM: 'own' },
  )
  assert.equal(out, ['true,true,true,true'])
})

plain.run()
