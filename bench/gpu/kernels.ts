/**
 * Stage `kernels`: the operators of shapes.json, each as replayed graphs over rotated inputs, with warm caches, and
 * launched one by one.
 */
import { readFileSync } from 'node:fs'
import { scope } from '../../lib/tensor/scope.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { Inputs } from './inputs.js'
import { build, type Pass, products } from './operators.js'
import { gpu, type Item, option, quick, type Row, shapes } from './record.js'
import { time, timeGraph } from './timing.js'
import { finish, type Gemm, type Job, measure, type Worker } from './workers.js'
import { widen } from '../../test/ops/support.js'

const ceilings = ceilingsFrom(option('ceilings'))

interface Ceilings {
  copy?: number
  product?: number
  node?: number
}
/** Bytes and operations per microsecond, and the microseconds of a node that does nothing. */
function ceilingsFrom(path: string | undefined): Ceilings {
  try {
    const { rows } = JSON.parse(readFileSync(path!, 'utf8')) as { rows: Row[] }
    const best = (id: string): number =>
      Math.max(...rows.filter((r) => r.status === 'ok' && r.id.startsWith(id)).map((r) => r.value as number))
    const [copy, product, node] = [best('copy'), best('product'), best('node')]
    return {
      ...(copy > 0 && { copy: copy * 1e3 }),
      ...(product > 0 && { product: product * 1e6 }),
      ...(node > 0 && { node }),
    }
  } catch {
    return {}
  }
}

function floor({ flops, bytes }: Pass): { floorUs?: number; bound?: string } {
  if (!ceilings.copy || !ceilings.product) return {}
  const [compute, memory, launch] = [flops / ceilings.product, bytes / ceilings.copy, ceilings.node ?? 0]
  const floorUs = Math.max(compute, memory, launch)
  return { floorUs, bound: floorUs === compute ? 'compute' : floorUs === memory ? 'memory' : 'launch' }
}

/**
 * 32 numbers, evenly spread, and the root mean square of the first 65,536: the values that are compared with the peers'
 * results.
 */
function digest(outputs: readonly Tensor[]): { at: number[]; rms: number }[] {
  const read = (t: Tensor, n: number, step: number): Float64Array =>
    scope(() => widen(t.view([n], [step]).dataBlocking(), t.dtype))
  return outputs.map((t) => {
    const at = read(t, Math.min(32, t.size), Math.max(1, Math.floor(t.size / 32)))
    const first = read(t, Math.min(65536, t.size), 1)
    return {
      at: Array.from(at, (x) => Number(x.toPrecision(6))),
      rms: Math.sqrt(first.reduce((s, v) => s + v * v, 0) / first.length),
    }
  })
}

interface Timed extends Job {
  item: Item
  pass: 'forward' | 'backward'
  gemm: Gemm
}

const timed = (gemm: Gemm): Timed[] =>
  shapes()
    .filter((item) => gemm === 'own' || products.includes(item.kind))
    .flatMap((item) =>
      (item.passes ?? (['forward', 'backward'] as const)).map((pass) => ({
        id: `${item.id} ${pass}`,
        item,
        pass,
        gemm,
      })),
    )

function open(): Worker<Timed> {
  const { device, emulated } = gpu()
  const run = ({ item, pass }: Timed): object =>
    scope(() => {
      const inputs = new Inputs(item.id, device)
      try {
        const passes = [build(item, inputs)]
        // Over 64 MB in rotation, no cache holds them; never fewer than four sets, or than twenty of small ones.
        const sets = quick ? 2 : Math.max(inputs.bytes > 64e6 ? 4 : 20, Math.ceil(80e6 / inputs.bytes))
        while (passes.length < Math.min(sets, 2000)) {
          inputs.next()
          passes.push(build(item, inputs))
        }
        for (const { forward } of passes) forward.call() // backward reads what forward saved
        const calls = passes.map((p) => p[pass]!)
        const first = calls[0]!
        for (const c of calls) c.call()
        syncBlocking()
        const us = timeGraph(
          device,
          calls.map((c) => c.call),
        )
        const warmUs = timeGraph(
          device,
          calls.map(() => first.call),
        )
        const launchedUs = time(() => calls.forEach((c) => c.call()), calls.length)
        const f = floor(first)
        return {
          item: item.id,
          kind: item.kind,
          pass,
          dtype: 'bfloat16',
          sets: calls.length,
          setBytes: inputs.bytes,
          us,
          warmUs,
          launchedUs,
          flops: first.flops,
          bytes: first.bytes,
          ...f,
          ...(f.floorUs !== undefined && { share: f.floorUs / us.median }),
          ...(item.goal?.[pass] !== undefined && { goalUs: item.goal[pass] }),
          digest: digest(first.outputs),
        }
      } finally {
        inputs.dispose()
      }
    })
  return { device, facts: { emulated }, run }
}

const rows = await measure({
  url: import.meta.url,
  jobs: [...timed('own'), ...timed('cublaslt')],
  open,
  facts: { ceilings },
})
finish(rows, `${rows.length} rows`)
