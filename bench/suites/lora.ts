/** A frozen linear layer with its low-rank update: one fused operator, or the three products it stands for. */
import { linear } from '../../lib/ops/linear.js'
import { add, scale } from '../../lib/ops/elementwise.js'
import { lora } from '../../lib/ops/lora.js'
import { cast } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward, noGrad } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import type { Bench, Outputs, Precision } from '../bench.js'
import { Draw, load, numbers, upload } from '../files.js'
import { taken } from './block.js'

const copies = 3

async function one(
  bench: Bench,
  rows: number,
  [out, into, rank]: readonly [number, number, number],
  pass: 'forward' | 'forward+backward',
  dtype: Precision,
): Promise<void> {
  const draw = new Draw(4)
  const file = await bench.files.write(draw.linear('layer', out, into), dtype)
  const stored = await load(file, bench.device, dtype)
  await scope(async () => {
    const [w, b] = [stored.get('layer.weight')!, stored.get('layer.bias')!]
    const [A, B] = [draw.normal([rank, into], 1 / Math.sqrt(into)), draw.normal([out, rank], 0.2)].map(
      ({ shape, data }) => tensor(data, shape, 'float32', bench.device).requireGrad(),
    ) as [Tensor, Tensor]
    const inputs = Array.from({ length: copies }, () =>
      Object.assign(upload(draw.normal([rows, into]), bench.device, dtype), { requiresGrad: pass !== 'forward' }),
    )
    const dy = upload(draw.normal([rows, out]), bench.device, dtype)
    const fused = (x: Tensor): Tensor => lora(x, w, b, A, B, 1)
    // The update in float32, as the fused operator has it.
    const three = (x: Tensor): Tensor =>
      add(linear(x, w, b), cast(scale(linear(linear(cast(x, 'float32'), A), B), 1), x.dtype))
    const step = (f: (x: Tensor) => Tensor, x: Tensor): Map<string, Tensor> => {
      backward(f(x), dy)
      return taken([
        ['dx', x],
        ['dA', A],
        ['dB', B],
      ])
    }
    const calls = (f: (x: Tensor) => Tensor) =>
      inputs.map(
        (x) => () =>
          scope(() => {
            if (pass === 'forward') noGrad(() => f(x))
            else for (const t of step(f, x).values()) t.dispose()
          }),
      )
    const outputs = (f: (x: Tensor) => Tensor) => (): Outputs => {
      const gradients = pass === 'forward' ? new Map<string, Tensor>() : step(f, inputs[0]!)
      const read = {
        y: numbers(noGrad(() => f(inputs[0]!))),
        ...Object.fromEntries([...gradients].map(([name, t]) => [name, numbers(t)])),
      }
      for (const t of gradients.values()) t.dispose()
      return read
    }
    const backwards = pass === 'forward' ? 0 : 1
    await bench.time({
      id: `LoRA ${rows}×${into}→${out} r=${rank}`,
      sizes: { M: rows, N: out, K: into, rank },
      dtype,
      pass,
      calls: calls(fused),
      outputs: outputs(fused),
      flops: 2 * rows * out * into * (1 + backwards) + 2 * rows * rank * (out + into) * (1 + 2 * backwards),
      ways: [{ name: 'three products', calls: calls(three), outputs: outputs(three) }],
    })
  })
  for (const t of stored.values()) t.dispose()
  bench.files.forget(file)
}

export async function run(bench: Bench): Promise<void> {
  for (const dtype of bench.options.dtypes) {
    if (dtype === 'mixed' && bench.options.selection === 'some') continue
    for (const rows of bench.pick({ quick: [5], some: [256, 640], all: [100, 160, 256, 640, 1024, 2048] })) {
      for (const pass of ['forward', 'forward+backward'] as const)
        await one(bench, rows, bench.quick ? [24, 16, 2] : [768, 768, 16], pass, dtype)
    }
    if (bench.options.selection === 'all')
      for (const pass of ['forward', 'forward+backward'] as const) await one(bench, 2056, [768, 1408, 16], pass, dtype) // the values of cross-attention, T = 8
  }
}
