/**
 * The smallest operator cases on the device, forward and backward, float32 and bfloat16: the input of
 * compute-sanitizer.
 */
import { scope } from '../../lib/tensor/scope.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { cases } from '../../test/ops/cases.js'
import { bits, canBeNarrow, evaluate, type OpCase } from '../../test/ops/support.js'
import { gpu, quick } from './record.js'

const { device } = gpu()
const weight = (c: OpCase): number => Object.values(c.inputs()).reduce((n, x) => n + x.data.length, 0)
/** Of each operator the cases whose sizes are odd, of a few hundred to a few thousand numbers. */
const chosen = [...new Set(cases.map((c) => c.operator))].flatMap((operator) => {
  const all = cases
    .filter((c) => c.operator === operator)
    .map((c) => ({ c, n: weight(c) }))
    .filter(({ n }) => n > 30 && n < 9000)
    .sort((a, b) => a.n - b.n)
  const count = quick ? 1 : /attention|linear|lora/.test(operator) ? 6 : 2
  return Array.from(
    { length: Math.min(count, all.length) },
    (_, i) => all[Math.floor(((i + 1) * all.length) / (count + 1))]!.c,
  )
})
let runs = 0
for (const c of chosen)
  for (const narrow of [false, true]) {
    if (narrow && !canBeNarrow(c)) continue
    scope(() => void bits(evaluate(c, { device, narrow })))
    if (++runs % 10 === 0) console.log(`${runs} runs so far`)
  }
syncBlocking()
console.log(`${runs} runs of ${chosen.length} cases are done`)
