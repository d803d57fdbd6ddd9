// What many kernels use: element types, grids, sums in a fixed order.
#pragma once
#include "core/cuda.h"
#include "core/round.h"
#include "core/view.h"
#include "kernels/cuda/port.h"

namespace mt::cuda {

inline constexpr int kThreads = 256;

/// The grid of one dimension for n items, `size` a block: up to 2^31 − 1 blocks.
inline dim3 blocks(int64_t n, int64_t size = kThreads) { return dim3(unsigned(ceil_div(n, size))); }

__device__ inline int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

/// Calls f with a value of the element type of an activation: float or bf16.
template <typename F>
void each_activation(DType t, F f) {
  t == DType::bf16 ? f(bf16{}) : f(float{});
}
/// Calls f with a value of the element type of a weight: float, bf16 or f16.
template <typename F>
void each_weight(DType t, F f) {
  t == DType::bf16 ? f(bf16{}) : t == DType::f16 ? f(f16{}) : f(float{});
}

/// GELU, x Φ(x), not its approximation by tanh.
__device__ inline float gelu(float x) { return 0.5f * x * erfcf(-x * 0.70710678118654752f); }

/// The sum over a warp, in every lane, in a fixed order.
template <typename T>
__device__ inline T warp_sum(T x) {
  for (int o = 16; o; o /= 2) x += __shfl_xor_sync(~0u, x, o);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int o = 16; o; o /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, o));
  return x;
}
/// The sum over a block of full warps, in every thread. `part` is shared memory for 32 numbers. All threads call it.
template <typename T>
__device__ inline T block_sum(T x, T* part) {
  x = warp_sum(x);
  __syncthreads();  // threads may still read part of the last sum
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += part[i];
  return sum;
}
/// Likewise the maximum of a block.
__device__ inline float block_max(float x, float* part) {
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
  __syncthreads();
  float most = part[0];
  for (unsigned i = 1; i < blockDim.x / 32; ++i) most = fmaxf(most, part[i]);
  return most;
}

/// Reports bad data to the host, where nothing is reported yet; see Stream::fault.
__device__ inline void report(Fault* f, unsigned what, long long value, long long bound) {
  if (atomicCAS(&f->set, 0u, 1u)) return;
  f->what = what;
  f->value = value;
  f->bound = bound;
}

}  // namespace mt::cuda
