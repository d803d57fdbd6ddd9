/** `mtransllama/checkpoint`: what a checkpoint folder holds, before a weight is read; its other forms; safetensors. */
export { parseModelConfig, readModelConfig } from '../checkpoint/config.js'
export type { ModelConfig } from '../models/image-model.js'
export type { LanguageConfig } from '../models/language.js'
export { convertCheckpoint, type Converted, type ConvertOptions } from '../checkpoint/convert.js'
export { assertComplete, planCheckpoint, type CheckpointPlan } from '../checkpoint/plan.js'
export { findModel, type Found, type HubOptions } from '../files/hub.js'
export { readTorch } from '../files/torch.js'
export {
  readAsFloat32,
  readEntry,
  readHeader,
  writeSafetensors,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type TensorData,
} from '../files/safetensors.js'
