/** Stage `ceilings`: what this device reaches at best, measured in this run: copies, a large product, nodes of a graph. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { native } from '../../lib/native.js'
import { scope } from '../../lib/tensor/scope.js'
import { empty, type DType } from '../../lib/tensor/tensor.js'
import { Inputs } from './inputs.js'
import { temporaryFolder } from '../../test/support/tiny.js'
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

for (const [name, bytes, pairs] of [['copy', quick ? 4096 : 2 ** 30, 2], ['small copy', quick ? 4096 : 12e6, 12]] as const)
  measured(`${name} of ${bytes} bytes`, 'GB/s', () => {
    const buffers = Array.from({ length: pairs }, () => [filled(bytes / 4, 'float32'), filled(bytes / 4, 'float32')] as const)
    const us = timeGraph(device, buffers.map(([x, y]) => () => ops.copy(x.handle, y.handle)))
    return { us, value: (2 * bytes) / us.median / 1e3 }
  })
const n = quick ? 32 : 8192
measured(`product of ${n}³, own kernels`, 'TFLOP/s', (inputs) => {
  const [x, w, y] = [inputs.normal('x', [n, n]), inputs.normal('w', [n, n], 1 / Math.sqrt(n)), inputs.output('y', [n, n])]
  const us = timeGraph(device, [() => ops.gemm_forward(x.handle, w.handle, null, null, y.handle)])
  return { us, value: (2 * n ** 3) / us.median / 1e6 }
})
measured('node of a graph', 'µs', () => {
  const y = filled(1, 'float32')
  const us = timeGraph(device, Array.from({ length: quick ? 10 : 1000 }, () => () => ops.fill(0, y.handle)))
  return { us, value: us.median }
})
// What cuBLAS reaches counts as well: the ceiling is the device's, not ours.
if (!emulated) rows.push(...peers())
save({ emulated, rows })

function peers(): Row[] {
  const to = join(temporaryFolder('ceilings'), 'rows.json')
  const python = fileURLToPath(new URL('../peers/run.py', import.meta.url))
  const { status, stdout, error } = spawnSync('python3', [python, '--only', 'ceilings', '--to', to, ...(quick ? ['--quick'] : [])], { encoding: 'utf8', timeout: 25_000 })
  if (status === 0) return (JSON.parse(readFileSync(to, 'utf8')) as { rows: Row[] }).rows.map((r) => ({ ...r, id: `${r.item}, torch` }))
  return [{ id: 'product, torch', status: 'unavailable', reason: stdout?.trim().split('\n').at(-1) || error?.message || `ended with ${status}` }]
}

const failed = rows.find((r) => r.status === 'failed')
console.log(failed ? `${failed.id}: ${failed.reason}` : rows.filter((r) => r.status === 'ok').map((r) => `${r.id} ${Number(r.value).toPrecision(3)} ${r.unit}`).join(' · '))
process.exit(failed ? 1 : 0)
