/**
 * The whole Q-Former over a video: our model against the peers' of the same numbers; and Video-LLaMA's way, a second
 * Q-Former over the tokens of all frames.
 */
import { qformerFlops, type Pass } from '../cost.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import type { QFormerConfig } from '../../lib/models/qformer.js'
import { finder } from '../../lib/models/finder.js'
import { qformer, qformerForward, type LayerAdapter } from '../../lib/models/qformer.js'
import type { LoRA } from '../../lib/nn/layers.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward, noGrad } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import type { Bench, Outputs, Precision } from '../bench.js'
import { Draw, load, numbers, upload, type Numbers } from '../files.js'
import { taken, trained } from './block.js'
import { sizeOf } from '../../lib/shape.js'

interface Sizes {
  B: number
  T: number
  L: number
  K: number
  KV: number
  DV: number
  layers: number
  heads: number
  rank: number
  crossEvery: number
}

function configOf({ KV, DV, layers, heads, L, crossEvery }: Sizes): {
  model: ReturnType<typeof parseModelConfig>
  qformer: QFormerConfig
} {
  const D = heads * 64
  const model = parseModelConfig({
    model_type: 'instructblip',
    num_query_tokens: L,
    vision_config: { hidden_size: DV, num_attention_heads: 1, num_hidden_layers: 1 },
    qformer_config: {
      hidden_size: D,
      num_attention_heads: heads,
      num_hidden_layers: layers,
      intermediate_size: 4 * D,
      vocab_size: 1024,
      cross_attention_frequency: crossEvery,
    },
    text_config: { model_type: 'llama' },
  })
  model.vision.tokens = KV
  return { model, qformer: model.qformer }
}

/**
 * Weights under the names of checkpoints, inputs and LoRA under those that peers use. What was drawn last is
 * remembered: it is 650 MB.
 */
function given(sizes: Sizes): Map<string, Numbers> {
  const key = JSON.stringify({ ...sizes, rank: 0 })
  if (last?.key !== key) last = { key, all: drawn(sizes) }
  return new Map([...last.all, ...low(sizes)])
}
let last: { key: string; all: Map<string, Numbers> } | undefined

function drawn(sizes: Sizes): Map<string, Numbers> {
  const { B, T, L, K, KV, DV, heads } = sizes
  const [draw, D] = [new Draw(5), heads * 64]
  const all = new Map<string, Numbers>()
  for (const { name, shape, part } of expectedTensors(configOf(sizes).model)) {
    if (part !== 'qformer' || /embeddings\.(word|position)/.test(name)) continue
    const isNorm = /norm\.\w+$/i.test(name)
    all.set(
      name,
      draw.normal(
        shape,
        shape.length === 2 ? 1 / Math.sqrt(shape[1]!) : 0.1,
        isNorm && name.endsWith('weight') ? 1 : 0,
      ),
    )
  }
  all
    .set('queries', draw.normal([B, T, L, D], 0.5))
    .set('image', draw.normal([B, T, KV, DV]))
    .set('dy', draw.normal([B, T, L, D]))
  if (K) all.set('text', draw.normal([B, K, D], 0.5))
  return all
}

function low({ layers, heads, rank, DV, crossEvery }: Sizes): Map<string, Numbers> {
  const [draw, D] = [new Draw(6), heads * 64]
  const all = new Map<string, Numbers>()
  const pairs = (at: string, into: number): void => {
    for (const [of, width] of [
      ['q', D],
      ['v', into],
    ] as const)
      all
        .set(`lora.${at}.${of}.A`, draw.normal([rank, width], 1 / Math.sqrt(width)))
        .set(`lora.${at}.${of}.B`, draw.normal([D, rank], 0.1))
  }
  for (let m = 0; rank && m < layers; m++) {
    pairs(`layer.${m}.space`, D)
    pairs(`layer.${m}.time`, D)
    if (m % crossEvery === 0) pairs(`layer.${m}.cross`, DV)
  }
  return all
}

