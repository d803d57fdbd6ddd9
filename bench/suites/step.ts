/**
 * A training step by its parts: the Q-Former of full size with its adapter as the paper trains it, under one layer of a
 * LLaMA of full width.
 */
import { performance } from 'node:perf_hooks'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { languageFlops, qformerFlops } from '../cost.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import type { LlamaConfig } from '../../lib/models/llama.js'
import type { ModelConfig } from '../../lib/models/image-model.js'
import { ImageModel } from '../../lib/models/image-model.js'
import { full } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward } from '../../lib/tensor/tape.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import { cpuName, type Bench, type Precision } from '../bench.js'
import { activations, Draw, load, upload, type Numbers } from '../files.js'
import { median, ratio, spread } from '../harness.js'
import { IGNORE } from '../../lib/ops/cross-entropy.js'

interface Sizes {
  B: number
  T: number
  K: number
  prompt: number
  answers: number
  layers: number
}

function configOf(quick: boolean, layers: number): ModelConfig {
  const config = parseModelConfig(
    quick
      ? {
          model_type: 'instructblip',
          num_query_tokens: 3,
          vision_config: { hidden_size: 16, num_attention_heads: 2, patch_size: 7, image_size: 14 },
          qformer_config: {
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 4,
            num_attention_heads: 2,
            vocab_size: 20,
          },
          text_config: {
            model_type: 'llama',
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: layers,
            num_attention_heads: 2,
            vocab_size: 30,
          },
        }
      : {
          model_type: 'instructblip',
          vision_config: {},
          qformer_config: { vocab_size: 1024 },
          text_config: { model_type: 'llama', num_hidden_layers: layers, vocab_size: 4000 },
        },
  )
  config.vision.layers = 0 // features are given
  return config
}

async function one(bench: Bench, sizes: Sizes, dtype: Precision): Promise<void> {
  const { B, T, K, prompt, answers, layers } = sizes
  const config = configOf(bench.quick, layers)
  const [draw, { vision, qformer, numQueryTokens: L }, llama] = [new Draw(9), config, config.language as LlamaConfig]
  const drawn = new Map<string, Numbers>()
  const expected = expectedTensors(config)
  const file = await bench.files.write(
    expected.map(({ name, shape }): [string, Numbers] => {
      const isNorm = /norm\w*\.\w+$/i.test(name)
      const key = `${shape} ${isNorm && name.endsWith('weight')}`
      if (!drawn.has(key))
        drawn.set(key, draw.normal(shape, shape.length > 1 ? 0.02 : 0.1, isNorm && name.endsWith('weight') ? 1 : 0))
      return [name, drawn.get(key)!]
    }),
    dtype,
  )
  const model = new ImageModel(config, await load(file, bench.device, dtype, { expected }), activations(dtype))
  const adapter = new Adapter(
    config,
    parseAdapterConfig({ frames: T, ...(bench.quick && { lora: { r: 2, alpha: 2 }, dar: { routerHidden: 4 } }) }),
    { seed: 1, device: bench.device },
  )
  const optimizer = new AdamW(
    adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
    { lr: 1e-4, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, clip: 1 },
  )
  const ids = (n: number, vocabulary: number): Int32Array =>
    Int32Array.from({ length: n }, (_, i) => 3 + ((i * 7919) % (vocabulary - 3)))
  const times = new Map<string, number[]>()
  const floors = new Map<string, number[]>()
  let peakBytes = 0
  const flops = {
    'Q-Former forward': qformerFlops(
      qformer,
      { videos: B, frames: T, queries: L, text: K, imageTokens: vision.tokens },
      { rank: adapter.config.lora.r },
    ),
    'language model and loss, forward': languageFlops(llama, L + prompt, { batch: B, rows: answers }),
    'backward of both': 0,
    'gradient norm and AdamW': 0,
    'whole step': 0,
  }
  flops['whole step'] =
    qformerFlops(
      qformer,
      { videos: B, frames: T, queries: L, text: K, imageTokens: vision.tokens },
      { pass: 'forward+backward', rank: adapter.config.lora.r },
    ) + languageFlops(llama, L + prompt, { batch: B, rows: answers, pass: 'forward+backward' })
  flops['backward of both'] =
    flops['whole step'] - flops['Q-Former forward'] - flops['language model and loss, forward']

  await scope(async () => {
    const features = upload(draw.normal([B, T, vision.tokens, vision.hiddenSize]), bench.device, dtype)
    const text = {
      ids: tensor(ids(B * K, qformer.vocabSize), [B, K], 'int32', bench.device),
      mask: tensor(new Uint8Array(B * K).fill(1), [B, K], 'uint8', bench.device),
    }
    const words = ids(B * prompt, llama.vocabSize)
    const uploaded = model.upload(
      {
        rows: B,
        ids: words,
        mask: new Uint8Array(words.length).fill(1),
        labels: words.map((id, i) => (i % prompt >= prompt - answers ? id : IGNORE)),
      },
      L,
    )
    const factor = full([], 1 / (B * answers), 'float32', bench.device)
    for (let round = bench.quick ? 0 : -1; round < (bench.quick ? 1 : 3); round++) {
      const spent = new Map<string, number>()
      await scope(async () => {
        const before = bench.peak(true)
        const part = <R>(name: string, f: () => R): R => {
          const start = performance.now()
          const result = f()
          syncBlocking()
          spent.set(name, 1000 * (performance.now() - start))
          return result
        }
        const visual = part('Q-Former forward', () => model.visualTokens(features, text, adapter))
        const loss = part('language model and loss, forward', () =>
          model.loss(model.hidden(visual, uploaded), uploaded),
        )
        part('backward of both', () => backward(loss, factor))
        const start = performance.now()
        await optimizer.step()
        syncBlocking()
        spent.set('gradient norm and AdamW', 1000 * (performance.now() - start))
        spent.set(
          'whole step',
          [...spent.values()].reduce((a, b) => a + b, 0),
        )
        peakBytes = Math.max(peakBytes, bench.peak() - before)
      })
      if (round < 0) continue // warm-up
      const rate = bench.product(dtype)
      for (const [name, us] of spent) {
        times.set(name, [...(times.get(name) ?? []), us])
        if (rate) floors.set(name, [...(floors.get(name) ?? []), (1e6 * flops[name as keyof typeof flops]) / rate])
      }
    }
  })
  for (const [name, us] of times) {
    const floor = floors.get(name)?.filter((x) => x > 0)
    bench.add({
      id: `step B=${B} T=${T} K=${K}, ${layers} layer of LLaMA: ${name}`,
      suite: bench.suite,
      sizes: { ...sizes },
      dtype,
      pass: 'other',
      threads: bench.options.threads,
      cpu: cpuName(),
      us: spread(us),
      flops: flops[name as keyof typeof flops],
      bytes: 0,
      bound: floor?.length ? 'compute' : 'none',
      ...(floor?.length && { floorUs: median(floor), share: ratio(floor, us) }),
      ...(name === 'whole step' && { peakBytes }),
      peers: [],
    })
  }
  optimizer.dispose()
  adapter.dispose()
  model.dispose()
  bench.files.forget(file)
}

export async function run(bench: Bench): Promise<void> {
  const sizes: Sizes = bench.quick
    ? { B: 2, T: 2, K: 3, prompt: 6, answers: 2, layers: 1 }
    : { B: 2, T: 4, K: 32, prompt: 64, answers: 16, layers: 1 }
  for (const dtype of bench.options.dtypes)
    if (dtype !== 'mixed' || bench.options.selection !== 'some') await one(bench, sizes, dtype)
}
