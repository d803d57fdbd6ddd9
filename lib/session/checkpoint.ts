/** An open checkpoint folder: the image model, its tokenizers and its preprocessing. */
import { join } from 'node:path'
import { readGenerationConfig } from '../checkpoint/config.js'
import {
  assertComplete,
  fingerprint,
  planCheckpoint,
  visionFingerprint,
  type CheckpointPlan,
} from '../checkpoint/plan.js'
import { findPreprocessor, type Preprocessor } from '../data/preprocess.js'
import { invalid } from '../errors.js'
import { ImageModel } from '../models/image-model.js'
import { chooseDevice, type DeviceChoice } from '../tensor/device.js'
import type { Precision } from '../tensor/dtype.js'
import type { SpecialIds } from '../text/prompts.js'
import { checkTokenizer, loadTokenizer, type Tokenizer } from '../text/tokenizer.js'
import { specialIds } from './special-ids.js'
import { firstNotFinite, NotFiniteError } from './finite.js'
import { loadWeights } from './weights.js'

/** An open checkpoint folder. */
export interface Checkpoint {
  folder: string
  /** Its files and tensors. */
  plan: CheckpointPlan
  /** The image model over its weights; dispose it to free them. */
  model: ImageModel
  /** Identifies this set of weights; adapters record it. */
  fingerprint: string
  /** Identifies what its vision tower computes; cached features record it. */
  visionFingerprint: string
  /** How pictures are prepared. */
  preprocessor: Preprocessor
  /** Assumptions about what the folder does not state: one sentence each. */
  notes: string[]
  /** Of the language model. */
  tokenizer: Tokenizer
  /** Of the Q-Former; absent where it has no text path. */
  qformerTokenizer: Tokenizer | undefined
  /** Ids of BOS, EOS and padding. */
  special: SpecialIds
  /** Any of these ends an answer. */
  eosIds: number[]
}

/** Where a model computes, and in which precision. */
export interface LoadOptions {
  /** Where the model computes. Default: the CPU. `cuda` throws where there is none; `auto` takes the CPU then. */
  device?: DeviceChoice | undefined
  /** The dtype of activations. Default: float32. With bfloat16, matrices are bfloat16 too: the fast path of a GPU. */
  precision?: Precision | undefined
}

/**
 * Opens an InstructBLIP or BLIP-2 folder in the Hugging Face layout. Tokenizers are checked against the embeddings. The
 * caller frees `model`.
 *
 * @throws InputError that lists what is missing, wrong or unexpected
 */
export async function openCheckpoint(folder: string, options: LoadOptions = {}): Promise<Checkpoint> {
  const tokenizer = await loadTokenizer(folder)
  const { plan, model } = await load(folder, options)
  try {
    const { config } = model
    const { preprocessor, notes } = await findPreprocessor(folder, config.vision.imageSize)
    const qformerTokenizer = config.qformer.hasText ? await loadTokenizer(join(folder, 'qformer_tokenizer')) : undefined
    const special = specialIds(tokenizer, config.language)
    checkTokenizer(tokenizer, config.language.vocabSize, 'language model', {
      eos_token: special.eosId,
      bos_token: special.bosId,
      pad_token: special.padId,
    })
    if (qformerTokenizer) checkTokenizer(qformerTokenizer, config.qformer.vocabSize, 'Q-Former')
    const { eosIds = [] } = await readGenerationConfig(folder)
    return {
      folder,
      plan,
      model,
      fingerprint: await fingerprint(plan),
      visionFingerprint: await visionFingerprint(plan),
      preprocessor,
      notes,
      tokenizer,
      qformerTokenizer,
      special,
      eosIds: [...new Set([special.eosId, ...eosIds])],
    }
  } catch (error) {
    model.dispose()
    throw error
  }
}

/**
 * The image model alone of a folder: config.json with model.safetensors, or its shards with their index. It needs no
 * tokenizer.
 *
 * @param options `trained` makes float32 copies of all weights, which can be trained
 */
export async function loadImageModel(
  folder: string,
  options: LoadOptions & { trained?: boolean } = {},
): Promise<ImageModel> {
  return (await load(folder, options)).model
}

/**
 * Weights in which an infinity may mask the keys of attention, and reach no result. In all others it makes results that
 * are not finite, which are noticed.
 */
const MASKING = /(\.key|\.k_proj|\.qkv)\.bias$|relative_attention_bias\.weight$/

async function load(
  folder: string,
  { trained = false, device = 'cpu', precision = 'float32' }: LoadOptions & { trained?: boolean },
): Promise<{ plan: CheckpointPlan; model: ImageModel }> {
  if (precision !== 'float32' && precision !== 'bfloat16') throw invalid('precision', 'float32 or bfloat16', precision)
  if (trained && precision !== 'float32') throw invalid('precision', 'float32, as all weights are trained', precision)
  const chosen = chooseDevice(device).device
  const plan = await planCheckpoint(folder)
  assertComplete(plan)
  const weights = await loadWeights(plan, { trained, device: chosen, precision })
  const model = new ImageModel(plan.config, weights, precision)
  const bad = await firstNotFinite([...weights].filter(([name]) => MASKING.test(name)))
  if (bad === undefined) return { plan, model }
  model.dispose()
  throw new NotFiniteError(
    `${folder}: the weight ${bad} holds a NaN or an infinity; the checkpoint is damaged, fetch it again.`,
  )
}
