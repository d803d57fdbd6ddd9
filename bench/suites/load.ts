/**
 * Opening a checkpoint: a synthetic InstructBLIP with the layout, widths and 16-bit matrices of a real one, but fewer
 * layers.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { loadImageModel } from '../../lib/session/checkpoint.js'
import type { ImageModel } from '../../lib/models/image-model.js'
import { full } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import { writeSafetensors, type TensorData } from '../../lib/files/safetensors.js'
import { cpuName, type Bench } from '../bench.js'
import { spread } from '../harness.js'
import { sizeOf } from '../../lib/shape.js'

/** config.json of so many layers at full width, or of tiny ones. */
function config(quick: boolean): object {
  return quick
    ? {
        model_type: 'instructblip',
        num_query_tokens: 3,
        vision_config: {
          hidden_size: 16,
          intermediate_size: 24,
          num_hidden_layers: 1,
          num_attention_heads: 2,
          patch_size: 7,
          image_size: 14,
        },
        qformer_config: {
          hidden_size: 16,
          intermediate_size: 24,
          num_hidden_layers: 2,
          num_attention_heads: 2,
          vocab_size: 20,
          encoder_hidden_size: 16,
        },
        text_config: {
          model_type: 'llama',
          hidden_size: 16,
          intermediate_size: 24,
          num_hidden_layers: 1,
          num_attention_heads: 2,
          vocab_size: 30,
        },
      }
    : {
        model_type: 'instructblip',
        vision_config: { num_hidden_layers: 2 },
        qformer_config: { num_hidden_layers: 2, vocab_size: 4000 },
        text_config: { model_type: 'llama', num_hidden_layers: 1, vocab_size: 4000 },
      }
}

/** Every tensor in one file; vectors in 16 bit too, as in published checkpoints. */
async function write(folder: string, quick: boolean): Promise<{ bytes: number; tensors: number }> {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config(quick)))
  const expected = expectedTensors(parseModelConfig(config(quick)))
  const largest = Math.max(...expected.map(({ shape }) => sizeOf(shape)))
  // 0.0078 in bfloat16, everywhere: the values do not matter to loading.
  const values = new Uint16Array(largest).fill(0x3c00)
  const data = expected.map(
    ({ name, shape }): TensorData => ({
      name,
      shape,
      dtype: 'BF16',
      data: values.subarray(0, sizeOf(shape)),
    }),
  )
  await writeSafetensors(join(folder, 'model.safetensors'), data)
  return { bytes: data.reduce((n, t) => n + t.data.byteLength, 0), tensors: data.length }
}

/** Everything once: an image, its visual tokens, a prompt of two words. */
function use(model: ImageModel): void {
  const { imageSize, channels } = model.config.vision
  scope(() =>
    noGrad(() => {
      const visual = model.visualTokens(
        model.features(full([1, 1, channels, imageSize, imageSize], 0, 'float32', model.device)),
        undefined,
      )
      model.hidden(visual, { rows: 1, ids: Int32Array.of(1, 2), mask: Uint8Array.of(1, 1) })
    }),
  )
  syncBlocking()
}

export async function run(bench: Bench): Promise<void> {
  const folder = join(bench.files.folder, 'checkpoint')
  const { bytes, tensors } = await write(folder, bench.quick)
  for (const dtype of bench.options.dtypes) {
    if (dtype === 'mixed') continue // the same as float32 with 16-bit matrices
    const times: Record<string, { us: number[]; peakBytes: number }> = {}
    for (let i = 0; i < (bench.quick ? 1 : 5); i++) {
      const before = bench.peak(true)
      const start = performance.now()
      const note = (what: string): void => {
        const row = (times[what] ??= { us: [], peakBytes: 0 })
        row.us.push(1000 * (performance.now() - start))
        row.peakBytes = Math.max(row.peakBytes, bench.peak() - before)
      }
      const model = await loadImageModel(folder, { device: bench.device, precision: dtype })
      syncBlocking()
      note('open a checkpoint')
      use(model)
      note('open a checkpoint and use it once')
      model.dispose()
    }
    for (const [what, { us, peakBytes }] of Object.entries(times)) {
      bench.add({
        id: `${what}, ${Math.round(bytes / 1e6)} MB`,
        suite: bench.suite,
        sizes: { bytes, tensors },
        dtype,
        pass: 'other',
        threads: bench.options.threads,
        cpu: cpuName(),
        us: spread(us),
        flops: 0,
        bytes: 0,
        bound: 'none',
        peakBytes,
        peers: [],
      })
    }
  }
}