async function one(bench: Bench, sizes: Sizes, pass: Pass, dtype: Precision): Promise<void> {
  const { B, T, L, K, KV, heads, layers, rank } = sizes
  const D = heads * 64
  const all = given(sizes)
  const isWeight = (name: string): boolean => name.startsWith('qformer.')
  // In float32 the peers read the same file.
  const file = await bench.files.write(
    [...all].filter(([name]) => dtype === 'float32' || isWeight(name)),
    dtype,
  )
  const stored = await load(file, bench.device, dtype, {
    wanted: isWeight,
    expected: expectedTensors(configOf(sizes).model),
  })
  await scope(async () => {
    const { qformer: config } = configOf(sizes)
    // The text's embeddings are the word table, so that ids 0, 1, 2, … look them up; positions add nothing.
    const text = all.get('text')
    const table = (n: Numbers): Tensor => tensor(n.data, [n.data.length / D, D], 'float32', bench.device)
    const model = qformer(
      finder(
        new Map([
          ...stored,
          ['query_tokens', tensor(new Float32Array(L * D), [1, L, D], 'float32', bench.device)],
          ['qformer.embeddings.word_embeddings.weight', table(text ?? { shape: [1, D], data: new Float32Array(D) })],
          [
            'qformer.embeddings.position_embeddings.weight',
            tensor(new Float32Array(Math.max(1, K) * D), [Math.max(1, K), D], 'float32', bench.device),
          ],
        ]),
      ),
      { ...config, maxPositions: Math.max(1, K) },
      L,
    )
    const adapter = trained(all, bench)
    const pair = (at: string): { q: LoRA; v: LoRA } => ({
      q: { A: adapter.get(`lora.${at}.q.A`)!, B: adapter.get(`lora.${at}.q.B`)!, scaling: 1 },
      v: { A: adapter.get(`lora.${at}.v.A`)!, B: adapter.get(`lora.${at}.v.B`)!, scaling: 1 },
    })
    const adapters = Array.from(
      { length: layers },
      (_, m): LayerAdapter =>
        rank
          ? {
              spatial: { lora: pair(`layer.${m}.space`) },
              temporal: { lora: pair(`layer.${m}.time`) },
              ...(m % 2 === 0 && { cross: { lora: pair(`layer.${m}.cross`) } }),
            }
          : { temporal: {} },
    )
    const [queries, image, dy] = ['queries', 'image', 'dy'].map((name) =>
      upload(all.get(name)!, bench.device, dtype),
    ) as [Tensor, Tensor, Tensor]
    const words = text && {
      ids: tensor(
        Int32Array.from({ length: B * K }, (_, i) => i),
        [B, K],
        'int32',
        bench.device,
      ),
      mask: tensor(new Uint8Array(B * K).fill(1), [B, K], 'uint8', bench.device),
    }
    const forward = (): Tensor => qformerForward(model, { queries, image, text: words, adapters })
    const step = (): { y: Tensor; gradients: Map<string, Tensor> } => {
      const y = forward()
      backward(y, dy)
      return { y, gradients: taken([...adapter].map(([name, t]): [string, Tensor] => [`d.${name}`, t])) }
    }
    const calls = [
      () =>
        scope(() => {
          if (pass === 'forward') noGrad(forward)
          else for (const t of step().gradients.values()) t.dispose()
        }),
    ]
    await bench.time({
      id: `Q-Former B=${B} T=${T} K=${K}${rank ? ', LoRA' : ''}`,
      sizes: { ...sizes, D },
      dtype,
      pass,
      calls,
      plan: { rounds: 3, ms: 1 },
      ...(pass === 'forward' &&
        bench.options.threads === 1 &&
        bench.options.selection !== 'goals' && { ways: [{ name: '2 threads', calls, threads: 2 }] }),
      flops: qformerFlops(config, { videos: B, frames: T, queries: L, text: K, imageTokens: KV }, { pass, rank }),
      outputs: (): Outputs => {
        if (pass === 'forward') return { y: numbers(noGrad(forward)) }
        const { y, gradients } = step()
        const read = {
          y: numbers(y.detach()),
          ...Object.fromEntries([...gradients].map(([name, t]) => [name, numbers(t)])),
        }
        for (const t of gradients.values()) t.dispose()
        return read
      },
      peer: {
        kind: 'qformer',
        pass,
        form: 'factorized',
        sizes: { B, T, L, K, heads, D, layers, KV, DV: sizes.DV, eps: config.eps, ...(rank && { rank, scaling: 1 }) },
      },
      ...(dtype === 'float32'
        ? { tensors: file }
        : {
            numbers: () => all,
            peerDtypes:
              dtype === 'bfloat16' && bench.options.selection === 'all'
                ? (['float32', 'bfloat16'] as const)
                : (['float32'] as const),
          }),
    })
  })
  for (const t of stored.values()) t.dispose()
  bench.files.forget(file)
}

