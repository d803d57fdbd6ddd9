/**
 * A full-size model for measurements: InstructBLIP over LLaMA-7B with random weights and without the blocks of the
 * image tower, since features are given; micro-batches for it, and training steps on one.
 */
import { Adapter } from '../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../lib/adapter/config.js'
import { parseModelConfig } from '../lib/checkpoint/config.js'
import type { ModelConfig } from '../lib/models/image-model.js'
import { ImageModel } from '../lib/models/image-model.js'
import type { Precision } from '../lib/tensor/dtype.js'
import { native } from '../lib/native.js'
import { cast, copy, full, write } from '../lib/ops/copy.js'
import { Random } from '../lib/ops/random.js'
import type { Device } from '../lib/tensor/device.js'
import { keep, scope } from '../lib/tensor/scope.js'
import { tensor, type Tensor } from '../lib/tensor/tensor.js'
import { forwardBackward, type StepInputs, StepGraphs } from '../lib/train/graphs.js'
import { AdamW } from '../lib/train/optimizer.js'
import { expectedTensors } from '../lib/checkpoint/names.js'
import { allocatePacks } from '../lib/session/pack.js'
import { isMatrix } from '../lib/session/budget.js'
import { drawn } from './gpu/inputs.js'
import { IGNORE } from '../lib/ops/cross-entropy.js'

export interface Sizes {
  B: number
  T: number
  text: number
  prompt: number
  answers: number
}

/** The same numbers on every device. */
export function inputsOf(model: ImageModel, { B, T, text, prompt, answers }: Sizes): StepInputs {
  const { vision, qformer, language, numQueryTokens } = model.config
  const ids = (n: number, vocabulary: number): Int32Array =>
    Int32Array.from({ length: n }, (_, i) => 3 + ((i * 7919) % (vocabulary - 3)))
  const features = scope(() =>
    keep(cast(new Random(5).normal([B, T, vision.tokens, vision.hiddenSize]).to(model.device), model.precision)),
  )
  const words = ids(B * prompt, language.vocabSize)
  return {
    features,
    qformer: {
      ids: tensor(ids(B * text, qformer.vocabSize), [B, text], 'int32', model.device),
      mask: tensor(new Uint8Array(B * text).fill(1), [B, text], 'uint8', model.device),
    },
    text: model.upload(
      {
        rows: B,
        ids: words,
        mask: new Uint8Array(words.length).fill(1),
        labels: words.map((id, i) => (i % prompt >= prompt - answers ? id : IGNORE)),
      },
      numQueryTokens,
    ),
    factor: full([], 1 / (B * answers), 'float32', model.device),
  }
}

/** An adapter with its optimiser, and steps on one micro-batch. */
export function trainerOf(model: ImageModel, config: object, inputs: StepInputs, graphs: boolean) {
  const adapter = new Adapter(model.config, parseAdapterConfig(config), { seed: 3, device: model.device })
  const optimizer = new AdamW(
    adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
    { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, clip: 1 },
  )
  const captured = graphs ? new StepGraphs(model, adapter, optimizer) : undefined
  return {
    adapter,
    step: (): Promise<number> =>
      scope(async () => {
        optimizer.prepare()
        const report = captured
          ? captured.step(inputs)
          : optimizer.update(forwardBackward(model, adapter, inputs).view([1]))
        const { losses } = await optimizer.finish(report)
        optimizer.zeroGrad()
        return losses[0]!
      }),
    dispose: (): void => {
      captured?.dispose()
      optimizer.dispose()
      adapter.dispose()
    },
  }
}

const fullSize = {
  model_type: 'instructblip',
  vision_config: {},
  text_config: { model_type: 'llama', vocab_size: 32001 },
}

/** The model, its weights in `precision`; of full size they take some 14 GB of a device. */
export function randomModel(device: Device, precision: Precision, sizes: object = fullSize): ImageModel {
  const config: ModelConfig = parseModelConfig(sizes)
  config.vision.layers = 0
  const first = new Map<string, Tensor>()
  let stream = 0
  const expected = expectedTensors(config).map(({ name, shape, pack }) => ({
    name,
    shape,
    pack,
    dtype: isMatrix({ name, shape }) ? precision : ('float32' as const),
  }))
  const { parts, packs } = allocatePacks(expected, device) // as weights are loaded
  const made = expected.map(({ name, shape }): [string, Tensor] => [
    name,
    scope(() => {
      const part = parts.get(name)
      const into = (t: Tensor): Tensor => {
        if (!part) return keep(t)
        write(part, t)
        return part
      }
      if (!isMatrix({ name, shape })) return into(full(shape, /norm.*weight$/i.test(name) ? 1 : 0, 'float32', device))
      // Drawn once for each shape, then copied: their values do not matter, separate memory does.
      const known = first.get(`${shape}`)
      if (known) return part ? into(known) : keep(copy(known))
      const t = into(
        cast(
          drawn(shape, device, (row) => native().ops.random_normal(11, stream++, 0, 0.02, row.handle)),
          precision,
        ),
      )
      first.set(`${shape}`, t)
      return t
    }),
  ])
  return new ImageModel(config, new Map([...made, ...packs]), precision)
}
