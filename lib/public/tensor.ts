/**
 * `mtransllama/tensor`: computing on the CPU and on GPUs. Tensors, devices, CUDA graphs, profiles, gradients and every
 * operator; docs/gpu-api.md is the guide. Importing it does no work; the native addon is loaded by the first tensor.
 */
export { memory, releaseCached, resetPeak, sync, syncBlocking, threads, deviceMemory } from '../tensor/runtime.js'
export { empty, tensor, Tensor, type Backward } from '../tensor/tensor.js'
export type { DType, QuantizedDType, TypedArray } from '../tensor/dtype.js'
export type { DeviceMemory, Memory } from '../native.js'
export {
  chooseDevice,
  devices,
  type Choice,
  type CudaDevice,
  type Device,
  type DeviceChoice,
  type Devices,
} from '../tensor/device.js'
export type { Precision } from '../tensor/dtype.js'
export { Graph } from '../tensor/cuda-graph.js'
export {
  Profile,
  profile,
  startProfile,
  stopProfile,
  type ChromeEvent,
  type ChromeTrace,
  type ProfileEvent,
  type ProfileRow,
} from '../tensor/profile.js'
export { keep, scope } from '../tensor/scope.js'
export { backward, noGrad, record, recordAll, recording, recompute } from '../tensor/tape.js'
export { InputError } from '../errors.js'

// Operators: all of lib/ops
export {
  accumulate,
  adamw,
  adamwAll,
  adamwSchedule,
  addSquareSum,
  gradientNorm,
  type AdamWStep,
  type Kind,
  type Trained,
} from '../ops/adamw.js'
export { argmax } from '../ops/argmax.js'
export { attention, type AttentionOptions } from '../ops/attention.js'
export { cacheAppend } from '../ops/cache-append.js'
export type { Columns } from '../ops/columns.js'
export { cast, contiguous, copy, fill, full, write, zeros } from '../ops/copy.js'
export { crossEntropy, IGNORE } from '../ops/cross-entropy.js'
export { add, gate, gelu, geluTanh, multiply, relu, scale } from '../ops/elementwise.js'
export { embedding } from '../ops/embedding.js'
export { layerNorm, layerNormJoin, layerNormSplit, type NormOf } from '../ops/layernorm.js'
export { linear, linearGelu } from '../ops/linear.js'
export { lora, loraPack, type Update } from '../ops/lora.js'
export { patchify } from '../ops/patchify.js'
export { dequantize, quantize } from '../ops/quantize.js'
export { Random } from '../ops/random.js'
export { mean, sumDim, sumLeading } from '../ops/reduce.js'
export { rmsNorm } from '../ops/rmsnorm.js'
export { rope } from '../ops/rope.js'
export { router, type RouterWeights } from '../ops/router.js'
export { siluMul } from '../ops/silu-mul.js'
export { sourceAttention, type SourceAttentionOptions } from '../ops/source-attention.js'
export { concat, expand, narrow, permute, reshape, split, swap } from '../ops/views.js'

// An optimiser over tensors
export { AdamW, type AdamWOptions, type Outcome, type Parameter } from '../train/optimizer.js'
