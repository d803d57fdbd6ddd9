/**
 * The tiny InstructBLIP before and after pre-training: weights by seed, the heads that pre-training throws away, and
 * the checkpoint's folder.
 */

import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { invalid } from '../../lib/errors.js'
import { ImageModel } from '../../lib/models/image-model.js'
import type { Linear } from '../../lib/nn/layers.js'
import { cast, full, write } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import { writeSafetensors, type TensorData } from '../../lib/files/safetensors.js'
import { configOf, generationOf, tinyConfig, type Speaker } from './sizes.js'
import { writeTokenizerFiles } from './tokenizer-files.js'
import { VOCABULARY_SIZE } from './vocabulary.js'
import { COLORS, SHAPES } from './world.js'
import { sizeOf } from '../../lib/shape.js'

// --- before ---------------------------------------------------------------------------------------------------------

/** Layers that add to a residual stream start smaller. */
const ADDS =
  /(self_attn\.projection|mlp\.fc2|output\.dense|output_query\.dense|o_proj|down_proj|Attention\.o|DenseReluDense\.wo)\.weight$/

/** A model with fresh weights, all float32 and trained; those of `known` begin as there. */
export function freshModel(
  seed: number,
  speaker: Speaker = 'llama',
  known: ReadonlyMap<string, Tensor> = new Map(),
): ImageModel {
  const config = tinyConfig(speaker)
  const random = new Random(seed)
  const weights = new Map<string, Tensor>()
  for (const { name, shape } of expectedTensors(config)) {
    const first = scope(() => start(name, shape))
    const from = known.get(name)
    if (from) write(first, from.detach())
    weights.set(name, keep(first).requireGrad(name))
  }
  return new ImageModel(config, weights)

  function start(name: string, shape: number[]): Tensor {
    if (name.endsWith('position_embedding')) return sines(shape)
    if (name.endsWith('.bias')) return full(shape, 0)
    if (/norm/i.test(name)) return full(shape, 1)
    // T5's biases of distances are not trained, and its scores are not divided by √d.
    if (name.includes('relative_attention_bias')) return random.normal(shape)
    // position as large a part of a token's embedding as it should be: the table is added and then normalised
    if (/embed|query_tokens|shared/.test(name) && !name.includes('patch_embedding')) return random.normal(shape, 0, 0.5)
    const into = sizeOf(shape.slice(1))
    const factor = ADDS.test(name) ? 0.5 : name.endsWith('Attention.q.weight') ? 0.25 : 1
    return random.normal(shape, 0, factor / Math.sqrt(into))
  }
}

/**
 * A position table [1,1+n²,D] that says from the start where a patch is: D/4 frequencies for its row and its column,
 * sine and cosine, times 0.5; zeros for the class token. With small random numbers instead, position is hardly learnt.
 */
function sines([, tokens, width]: number[]): Tensor {
  const n = Math.sqrt(tokens! - 1)
  const k = width! / 4
  const data = new Float32Array(tokens! * width!)
  for (let p = 0; p < n * n; p++) {
    for (let i = 0; i < width!; i++) {
      const along = i < width! / 2 ? Math.floor(p / n) : p % n
      const turn = along * (2 * n) ** -((i % k) / (k - 1)) // from 1 to 1/2n a patch
      data[(p + 1) * width! + i] = 0.5 * (Math.floor(i / k) % 2 ? Math.cos(turn) : Math.sin(turn))
    }
  }
  return tensor(data, [1, tokens!, width!])
}

/** Linear layers that only pre-training has. */
export interface Heads {
  /** From a patch of E_v: the colour of the object there or none, its shape, its centre. */
  color: Linear
  shape: Linear
  centre: Linear
  /** From the mean visual token: the answer's first word. */
  word: Linear
}

export function freshHeads(seed: number): Heads {
  const { vision, language } = tinyConfig()
  const random = new Random(seed + 1)
  const head = (name: string, out: number, into: number): Linear => ({
    weight: keep(random.normal([out, into], 0, 1 / Math.sqrt(into))).requireGrad(`head.${name}.weight`),
    bias: keep(full([out], 0)).requireGrad(`head.${name}.bias`),
  })
  return {
    color: head('color', COLORS.length + 1, vision.hiddenSize),
    shape: head('shape', SHAPES.length, vision.hiddenSize),
    centre: head('centre', 2, vision.hiddenSize),
    word: head('word', VOCABULARY_SIZE, language.hiddenSize),
  }
}

/** The tensors of the heads. */
export const headTensors = (heads: Heads): Tensor[] =>
  Object.values(heads).flatMap(({ weight, bias }: Linear) => [weight, bias!])

// --- after ----------------------------------------------------------------------------------------------------------

/** Refuses a folder that is there and holds anything but a checkpoint. */
export async function checkPlace(folder: string): Promise<void> {
  const found = await readdir(folder).catch((error: NodeJS.ErrnoException): string[] => {
    if (error.code === 'ENOENT') return []
    throw invalid(folder, 'a folder, or nothing yet', error)
  })
  if (found.length > 0 && !found.includes('model.safetensors')) {
    throw invalid(
      folder,
      'an empty place, or a checkpoint written earlier',
      'other files',
      'remove them or choose another place',
    )
  }
}

/**
 * Writes the folder whole or not at all: config.json, model.safetensors in bfloat16, generation_config.json,
 * tokenizers, preprocessor and the card. An older checkpoint there goes when the new one is complete.
 *
 * @param card what README.md says, once the folder can be loaded and measured
 */
export async function saveCheckpoint(
  folder: string,
  model: ImageModel,
  card: (part: string) => Promise<string>,
): Promise<void> {
  await checkPlace(folder)
  const part = join(dirname(folder), `.${basename(folder)}.${process.pid}.part`)
  try {
    await rm(part, { recursive: true, force: true })
    await mkdir(part, { recursive: true })
    const speaker = model.config.language.kind === 't5' ? 't5' : 'llama'
    await writeFile(join(part, 'config.json'), json(configOf(speaker)))
    await writeFile(join(part, 'generation_config.json'), json(generationOf(speaker)))
    await writeTokenizerFiles(part)
    await writeSafetensors(join(part, 'model.safetensors'), await rounded(model), { format: 'pt' })
    await writeFile(join(part, 'README.md'), await card(part))
    await rm(folder, { recursive: true, force: true })
    await rename(part, folder)
  } catch (error) {
    await rm(part, { recursive: true, force: true })
    throw error
  }
}

const json = (value: object): string => `${JSON.stringify(value, null, 2)}\n`

function rounded(model: ImageModel): Promise<TensorData[]> {
  return scope(() =>
    Promise.all(
      [...model.weights].map(async ([name, t]) => ({
        name,
        dtype: 'BF16' as const,
        shape: t.shape,
        data: await cast(t.detach(), 'bfloat16').data(),
      })),
    ),
  )
}
