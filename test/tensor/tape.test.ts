// The tape: who needs a gradient, in which order contributions are summed, and what computing a part again may not change.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { full } from '../../lib/ops/copy.js'
import { add, gelu, multiply, scale } from '../../lib/ops/elementwise.js'
import { linear } from '../../lib/ops/linear.js'
import { layerNorm } from '../../lib/ops/layernorm.js'
import { Random } from '../../lib/ops/random.js'
import { sumDim } from '../../lib/ops/reduce.js'
import { concat, expand, narrow, permute, reshape, split } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward, noGrad, recompute, record, recordAll } from '../../lib/tensor/tape.js'
import { memory, resetPeak, sync } from '../../lib/tensor/runtime.js'
import { empty, tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { settled } from '../support/memory.js'

const values = async (t: Tensor | undefined): Promise<number[]> => Array.from((await t!.data()) as Float32Array)
const total = (t: Tensor): Tensor => sumDim(reshape(t, [-1]), 0)

/** Runs a test in a scope; gradients of leaves are freed as well, and memory is back where it was. */
function tested(name: string, f: (leaf: (data: number[], shape?: number[]) => Tensor) => Promise<void>): void {
  test(name, async () => {
    await settled()
    const before = memory().tensors
    const leaves: Tensor[] = []
    await scope(() =>
      f((data, shape) => {
        const t = tensor(data, shape).requireGrad()
        leaves.push(t)
        return t
      }),
    )
    for (const t of leaves) t.grad?.dispose()
    await sync()
    assert.is(memory().tensors, before)
  })
}

tested('gradients add up over uses, and over calls', async (leaf) => {
  const [x, y] = [leaf([2, 3]), leaf([5, 7])]
  const loss = total(add(multiply(x, y), x, 2))
  backward(loss)
  assert.equal(await values(x.grad), [5 + 2, 7 + 2])
  assert.equal(await values(y.grad), [2, 3])
  backward(loss)
  assert.equal(await values(x.grad), [14, 18])
  x.grad!.dispose()
  x.grad = undefined
  backward(loss)
  assert.equal(await values(x.grad), [7, 9])
})

tested('frozen inputs: `needs` is false, no gradient is made, and without any nothing is recorded', async (leaf) => {
  const [x, w] = [leaf([1, 2]), tensor([3, 4])]
  const seen: boolean[][] = []
  const y = record('test', multiply(tensor([1, 1]), w), [x, w], (dy, needs) => (seen.push(needs), [dy, dy]))
  backward(total(y))
  assert.equal(seen, [[true, false]])
  assert.is(w.grad, undefined)
  const frozen = scale(multiply(w, w), 2)
  assert.is(frozen.node, undefined)
  assert.not(frozen.requiresGrad)
  assert.throws(() => backward(total(frozen)), /^backward: expected a loss that depends on a parameter/)
  assert.throws(
    () => backward(scale(x, 2)),
    /^backward: expected a loss of one number, but got "shape \[2\]"; give the gradient of its elements as seed\.$/,
  )
})

tested('noGrad records nothing, also across awaits, and ends with its function', async (leaf) => {
  const x = leaf([1, 2])
  const y = await noGrad(async () => {
    await sync()
    return scale(x, 2)
  })
  assert.not(y.requiresGrad)
  assert.ok(scale(x, 2).requiresGrad)
})

tested('contributions are summed in the order of the records, last first: the same bits every time', async (leaf) => {
  // In float32 (big + 1) − big and (big − big) + 1 differ: the order shows.
  const x = leaf([1])
  const terms = [1, 1e8, -1e8]
  const parts = terms.map((c) => scale(x, c))
  // Used in another order than made: the order of making counts.
  backward(total(add(add(parts[1]!, parts[0]!), parts[2]!)))
  const f = Math.fround
  assert.equal(await values(x.grad), [f(f(terms[2]! + terms[1]!) + terms[0]!)])
})

tested('a seed, and gradients of tensors inside the graph', async (leaf) => {
  const x = leaf([1, 2])
  const h = scale(x, 3)
  const y = multiply(h, h)
  const unused = scale(x, 9)
  const [dh, dy, none] = backward(y, tensor([1, 10]), [h, y, unused])
  assert.equal(await values(dh), [6, 120])
  assert.equal(await values(dy), [1, 10])
  assert.equal(await values(none), [0, 0])
  assert.equal(await values(x.grad), [18, 360])
})

tested('an output without a gradient counts as zeros; a leaf may be the loss', async (leaf) => {
  const x = leaf([1, 2, 3, 4])
  const [a] = split(x, [1, 3], 0)
  backward(scale(a!, 5))
  assert.equal(await values(x.grad), [5, 0, 0, 0])
  const y = leaf([3])
  backward(y)
  assert.equal(await values(y.grad), [1])
  const got: (number[] | undefined)[] = []
  const z = leaf([1])
  const [p, q] = recordAll(
    'test',
    [full([2], 1), full([3], 1)],
    [z],
    (dys) => (got.push(...dys.map((d) => [...d.shape])), [full([1], 0)]),
  )
  assert.ok(q!.requiresGrad)
  backward(total(p!))
  assert.equal(got, [[2], [3]])
})

tested('through views: narrow, permute, reshape, expand, concat', async (leaf) => {
  const x = leaf([1, 2, 3, 4, 5, 6], [2, 3])
  const weights = tensor([1, 10, 100, 1000, 10000, 100000], [3, 2])
  backward(total(multiply(permute(x, [1, 0]), weights)))
  assert.equal(await values(x.grad), [1, 100, 10000, 10, 1000, 100000])
  x.grad!.dispose()
  x.grad = undefined
  const y = concat([narrow(x, 1, 1, 2), reshape(narrow(x, 1, 0, 1), [2, 1])], 1)
  backward(y, tensor([1, 2, 3, 4, 5, 6], [2, 3]))
  assert.equal(await values(x.grad), [3, 1, 2, 6, 4, 5])
  const z = leaf([1, 2], [1, 2])
  backward(total(expand(z, [4, 3, 2])))
  assert.equal(await values(z.grad), [12, 12])
})

const random = new Random(3)
const block =
  (w: Tensor, g: Tensor, b: Tensor) =>
  (x: Tensor): Tensor =>
    gelu(linear(layerNorm(x, g, b, 1e-5), w))

test('a part that is computed again gives the same result and the same gradients to the bit, of inputs and of what it uses besides, for less memory', async () => {
  const leaves = [random.normal([64, 128]), random.normal([128, 128], 0, 0.1), full([128], 1), full([128], 0)].map(
    (t) => t.requireGrad(),
  )
  const [x, w, g, b] = leaves as [Tensor, Tensor, Tensor, Tensor]
  const run = async (wrap: (f: (x: Tensor) => Tensor, x: Tensor) => Tensor): Promise<[string[], number]> => {
    const base = await settled()
    resetPeak()
    await scope(async () => {
      let h = x
      for (let i = 0; i < 8; i++) h = wrap(block(w, g, b), h)
      backward(total(h))
      await sync()
    })
    const peak = memory().peak - base
    const bits = await Promise.all(
      leaves.map(async (t) => Buffer.from((await t.grad!.data()).buffer).toString('base64')),
    )
    for (const t of leaves) {
      t.grad!.dispose()
      t.grad = undefined
    }
    await sync()
    assert.is(memory().bytes, base)
    return [bits, peak]
  }
  const [plain, more] = await run((f, h) => f(h))
  const [again, less] = await run((f, h) => recompute(f, [h]))
  assert.equal(again, plain)
  assert.ok(less < 0.7 * more, `${less} of ${more} bytes`)
  for (const t of leaves) t.dispose()
})

tested('recompute: frozen inputs, several inputs, one that returns its input, none under noGrad', async (leaf) => {
  const [x, y, frozen] = [leaf([1, 2]), leaf([3, 4]), tensor([5, 6])]
  backward(total(recompute((a, b, c) => multiply(multiply(a!, b!), c!), [x, frozen, y])))
  assert.equal(await values(x.grad), [15, 24])
  assert.equal(await values(y.grad), [5, 12])
  assert.is(frozen.grad, undefined)
  const z = leaf([7, 8])
  backward(
    total(
      scale(
        recompute((a) => a, [z]),
        2,
      ),
    ),
  )
  assert.equal(await values(z.grad), [2, 2])
  assert.is(z.node, undefined)
  assert.not(noGrad(() => recompute((a) => scale(a!, 2), [z])).requiresGrad)
  backward(total(recompute((a) => recompute((c) => scale(c, 3), [scale(a, 2)]), [z])))
  assert.equal(await values(z.grad), [8, 8])
})

tested('a gradient of another shape or dtype than its input is an error that names the operator', async (leaf) => {
  const x = leaf([1, 2])
  const made = (g: () => Tensor): Tensor =>
    record('twist', full([2], 0), [tensor([1]), scale(x, 2)], () => [undefined, g()])
  const fails = (g: () => Tensor, got: RegExp): void => assert.throws(() => backward(total(made(g))), got)
  const expected = String.raw`The backward of twist is wrong: as gradient of input 1 expected float32 \[2\], but got `
  fails(() => full([1, 2], 1), new RegExp(`${expected}float32 \\[1,2\\]`))
  fails(() => full([3], 1), new RegExp(`${expected}float32 \\[3\\]`))
  fails(() => full([2], 1, 'bfloat16'), new RegExp(`${expected}bfloat16 \\[2\\]`))
  assert.is(x.grad, undefined)
  backward(total(made(() => full([2], 3))))
  assert.equal(await values(x.grad), [6, 6])
  assert.is(scale(x, 2).node!.operator, 'scale')
})

tested('an error in a backward leaves nothing behind', async (leaf) => {
  const x = leaf([1])
  const y = record('test', empty([1]), [scale(x, 2)], () => {
    throw new Error('backward failed')
  })
  assert.throws(() => backward(y), /backward failed/)
  backward(scale(x, 2))
  assert.equal(await values(x.grad), [2])
})

test.run()
