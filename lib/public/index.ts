/**
 * `mtransllama`: an image language model answers questions about videos. Open, ask, train, evaluate. Importing it does
 * no work; the native addon is loaded by the first tensor.
 */
export {
  openModel,
  type Answered,
  type AskOptions,
  type Model,
  type OpenOptions,
  type Question,
} from '../session/model.js'
export { exportMerged, type Exported } from '../session/export.js'
export type { Checkpoint } from '../session/checkpoint.js'
export type { Clip, Sampling } from '../data/frames.js'
export type { DeviceChoice } from '../tensor/device.js'
export type { Precision } from '../tensor/dtype.js'

// Training and evaluation
export { parseTrainConfig, readTrainConfig, trainConfigJsonSchema, type TrainConfig } from '../train/config.js'
export {
  train,
  type EpochEvent,
  type StepEvent,
  type TrainEvents,
  type TrainOptions,
  type TrainResult,
  type Validation,
  type ValidationEvent,
} from '../train/loop.js'
export {
  accuracy,
  evaluate,
  type Accuracy,
  type EvaluateOptions,
  type Prediction,
  type Unpredicted,
} from '../eval/evaluate.js'
export { manifestJsonSchema, readManifest, type Sample } from '../data/manifest.js'

// The adapter: everything that is trained
export { Adapter, type GivenMasks } from '../adapter/adapter.js'
export { parseAdapterConfig, type AdapterConfig } from '../adapter/config.js'
export {
  countGroups,
  countTrained,
  trainedParameters,
  type GroupCount,
  type ParameterGroup,
  type TrainedParameter,
} from '../adapter/parameters.js'
export { readAdapterInfo, saveAdapter, type AdapterInfo, type AdapterMeta } from '../adapter/save.js'

// Several processes
export { mpiRanks } from '../ranks/mpi.js'
export { RankError, Ranks, RankStopped, type Transport } from '../ranks/ranks.js'

export { InputError } from '../errors.js'
