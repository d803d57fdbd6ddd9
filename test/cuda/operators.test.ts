// The list of operator cases on a CUDA device, or on the emulator (MT_ADDON names its addon): float32 against float64,
// bfloat16 against the CPU twin's, every layout, reruns to the bit. MT_CASES=TEXT runs the operators whose names hold it.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { devices } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { syncBlocking } from '../../lib/tensor/tensor.js'
import { cases } from '../ops/cases.js'
import { bits, canBeNarrow, errors, evaluate, roundedInputs, widen, type OpCase, type Result } from '../ops/support.js'

const { cuda } = devices()
const device = cuda.devices[0]?.device
const wanted = process.env.MT_CASES ?? ''

/** SPEC §10. `apart`: bfloat16 results of both twins, which round the same sums, in whatever order they were formed. */
const limits = { float32: { forward: 1e-5, gradient: 1e-4 }, bfloat16: { forward: 2e-2, gradient: 5e-2 }, apart: 6e-3 }

const norm = (x: Float64Array): number => Math.hypot(...[Math.sqrt(x.reduce((s, v) => s + v * v, 0))])
const numbers = ({ outputs, gradients }: Result): [string, Float64Array][] => [
  ...outputs.map((t, i): [string, Float64Array] => [`output ${i}`, widen(t.dataBlocking(), t.dtype)]),
  ...Object.entries(gradients).map(([n, t]): [string, Float64Array] => [`gradient of ${n}`, widen(t.dataBlocking(), t.dtype)]),
]

function check(c: OpCase): void {
  const given = c.inputs()
  const result = evaluate(c, { device: device! }, given)
  const { forward, gradients } = errors(c, result, 64, given)
  assert.ok(forward <= limits.float32.forward, `${c.name}: relative error ${forward}`)
  for (const [name, e] of Object.entries(gradients)) assert.ok(e <= (c.narrow ? limits.bfloat16 : limits.float32).gradient, `${c.name}: relative error ${e} in the gradient of ${name}`)
  const expected = bits(result)
  const same = (what: string, again: Buffer[]): void => again.forEach((b, i) => assert.ok(b.equals(expected[i]!), `${c.name}: ${what} changes the bits of result ${i}`))
  same('a rerun', bits(evaluate(c, { device: device! }, given)))
  for (const layout of ['spaced', 'sliced'] as const) same(`inputs that lie ${layout} in memory`, bits(evaluate(c, { layout, device: device! }, given)))
}

/** bfloat16: as near to float64 as SPEC asks, and nearly what the CPU twin makes of the same bits. */
function checkNarrow(c: OpCase): void {
  const given = roundedInputs(c)
  const mine = evaluate(c, { device: device!, narrow: true }, given)
  const theirs = numbers(evaluate(c, { narrow: true }, given))
  const largest = Math.max(...theirs.filter(([n]) => n.startsWith('gradient')).map(([, x]) => norm(x)), 0)
  numbers(mine).forEach(([name, x], i) => {
    const y = theirs[i]![1]
    const size = Math.max(norm(y), name.startsWith('gradient') ? 1e-2 * largest : 0) || 1
    const e = norm(x.map((v, k) => v - y[k]!)) / size
    assert.ok(e <= limits.apart, `${c.name}, bfloat16: ${name} is ${e} from the CPU's`)
  })
  const { forward } = errors({ ...c, differentiable: [] }, { ...mine, gradients: {} }, 64, given)
  assert.ok(forward <= limits.bfloat16.forward, `${c.name}, bfloat16: relative error ${forward}`)
}

if (!device) test.skip(`operators on CUDA: ${cuda.reason}`, () => {})
else
  for (const operator of new Set(cases.map((c) => c.operator))) {
    if (!operator.includes(wanted)) continue
    test(`${operator} on ${device}: values, gradients, layouts, reruns`, () => {
      for (const c of cases) if (c.operator === operator) scope(() => check(c))
      syncBlocking()
    })
    if (!cases.some((c) => c.operator === operator && canBeNarrow(c))) continue
    test(`${operator} on ${device} in bfloat16: the CPU's results`, () => {
      for (const c of cases) if (c.operator === operator && canBeNarrow(c)) scope(() => checkNarrow(c))
      syncBlocking()
    })
  }

test.run()
