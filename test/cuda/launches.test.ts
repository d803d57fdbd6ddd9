// How many kernels an operator launches, counted by the null device at full sizes.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { emulated, lines } from './emulated.js'

const test = emulated ? plain : plain.skip
if (!emulated) console.error('test/cuda/launches: skipped, since build-emulated is not built')

/** Launches by source file, of the forward pass and of the backward pass of what `code` returns. */
async function launches(code: string): Promise<Record<string, number>[]> {
  const out = await lines(
    `
    const on = (shape, dtype = 'float32') => m.full(shape, 1, dtype, 'cuda:0')
    const counts = () => { m.syncBlocking(); return m.native().devices().counts }
    const since = (before) => Object.fromEntries(Object.entries(counts()).filter(([k, n]) => /\\.(cu|h)$/.test(k) && n > (before[k] ?? 0)).map(([k, n]) => [k, n - (before[k] ?? 0)]))
    const prepare = () => {${code}}
    const { forward, dy } = prepare()
    let before = counts()
    const y = forward()
    console.log(JSON.stringify(since(before)))
    before = counts()
    m.backward(y, dy)
    console.log(JSON.stringify(since(before)))`,
    'null',
  )
  return out.map((l) => JSON.parse(l) as Record<string, number>)
}

test('a router: one forward, one backward', async () => {
  const seen = await launches(`
    const x = m.cast(on([4, 8, 32, 768]).requireGrad(), 'bfloat16')
    const weights = { w1: on([64, 768]).requireGrad(), b1: on([64]).requireGrad(), w2: on([4, 64]).requireGrad(), b2: on([4]).requireGrad() }
    return { forward: () => m.router(x, weights, 2), dy: on([4, 8, 4]) }`)
  assert.equal(
    seen.map((s) => s['ops/router.cu']),
    [1, 1],
  )
})

test('gradients of LoRA’s A and B: one launch, whose last blocks add the pieces, and none that rounds A or B', async () => {
  const [, backward] = await launches(`
    const x = m.cast(on([4, 8, 160, 768]).requireGrad(), 'bfloat16')
    const [w, a, b] = [on([768, 768], 'bfloat16'), on([16, 768]).requireGrad(), on([768, 16]).requireGrad()]
    return { forward: () => m.lora(x, w, undefined, a, b, 1), dy: on([4, 8, 160, 768], 'bfloat16') }`)
  assert.equal([backward!['ops/lora.cu'], backward!['kernels/cuda/matmul.cu']], [1, undefined])
})

plain.run()
