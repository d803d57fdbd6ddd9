/**
 * The language model's products: a prompt at once, and one token at a time, whose weights come from memory; then a
 * whole layer token by token.
 */
import { languageFlops } from '../cost.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import type { LlamaConfig } from '../../lib/models/llama.js'
import { KVCache, type CausalModel } from '../../lib/models/decoder.js'
import { finder } from '../../lib/models/finder.js'
import { languageModel } from '../../lib/models/language.js'
import { linear } from '../../lib/ops/linear.js'
import { native } from '../../lib/native.js'
import { quantize } from '../../lib/ops/quantize.js'
import type { Device } from '../../lib/tensor/device.js'
import { bytesOf, type QuantizedDType } from '../../lib/tensor/dtype.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { tensor, Tensor } from '../../lib/tensor/tensor.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import type { Bench, Precision } from '../bench.js'
import { Draw, load, numbers, upload, type Numbers } from '../files.js'

/** Drawn once for each shape. */
function matrix(out: number, into: number): Numbers {
  const known = drawn.get(`${out} ${into}`) ?? new Draw(10).normal([out, into], 1 / Math.sqrt(into))
  drawn.set(`${out} ${into}`, known)
  return known
}
const drawn = new Map<string, Numbers>()

/** x Wᵀ over several copies of W in turn, so that each comes from memory; W quantised, where `held` says so. */
async function products(
  bench: Bench,
  rows: number,
  [out, into]: readonly [number, number],
  dtype: Precision,
  threads?: number,
  held?: QuantizedDType,
): Promise<void> {
  const draw = new Draw(7)
  const one = matrix(out, into)
  const bytes = bytesOf(held ?? (dtype === 'float32' ? 'float32' : 'bfloat16'), [out, into])
  const copies = bench.quick ? 2 : Math.max(2, Math.ceil(400e6 / bytes))
  const file = await bench.files.write(
    Array.from({ length: held ? 1 : copies }, (_, i): [string, Numbers] => [`${i}.weight`, one]),
    dtype,
  )
  const stored = await load(file, held ? 'cpu' : bench.device, dtype)
  const weights = held
    ? scope(() => {
        const q = quantize(stored.values().next().value!, held)
        return Array.from({ length: copies }, () => keep(copyOf(q, bench.device)))
      })
    : [...stored.values()]
  const before = bench.options.threads
  await scope(async () => {
    const given = draw.normal([rows, into])
    const x = upload(given, bench.device, dtype)
    const forward = (w: Tensor): Tensor => linear(x, w)
    const kind = rows === 1 ? 'GEMV' : 'GEMM'
    bench.threads(threads ?? before)
    await bench.time({
      id: `${kind} ${rows}×${into}→${out}${held ? `, ${held} weights` : ''}${threads ? `, ${threads} threads` : ''}`,
      sizes: { M: rows, N: out, K: into },
      dtype,
      pass: 'forward',
      calls: weights.map((w) => () => scope(() => void noGrad(() => forward(w)))),
      flops: 2 * rows * out * into,
      bytes: rows === 1 ? bytes : 0,
      outputs: () => ({ y: numbers(noGrad(() => forward(weights[0]!))) }),
      ...(!threads &&
        !held && {
          peer: {
            kind: 'linear',
            pass: 'forward',
            form: 'factorized',
            sizes: { B: rows, T: 1, L: 1, K: 0, heads: 1, D: out, DV: into },
          },
          numbers: () =>
            [
              ['x', given],
              ['weight', one],
            ] as [string, Numbers][],
        }),
    })
  })
  bench.threads(before)
  for (const t of [...stored.values(), ...weights]) t.dispose()
  bench.files.forget(file)
}

/** Another copy of a quantised matrix, on a device. */
const copyOf = (q: Tensor, device: Device): Tensor =>
  new Tensor(native().upload(q.dataBlocking() as Uint8Array, q.shape, q.dtype), q.shape, q.dtype).to(device).freeze()

/** A layer of LLaMA-7B's width over a cache of 100 tokens, one token more. */
async function layer(bench: Bench, dtype: Precision): Promise<void> {
  const config = parseModelConfig({
    model_type: 'instructblip',
    vision_config: {},
    text_config: {
      model_type: 'llama',
      num_hidden_layers: 1,
      vocab_size: 256,
      ...(bench.quick && { hidden_size: 16, intermediate_size: 24, num_attention_heads: 2 }),
    },
  })
  const llama = config.language as LlamaConfig
  const [draw, D, past] = [new Draw(8), llama.hiddenSize, bench.quick ? 3 : 100]
  const vectors = draw.normal([D], 0.1, 1)
  const expected = expectedTensors(config).filter(({ part }) => part === 'language')
  const all = expected.map(({ name, shape: [out, into] }): [string, Numbers] => [
    name,
    into ? matrix(out!, into) : vectors,
  ])
  const file = await bench.files.write(all, dtype)
  const stored = await load(file, bench.device, dtype, { expected })
  const model = languageModel(finder(stored), llama) as CausalModel
  const cache = new KVCache(past + 1)
  scope(() => {
    const start = {
      mask: tensor(new Uint8Array(past).fill(1), [1, past], 'uint8', bench.device),
      positions: tensor(
        Int32Array.from({ length: past }, (_, i) => i),
        [1, past],
        'int32',
        bench.device,
      ),
    }
    noGrad(() => model.forward(upload(draw.normal([1, past, D]), bench.device, dtype), { ...start, cache }))
    syncBlocking()
  })
  await scope(async () => {
    const x = upload(draw.normal([1, 1, D]), bench.device, dtype)
    const context = {
      mask: tensor(new Uint8Array(past + 1).fill(1), [1, past + 1], 'uint8', bench.device),
      positions: tensor(Int32Array.of(past), [1, 1], 'int32', bench.device),
    }
    cache.length = past
    const matrices = [...stored].filter(([name, t]) => t.rank === 2 && name.includes('.layers.'))
    await bench.time({
      id: `LLaMA, ${llama.layers} layer, one token after ${past}`,
      sizes: { layers: llama.layers, D, past },
      dtype,
      pass: 'forward',
      calls: [() => scope(() => void noGrad(() => model.forward(x, { ...context, cache })))],
      flops: languageFlops({ ...llama, vocabSize: 0 }, 1),
      bytes: matrices.reduce((n, [, t]) => n + t.size * (dtype === 'float32' ? 4 : 2), 0),
    })
  })
  cache.dispose()
  for (const t of stored.values()) t.dispose()
  bench.files.forget(file)
}

export async function run(bench: Bench): Promise<void> {
  const shapes: [number, number][] = bench.quick
    ? [[24, 16]]
    : [[11008, 4096], [4096, 4096], ...(bench.options.selection === 'all' ? [[4096, 11008] as [number, number]] : [])]
  for (const dtype of bench.options.dtypes) {
    if (dtype !== 'bfloat16' && bench.options.selection === 'some') continue // others would have to read more, or to convert
    for (const shape of shapes) await products(bench, bench.quick ? 3 : 100, shape, dtype)
    for (const threads of [undefined, ...(bench.options.threads === 1 && bench.device === 'cpu' ? [2] : [])])
      for (const held of [undefined, 'int8', 'nf4'] as const) await products(bench, 1, shapes[0]!, dtype, threads, held)
    await layer(bench, dtype)
  }
}
