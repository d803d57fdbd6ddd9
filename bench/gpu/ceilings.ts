/** Stage `ceilings`: what this device reaches at best, measured in this run: copies, a large product, nodes of a graph. */
import { native } from '../../lib/native.js'
import { scope } from '../../lib/tensor/scope.js'
import { empty, type DType } from '../../lib/tensor/tensor.js'
import { Inputs } from './inputs.js'
import { attempt, gpu, quick, type Row, save } from './record.js'
import { timeGraph } from './timing.js'

const { device, emulated } = gpu()
const { ops } = native()
const rows: Row[] = []
const measured = (id: string, unit: string, f: (inputs: Inputs) => { value: number; [key: string]: unknown }): void => {
  const inputs = new Inputs(id, device)
  rows.push(scope(() => attempt(id, () => ({ unit, ...f(inputs) }))))
  inputs.dispose()
  save({ emulated, rows })
}
const filled = (n: number, dtype: DType) => {
  const t = empty([n], dtype, device)
  ops.fill(0, t.handle)
  return t
}

for (const [what, bytes] of [['1 GiB', 2 ** 30], ['12 MB', 12e6]] as const)
  measured(what === '1 GiB' ? `copy of ${what}` : `small copy, ${what}`, 'GB/s', () => {
    const n = quick ? 1024 : bytes / 4
    const pairs = Array.from({ length: what === '1 GiB' ? 2 : 12 }, () => [filled(n, 'float32'), filled(n, 'float32')] as const)
    const us = timeGraph(device, pairs.map(([x, y]) => () => ops.copy(x.handle, y.handle)))
    return { us, value: (8 * n) / us.median / 1e3 }
  })
measured('product of 8192³, own kernels', 'TFLOP/s', (inputs) => {
  const n = quick ? 32 : 8192
  const [x, w, y] = [inputs.normal('x', [n, n]), inputs.normal('w', [n, n], 1 / Math.sqrt(n)), inputs.output('y', [n, n])]
  const us = timeGraph(device, [() => ops.gemm_forward(x.handle, w.handle, null, y.handle)])
  return { us, value: (2 * n ** 3) / us.median / 1e6 }
})
measured('node of a graph', 'µs', () => {
  const y = filled(1, 'float32')
  const us = timeGraph(device, Array.from({ length: quick ? 10 : 1000 }, () => () => ops.fill(0, y.handle)))
  return { us, value: us.median }
})
const failed = rows.find((r) => r.status === 'failed')
console.log(failed ? `${failed.id}: ${failed.reason}` : rows.map((r) => `${r.id} ${Number(r.value).toPrecision(3)} ${r.unit}`).join(' · '))
process.exit(failed ? 1 : 0)
