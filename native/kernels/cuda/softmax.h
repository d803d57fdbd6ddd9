// Online softmax of rows on CUDA. Four adjacent lanes share a row.
//
//   run_max = max_k s_k      run_sum = Σ_k exp(s_k − run_max)      lse = run_max + ln run_sum
//
// Further keys update both (Milakov & Gimelshein 2018): run_sum, and every sum weighted like it, is first multiplied by
// exp(old run_max − new run_max). Where no key is visible, run_max and lse are −∞ and run_sum is 0.
#pragma once
#include "kernels/cuda/mask.h"

namespace mt::cuda {

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/// Updates run_max by each lane's greatest new score. Returns by what earlier sums are multiplied.
__device__ inline float raise(float& run_max, float lane_max) {
  const float now = fmaxf(quad_max(lane_max), run_max);
  const float shrink = now == kNone ? 1.0f : __expf(run_max - now);
  run_max = now;
  return shrink;
}
/// exp(score − run_max), 0 for a pair that is not seen.
__device__ inline float exp_below(float score, float run_max) {
  return score == kNone ? 0.0f : __expf(score - run_max);
}
__device__ inline float log_sum_exp(float run_max, float run_sum) {
  return run_sum > 0 ? run_max + logf(run_sum) : kNone;
}

}  // namespace mt::cuda
