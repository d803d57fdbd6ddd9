/** Opens a Hugging Face folder as an image model. */
import { invalid } from '../errors.js'
import {
  assertComplete,
  fingerprint,
  planCheckpoint,
  visionFingerprint,
  type CheckpointPlan,
} from '../checkpoint/plan.js'
import { loadWeights } from './weights.js'
import { ImageModel } from '../models/image-model.js'
import type { Precision } from '../tensor/dtype.js'
import { chooseDevice, type DeviceChoice } from '../tensor/device.js'

export interface LoadedModel {
  model: ImageModel
  plan: CheckpointPlan
  /** Names this set of weights; adapters remember it. */
  fingerprint: string
  /** Names what its vision tower computes; features remember it. */
  visionFingerprint: string
}

export interface LoadOptions {
  /** float32 copies of all weights, which can be trained. */
  trained?: boolean
  /** Where the model computes. Default: the CPU. `cuda` throws where there is none; `auto` takes the CPU then. */
  device?: DeviceChoice | undefined
  /** What activations are stored in, default float32. With bfloat16, matrices are too: the fast path of a GPU. */
  precision?: Precision | undefined
}

/**
 * Loads an InstructBLIP or BLIP-2 checkpoint: config.json with model.safetensors, or its shards with their index.
 * Throws an InputError that lists what is missing, wrong or unexpected.
 */
export async function loadModel(
  folder: string,
  { trained = false, device = 'cpu', precision = 'float32' }: LoadOptions = {},
): Promise<LoadedModel> {
  if (precision !== 'float32' && precision !== 'bfloat16') throw invalid('precision', 'float32 or bfloat16', precision)
  if (trained && precision !== 'float32') throw invalid('precision', 'float32, as all weights are trained', precision)
  const place = chooseDevice(device).device
  const plan = await planCheckpoint(folder)
  assertComplete(plan)
  const weights = await loadWeights(plan, { trained, device: place, precision })
  return {
    model: new ImageModel(plan.config, weights, precision),
    plan,
    fingerprint: await fingerprint(plan),
    visionFingerprint: await visionFingerprint(plan),
  }
}
