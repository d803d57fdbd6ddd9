/** An open checkpoint folder: the image model, its tokenizers and its preprocessing. */
import { qformerTokenizerFolder, readGenerationConfig } from '../checkpoint/config.js'
import {
  assertComplete,
  fingerprint,
  planCheckpoint,
  visionFingerprint,
  type CheckpointPlan,
} from '../checkpoint/plan.js'
import { findPreprocessor, type Preprocessor } from '../data/preprocess.js'
import { invalid } from '../errors.js'
import { ImageModel, type ModelConfig } from '../models/image-model.js'
import { chooseDevice, type DeviceChoice } from '../tensor/device.js'
import type { Precision } from '../tensor/dtype.js'
import type { SpecialIds } from '../text/prompts.js'
import { checkTokenizer, loadTokenizer, type Tokenizer } from '../text/tokenizer.js'
import { weightsPolicy, type WeightsChoice, type WeightsPolicy } from './budget.js'
import { cacheFile, cacheFolder } from './quantised-cache.js'
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
  /** In which form frozen matrices are held: as stored, or what they were converted to. */
  form: WeightsPolicy['form']
  /** Why the model computes in its precision. */
  precisionReason: string
  /** What was chosen for want of memory, and assumed of what the folder does not state: one sentence each. */
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
  /**
   * The dtype of activations. Default: float32. With bfloat16, matrices are bfloat16 too: the fast path of a GPU.
   * `auto`: bfloat16 where matrices are held in it and the processor or the GPU multiplies it, else float32.
   */
  precision?: Precision | 'auto' | undefined
  /**
   * In which form frozen matrices are held: `stored` as in the files, `bfloat16` where those are float32, or `auto`,
   * the default: bfloat16 where float32 would take more than a third of the memory, else as stored. `int8` and `nf4`
   * quantise the matrices of the layers of vision tower and language model (docs/weights.md).
   */
  weights?: WeightsChoice | undefined
  /**
   * The folder that keeps quantised matrices for the next time, or `false` for none. Default: MT_CACHE, else
   * `mtransllama` in the user's folder for caches.
   */
  weightsCache?: string | false | undefined
  /** Called while weights are read into memory: bytes so far, and in all. */
  onLoad?: ((bytes: number, total: number) => void) | undefined
}

/**
 * Opens an InstructBLIP or BLIP-2 folder in the Hugging Face layout. Tokenizers are checked against the embeddings. The
 * caller frees `model`.
 *
 * @throws InputError that lists what is missing, wrong or unexpected
 */
export async function openCheckpoint(folder: string, options: LoadOptions = {}): Promise<Checkpoint> {
  const tokenizer = await loadTokenizer(folder)
  const { plan, model, policy } = await load(folder, options)
  try {
    const { config } = model
    const { preprocessor, notes } = await findPreprocessor(folder, config.vision.imageSize)
    const { qformerTokenizer, special } = await openTexts(folder, config, tokenizer)
    const { eosIds = [] } = await readGenerationConfig(folder)
    return {
      folder,
      plan,
      model,
      fingerprint: await fingerprint(plan),
      visionFingerprint: `${await visionFingerprint(plan)}${policy.form === 'stored' ? '' : ` as ${policy.form}`}`,
      preprocessor,
      form: policy.form,
      precisionReason: policy.because,
      notes: [...policy.notes, ...notes],
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

/** The tokenizers of a folder, checked against the embeddings. */
export async function openTexts(
  folder: string,
  config: ModelConfig,
  tokenizer?: Tokenizer,
): Promise<Pick<Checkpoint, 'tokenizer' | 'qformerTokenizer' | 'special'>> {
  tokenizer ??= await loadTokenizer(folder)
  const qformerTokenizer = config.qformer.hasText
    ? await loadTokenizer(await qformerTokenizerFolder(folder, config))
    : undefined
  const special = specialIds(tokenizer, config.language)
  checkTokenizer(tokenizer, config.language.vocabSize, 'language model', {
    eos_token: special.eosId,
    bos_token: special.bosId,
    pad_token: special.padId,
  })
  if (qformerTokenizer) checkTokenizer(qformerTokenizer, config.qformer.vocabSize, 'Q-Former')
  return { tokenizer, qformerTokenizer, special }
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
  {
    trained = false,
    device: wanted = 'cpu',
    precision,
    weights: form,
    weightsCache,
    onLoad,
  }: LoadOptions & { trained?: boolean },
): Promise<{ plan: CheckpointPlan; model: ImageModel; policy: WeightsPolicy }> {
  if (trained && (precision ?? 'float32') !== 'float32')
    throw invalid('precision', 'float32, as all weights are trained', precision)
  const { device } = chooseDevice(wanted)
  const plan = await planCheckpoint(folder)
  assertComplete(plan)
  for (const file of plan.files) await file.check?.()
  const policy = weightsPolicy({ entries: [...plan.entries.values()], device, weights: form, precision })
  const quantized = policy.form === 'int8' || policy.form === 'nf4' ? policy.form : undefined
  if (trained && quantized) throw invalid('weights', 'float32 matrices, as all weights are trained', quantized)
  const cache =
    quantized && weightsCache !== false ? await cacheFile(weightsCache ?? cacheFolder(), plan, quantized) : undefined
  const weights = await loadWeights(plan, { trained, device, policy, onLoad, cache })
  const model = new ImageModel(plan.config, weights, policy.precision)
  const bad = await firstNotFinite([...weights].filter(([name]) => MASKING.test(name)))
  if (bad === undefined) return { plan, model, policy }
  model.dispose()
  throw new NotFiniteError(
    `${folder}: the weight ${bad} holds a NaN or an infinity; the checkpoint is damaged, fetch it again.`,
  )
}