/**
 * Video-LLaMA's video Q-Former: two layers of 32 queries, each with cross-attention, over the T·32 tokens that the
 * image Q-Former made of the frames.
 */
async function videoQformer(bench: Bench, T: number, heads: number): Promise<void> {
  const [L, D] = [bench.quick ? 4 : 32, heads * 64]
  const sizes: Sizes = { B: 1, T: 1, L, K: 0, KV: T * L, DV: D, layers: 2, heads, rank: 0, crossEvery: 1 }
  const all = given(sizes)
  // It has no text path.
  const file = await bench.files.write([...all].filter(([name]) => name.startsWith('qformer.')))
  const stored = await load(file, bench.device, 'float32')
  await scope(async () => {
    const { qformer: config } = configOf(sizes)
    const nothing = (shape: number[]): Tensor => tensor(new Float32Array(sizeOf(shape)), shape, 'float32', bench.device)
    const weights = new Map([
      ...stored,
      ['qformer.embeddings.word_embeddings.weight', nothing([1, D])],
      ['qformer.embeddings.position_embeddings.weight', nothing([1, D])],
      ['query_tokens', nothing([1, L, D])],
    ])
    const model = qformer(finder(weights), { ...config, maxPositions: 1 }, L)
    const [queries, image] = [upload(all.get('queries')!, bench.device), upload(all.get('image')!, bench.device)]
    const parameters =
      L * D +
      [...stored].reduce((n, [name, t]) => n + (/layer\.\d+\.(intermediate|output)\./.test(name) ? 0 : t.size), 0)
    const temporal = 8 * L * D ** 2 + 4 * D * L
    await bench.time({
      id: `video Q-Former of Video-LLaMA T=${T}`,
      sizes: { T, L, D, layers: 2, parameters },
      dtype: 'float32',
      pass: 'forward',
      calls: [() => scope(() => void noGrad(() => qformerForward(model, { queries, image })))],
      flops: qformerFlops(config, { frames: 1, queries: L, imageTokens: T * L }) - 2 * temporal,
    })
  })
  for (const t of stored.values()) t.dispose()
  bench.files.forget(file)
}

export async function run(bench: Bench): Promise<void> {
  const full: Sizes = { B: 2, T: 4, L: 32, K: 32, KV: 257, DV: 1408, layers: 12, heads: 12, rank: 0, crossEvery: 2 }
  const quick: Sizes = { B: 2, T: 2, L: 3, K: 2, KV: 5, DV: 24, layers: 2, heads: 2, rank: 0, crossEvery: 2 }
  const list = bench.pick({
    quick: [quick],
    goals: [full],
    some: [full],
    all: [full, { ...full, T: 8 }, { ...full, K: 0 }],
  })
  for (const dtype of bench.options.dtypes) {
    for (const sizes of list)
      for (const pass of ['forward', 'forward+backward'] as const) {
        if (dtype !== 'float32' && pass === 'forward' && bench.options.selection === 'some') continue // no goal
        await one(bench, { ...sizes, rank: pass === 'forward' ? 0 : bench.quick ? 2 : 16 }, pass, dtype)
      }
  }
  if (bench.wants('float32'))
    for (const T of bench.pick({ quick: [2], some: [4, 8, 64], all: [4, 8, 16, 32, 64] }))
      await videoQformer(bench, T, bench.quick ? 2 : 12)
}
