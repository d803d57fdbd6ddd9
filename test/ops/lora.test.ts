// LoRA: golden files, central differences, what is frozen. All shapes, dtypes and instruction sets: linear.test.ts.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { linear } from '../../lib/ops/linear.js'
import { lora } from '../../lib/ops/lora.js'
import { backward, noGrad } from '../../lib/tensor/tape.js'
import { empty } from '../../lib/tensor/tensor.js'
import { array, dot } from '../oracle/array.js'
import { directional } from '../oracle/differences.js'
import * as oracle from '../oracle/ops.js'
import { readSafetensors } from '../oracle/safetensors.js'
import { error, normal, upload } from './products.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const golden = process.env['MT_GOLDEN'] ?? join(root, '..', 'shared', 'golden')

for (const name of ['op_lora_48_33', 'op_lora_32_48']) {
  const path = join(golden, 'cases', `${name}.safetensors`)
  const check = existsSync(path) ? test : test.skip
  check(`golden ${name}`, () => {
    const { tensors, metadata } = readSafetensors(path)
    const { alpha, r } = JSON.parse(metadata['config']!) as { alpha: number; r: number }
    const [x, w, bias, a, b, dy] = ['x', 'W', 'b', 'lora_A', 'lora_B', 'dy'].map((n) => upload(tensors.get(`in.${n}`)!))
    for (const t of [x, a, b]) t!.requireGrad()
    const y = lora(x!, w!, bias, a!, b!, alpha / r)
    backward(y, dy)
    assert.ok(error(y, tensors.get('y')!) < 1e-6)
    assert.ok(error(x!.grad!, tensors.get('dx')!) < 1e-6)
    assert.ok(error(a!.grad!, tensors.get('dA')!) < 1e-6)
    assert.ok(error(b!.grad!, tensors.get('dB')!) < 1e-6)
  })
}

test('gradients have the slope of central differences', () => {
  const [x, w, bias, a, b, dy] = [
    normal([2, 9, 23]),
    normal([18, 23]),
    normal([18]),
    normal([5, 23]),
    normal([18, 5]),
    normal([2, 9, 18]),
  ] as const
  const t = [x, a, b].map((v) => upload(v).requireGrad())
  const y = lora(t[0]!, upload(w), upload(bias), t[1]!, t[2]!, 0.6)
  assert.ok(error(y, oracle.lora(x, w, bias, a, b, 3)) < 1e-6)
  backward(y, upload(dy))
  const value = [
    (v: Float64Array) => oracle.lora(array(x.shape, v), w, bias, a, b, 3),
    (v: Float64Array) => oracle.lora(x, w, bias, array(a.shape, v), b, 3),
    (v: Float64Array) => oracle.lora(x, w, bias, a, array(b.shape, v), 3),
  ]
  for (const [i, p] of [x, a, b].entries()) {
    const direction = normal(p.shape).data
    const slope = directional((v) => dot(value[i]!(v).data, dy.data), p.data, direction)
    assert.ok(Math.abs(dot(t[i]!.grad!.dataBlocking() as Float32Array, direction) - slope) < 1e-4 * Math.abs(slope))
  }
})

test('with B = 0 it is the linear layer to the bit', () => {
  const [x, w, bias, a] = [normal([40, 64]), normal([70, 64]), normal([70]), normal([16, 64])].map(upload)
  const y = lora(x!, w!, bias, a!, upload(array([70, 16])), 1)
  assert.equal(y.dataBlocking(), linear(x!, w!, bias).dataBlocking())
})

test('x needs no gradient in the first layer; without gradients nothing is recorded', () => {
  const [x, w, a, b] = [
    upload(normal([4, 8])),
    upload(normal([6, 8])),
    upload(normal([2, 8])).requireGrad(),
    upload(normal([6, 2])).requireGrad(),
  ]
  const y = lora(x, w, undefined, a, b, 1)
  backward(y, y.detach())
  assert.ok(a.grad && b.grad && !x.grad)
  assert.not.ok(noGrad(() => lora(x, w, undefined, a, b, 1)).requiresGrad)
})

test('refusals', () => {
  const [x, w, a, b] = [empty([4, 8]), empty([6, 8]), empty([2, 8]), empty([6, 2])]
  assert.throws(
    () => lora(x, empty([6, 8]).requireGrad(), undefined, a, b, 1),
    /lora: expected a frozen weight and bias/,
  )
  assert.throws(
    () => lora(x, w, undefined, empty([2, 7]), b, 1),
    /lora_forward: a: expected shape \[2,8\], but got \[2,7\]/,
  )
  assert.throws(() => lora(x, w, undefined, a, empty([6, 3]), 1), /b: expected shape \[6,2\], but got \[6,3\]/)
})

test.run()
