/** Stage `ceilings`: the peak rates of this device, measured in this run: copies, a large product, nodes of a graph. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { native } from '../../lib/native.js'
import { scope } from '../../lib/tensor/scope.js'
import { empty, type Tensor } from '../../lib/tensor/tensor.js'
import type { DType } from '../../lib/tensor/dtype.js'
import { temporaryFolder } from '../../test/support/tiny.js'
import { reasonOf, start } from './child.mjs'
import { Inputs } from './inputs.js'
import { deadline, gpu, option, quick, type Row, save } from './record.js'
import { type Times, timeGraph } from './timing.js'
import { finish, type Job, measure, type Worker } from './workers.js'

interface Ceiling extends Job {
  unit: string
  run: (inputs: Inputs) => { us: Times; value: number }
}

const filled = (n: number, dtype: DType, { device }: Inputs): Tensor => {
  const t = empty([n], dtype, device)
  native().ops.fill(0, t.handle)
  return t
}
const copies = (
  [
    ['copy', quick ? 4096 : 2 ** 30, 2],
    ['small copy', quick ? 4096 : 12e6, 12],
  ] as const
).map(
  ([name, bytes, pairs]): Ceiling => ({
    id: `${name} of ${bytes} bytes`,
    unit: 'GB/s',
    run: (inputs) => {
      const buffers = Array.from(
        { length: pairs },
        () => [filled(bytes / 4, 'float32', inputs), filled(bytes / 4, 'float32', inputs)] as const,
      )
      const us = timeGraph(
        inputs.device,
        buffers.map(
          ([x, y]) =>
            () =>
              native().ops.copy(x.handle, y.handle),
        ),
      )
      return { us, value: (2 * bytes) / us.median / 1e3 }
    },
  }),
)
const n = quick ? 32 : 8192
const product = (gemm: 'own' | 'cublaslt'): Ceiling => ({
  id: `product of ${n}³`,
  unit: 'TFLOP/s',
  gemm,
  run: (inputs) => {
    const [x, w, y] = [
      inputs.normal('x', [n, n]),
      inputs.normal('w', [n, n], 1 / Math.sqrt(n)),
      inputs.output('y', [n, n]),
    ]
    const us = timeGraph(inputs.device, [() => native().ops.linear_forward(x.handle, w.handle, null, null, y.handle)])
    return { us, value: (2 * n ** 3) / us.median / 1e6 }
  },
})
const node: Ceiling = {
  id: 'node of a graph',
  unit: 'µs',
  run: (inputs) => {
    const y = filled(1, 'float32', inputs)
    const us = timeGraph(
      inputs.device,
      Array.from({ length: quick ? 10 : 1000 }, () => () => native().ops.fill(0, y.handle)),
    )
    return { us, value: us.median }
  },
}

function open(): Worker<Ceiling> {
  const { device, emulated } = gpu()
  const run = ({ id, unit, run }: Ceiling): object => {
    const inputs = new Inputs(id, device)
    try {
      return { unit, ...scope(() => run(inputs)) }
    } finally {
      inputs.dispose()
    }
  }
  return { device, facts: { emulated }, run }
}

/**
 * PyTorch's rates count as well: the ceiling is the device's. PyTorch is imported in the background and waits for a
 * line.
 */
function torch(): () => Promise<Row[]> {
  const to = join(temporaryFolder('ceilings'), 'rows.json')
  const { CUDA_MODULE_LOADING: _, ...env } = process.env
  const { child, kill } = start(
    option('python') ?? 'python3',
    ['bench/peers/run.py', '--only', 'ceilings', '--wait', '--to', to, ...(quick ? ['--quick'] : [])],
    { env, stdio: ['pipe', 'pipe', 'pipe'] },
  )
  let [out, ended] = ['', false]
  for (const stream of [child.stdout, child.stderr])
    stream!.setEncoding('utf8').on('data', (data) => {
      out += data
    })
  child.stdin!.on('error', () => {}) // it may have ended
  const end = new Promise<number | null>((resolve) => {
    child.on('error', (error) => ((out += error.message), resolve(null)))
    child.on('close', resolve)
  }).finally(() => (ended = true))
  return async () => {
    child.stdin!.end('\n')
    const timer = setTimeout(kill, Math.min(2 ** 31 - 1, Math.max(1000, deadline - Date.now() + 4000)))
    const status = await end
    clearTimeout(timer)
    if (status === 0)
      return (JSON.parse(readFileSync(to, 'utf8')) as { rows: Row[] }).rows.map((r) => ({
        ...r,
        id: `${r.item}, torch`,
      }))
    return [
      {
        id: `product of ${n}³, torch`,
        status: 'unavailable',
        reason:
          ended && status !== null
            ? reasonOf(out)
            : `no time was left: ${reasonOf(out) || 'PyTorch was still being imported'}`,
      },
    ]
  }
}

const worker = process.argv.includes('--worker')
const peers = worker ? undefined : torch()
const facts = {}
const rows = await measure({
  url: import.meta.url,
  jobs: [...copies, node, product('own'), product('cublaslt')],
  open,
  facts,
})
rows.push(...(await peers!()))
save({ ...facts, rows })
finish(
  rows,
  rows
    .filter((r) => r.status === 'ok')
    .map((r) => `${r.id}${r.gemm ? ` ${r.gemm}` : ''} ${Number(r.value).toPrecision(3)} ${r.unit}`)
    .join(' · '),
)
