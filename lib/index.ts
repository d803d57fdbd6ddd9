/**
 * mtransllama: an image language model answers questions about videos. The public names; importing them does no work,
 * and the native addon is loaded by the first tensor.
 */

// Open, ask, train, evaluate
export { openModel, type AskOptions, type Model, type OpenOptions, type Question } from './session/model.js'
export type { Checkpoint } from './session/checkpoint.js'
export {
  accuracy,
  evaluate,
  type Accuracy,
  type EvaluateOptions,
  type Prediction,
  type Unpredicted,
} from './eval/evaluate.js'
export { Features, type FeatureOptions } from './session/features.js'
export { generate, type GenerateOptions } from './session/generate.js'
export {
  blockFlops,
  coreFlops,
  crossover,
  languageFlops,
  publishedModels,
  qformerFlops,
  scoreProducts,
  trainedCount,
  videoCost,
  type Form,
  type Pass,
  type PublishedModel,
  type VideoCost,
  type VideoSizes,
} from './eval/cost.js'
export { parseTrainConfig, readTrainConfig, trainConfigJsonSchema, type TrainConfig } from './train/config.js'
export {
  train,
  type EpochEvent,
  type StepEvent,
  type TrainEvents,
  type TrainOptions,
  type TrainResult,
} from './train/loop.js'
export { Trainer, type StepResult } from './train/trainer.js'
export { AdamW, type AdamWOptions, type Parameter } from './train/optimizer.js'

// The adapter: everything that is trained
export { Adapter, type GivenMasks } from './adapter/adapter.js'
export { parseAdapterConfig, type AdapterConfig } from './adapter/config.js'
export {
  countGroups,
  countTrained,
  trainedParameters,
  type GroupCount,
  type ParameterGroup,
  type TrainedParameter,
} from './adapter/parameters.js'
export {
  readAdapterInfo,
  saveAdapter,
  type AdapterInfo,
  type AdapterMeta,
} from './adapter/save.js'

// The image model
export { ImageModel, trainAll, type QFormerText, type TextRows, type VideoAdapter } from './models/image-model.js'
export { parseModelConfig, readModelConfig } from './checkpoint/config.js'
export type { LanguageConfig } from './models/language.js'
export type { ModelConfig } from './models/image-model.js'
export { assertComplete, planCheckpoint, type CheckpointPlan } from './checkpoint/plan.js'
export {
  readAsFloat32,
  readEntry,
  readHeader,
  writeSafetensors,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type TensorData,
} from './files/safetensors.js'

// Videos, manifests, words
export { readFrames, sampleTimes, type Clip, type RgbFrame, type Sampling } from './data/frames.js'
export { manifestJsonSchema, readManifest, type Sample } from './data/manifest.js'
export {
  findPreprocessor,
  preprocess,
  readPreprocessor,
  type Preprocessor,
  type PreprocessorSource,
} from './data/preprocess.js'
export { loadTokenizer, makeTokenizer, type EncodeOptions, type TextStream, type Tokenizer } from './text/tokenizer.js'

// Tensors
export {
  empty,
  memory,
  resetPeak,
  sync,
  syncBlocking,
  tensor,
  Tensor,
  threads,
  type Backward,
  type DType,
  type TypedArray,
} from './tensor/tensor.js'
export {
  chooseDevice,
  deviceMemory,
  devices,
  type Choice,
  type CudaDevice,
  type Device,
  type DeviceChoice,
  type Devices,
} from './tensor/device.js'
export { Graph } from './tensor/cuda-graph.js'
export {
  Profile,
  profile,
  startProfile,
  stopProfile,
  type ChromeEvent,
  type ChromeTrace,
  type ProfileEvent,
  type ProfileRow,
} from './tensor/profile.js'
export { keep, scope } from './tensor/scope.js'
export { backward, checkpoint, noGrad, record, recordAll } from './tensor/tape.js'
export type { DeviceMemory, Memory } from './native.js'
export { InputError } from './errors.js'

// Operators
export { adamw, addSquareSum, type AdamWStep } from './ops/adamw.js'
export { attention, type AttentionOptions } from './ops/attention.js'
export { cast, contiguous, copy, full, write, zeros } from './ops/copy.js'
export { crossEntropy, IGNORE } from './ops/cross-entropy.js'
export { add, gate, gelu, multiply, relu, scale } from './ops/elementwise.js'
export { embedding } from './ops/embedding.js'
export { linear, linearGelu } from './ops/linear.js'
export { layerNorm } from './ops/layernorm.js'
export { lora } from './ops/lora.js'
export { patchify } from './ops/patchify.js'
export { Random } from './ops/random.js'
export { mean, sumDim, sumLeading } from './ops/reduce.js'
export { rmsNorm } from './ops/rmsnorm.js'
export { rope } from './ops/rope.js'
export { router, type RouterWeights } from './ops/router.js'
export { siluMul } from './ops/silu-mul.js'
export { sourceAttention, type SourceAttentionOptions } from './ops/source-attention.js'
export { concat, expand, narrow, permute, reshape, split, swap } from './ops/views.js'
