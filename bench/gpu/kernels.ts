/** Stage `kernels`: the operators of shapes.json, each as replayed graphs over rotated inputs, with warm caches, and launched one by one. */
import { readFileSync } from 'node:fs'
import { scope } from '../../lib/tensor/scope.js'
import { syncBlocking, type Tensor } from '../../lib/tensor/tensor.js'
import { Inputs } from './inputs.js'
import { build, type Pass } from './operators.js'
import { attempt, gpu, type Item, late, option, quick, type Row, save, shapes } from './record.js'
import { time, timeGraph } from './timing.js'
import { widen } from '../../test/ops/support.js'

const { device, emulated } = gpu()
const ceilings = ceilingsFrom(option('ceilings'))

interface Ceilings { copy?: number; product?: number; node?: number }
/** Bytes and operations per microsecond, and the microseconds of a node that does nothing. */
function ceilingsFrom(path: string | undefined): Ceilings {
  try {
    const { rows } = JSON.parse(readFileSync(path!, 'utf8')) as { rows: Row[] }
    const best = (id: string): number => Math.max(...rows.filter((r) => r.status === 'ok' && r.id.startsWith(id)).map((r) => r.value as number))
    const [copy, product, node] = [best('copy'), best('product'), best('node')]
    return { ...(copy > 0 && { copy: copy * 1e3 }), ...(product > 0 && { product: product * 1e6 }), ...(node > 0 && { node }) }
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

/** 32 numbers, evenly spread, and the root mean square of the first 65,536: what is held against the peers' results. */
function digest(outputs: readonly Tensor[]): { at: number[]; rms: number }[] {
  const read = (t: Tensor, n: number, step: number): Float64Array => scope(() => widen(t.view([n], [step]).dataBlocking(), t.dtype))
  return outputs.map((t) => {
    const at = read(t, Math.min(32, t.size), Math.max(1, Math.floor(t.size / 32)))
    const first = read(t, Math.min(65536, t.size), 1)
    return { at: Array.from(at, (x) => Number(x.toPrecision(6))), rms: Math.sqrt(first.reduce((s, v) => s + v * v, 0) / first.length) }
  })
}

function measure(item: Item, row: (r: Row) => void): void {
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
      for (const name of ['forward', 'backward'] as const) {
        const calls = passes.map((p) => p[name])
        const first = calls[0]
        if (!first || (item.passes && !item.passes.includes(name))) continue
        row(
          attempt(`${item.id} ${name}`, () => {
            for (const c of calls) c!.call() // forward leaves what backward reads
            syncBlocking()
            const us = timeGraph(device, calls.map((c) => c!.call))
            const warm = timeGraph(device, calls.map(() => first.call))
            const launched = time(() => calls.forEach((c) => c!.call()), calls.length)
            const f = floor(first)
            return {
              item: item.id, kind: item.kind, pass: name, dtype: 'bfloat16', sets: calls.length, setBytes: inputs.bytes, us, warmUs: warm, launchedUs: launched, flops: first.flops, bytes: first.bytes, ...f,
              ...(f.floorUs !== undefined && { share: f.floorUs / us.median }), ...(item.goal?.[name] !== undefined && { goalUs: item.goal[name] }), digest: digest(first.outputs),
            }
          }),
        )
      }
    } finally {
      syncBlocking()
      inputs.dispose()
    }
  })
}

const rows: Row[] = []
const write = (): void => save({ emulated, ceilings, rows })
for (const item of shapes()) {
  try {
    if (late()) rows.push({ id: item.id, status: 'unavailable', reason: 'no time was left' })
    else measure(item, (r) => rows.push(r))
  } catch (error) {
    rows.push({ id: item.id, status: 'failed', reason: (error as Error).message.split('\n')[0]! })
  }
  write()
}
write()
const failed = rows.filter((r) => r.status === 'failed')
console.log(failed.length ? `${failed[0]!.id}: ${failed[0]!.reason} (${failed.length} of ${rows.length} rows failed)` : `${rows.length} rows`)
process.exit(failed.length ? 1 : 0)
