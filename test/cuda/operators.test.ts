// The list of operator cases on a CUDA device, or on the emulator (MT_ADDON names its addon): float32 against float64,
// bfloat16 against the CPU twin's, every layout, the same bits on a rerun. MT_CASES=TEXT runs the operators whose names
// contain it.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { devices } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { cases } from '../ops/cases.js'
import { bits, canBeNarrow, errors, evaluate, roundedInputs, type OpCase } from '../ops/support.js'
import { distances, limits } from './compare.js'

const { cuda } = devices()
const device = cuda.devices[0]?.device
const wanted = process.env.MT_CASES ?? ''

function check(c: OpCase): void {
  const given = c.inputs()
  const result = evaluate(c, { device: device! }, given)
  const { forward, gradients } = errors(c, result, 64, given)
  assert.ok(forward <= limits.float32.forward, `${c.name}: relative error ${forward}`)
  for (const [name, e] of Object.entries(gradients))
    assert.ok(
      e <= (c.narrow ? limits.bfloat16 : limits.float32).gradient,
      `${c.name}: relative error ${e} in the gradient of ${name}`,
    )
  const expected = bits(result)
  const same = (what: string, again: Buffer[]): void =>
    again.forEach((b, i) => assert.ok(b.equals(expected[i]!), `${c.name}: ${what} changes the bits of result ${i}`))
  same('a rerun', bits(evaluate(c, { device: device! }, given)))
  for (const layout of ['spaced', 'sliced'] as const)
    same(`inputs that lie ${layout} in memory`, bits(evaluate(c, { layout, device: device! }, given)))
}

/** bfloat16: within the limit of docs/model.md#numerics of float64, and closer to the CPU twin's result for the same bits. */
function checkNarrow(c: OpCase): void {
  const given = roundedInputs(c)
  const mine = evaluate(c, { device: device!, narrow: true }, given)
  // CUDA rounds quantised weights to bfloat16; a CPU without products of bfloat16 does not.
  const quantised = Object.values(given).some(({ dtype }) => dtype === 'int8' || dtype === 'nf4')
  const { forward: first, gradient: second } = limits.bfloat16
  for (const { what, error, gradient } of distances(mine, evaluate(c, { narrow: true }, given), 1e-2))
    assert.ok(
      error <= (!quantised ? limits.apart : gradient ? second : first),
      `${c.name}, bfloat16: ${what} is ${error} from the CPU's`,
    )
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
