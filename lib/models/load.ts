/** Opens a Hugging Face folder as an image model. */
import { assertComplete, fingerprint, planCheckpoint, type CheckpointPlan } from '../weights/plan.js'
import { loadWeights } from '../weights/load.js'
import { ImageModel } from './mtransllama.js'

export interface LoadedModel {
  model: ImageModel
  plan: CheckpointPlan
  /** Names this set of weights; adapters remember it. */
  fingerprint: string
}

/**
 * Loads an InstructBLIP or BLIP-2 checkpoint: config.json with model.safetensors, or its shards with their index.
 * Throws an InputError that lists what is missing, wrong or unexpected.
 */
export async function loadModel(folder: string, options: { trained?: boolean } = {}): Promise<LoadedModel> {
  const plan = await planCheckpoint(folder)
  assertComplete(plan)
  const weights = await loadWeights(plan, options)
  return { model: new ImageModel(plan.config, weights), plan, fingerprint: await fingerprint(plan) }
}
