#include "ops/argmax.h"

#include "kernels/cuda/device.h"

namespace mt::cuda {
namespace {

constexpr int kBlock = 1024;  // threads: a row has tens of thousands of numbers, and there are few rows
constexpr int kNone = INT32_MAX;

/// A number of a row and its index in it.
struct Candidate {
  float value;
  int index;  // kNone: none yet
};

/// The larger one, of equal ones the earlier: any order of pairs gives the same result.
__device__ Candidate better(Candidate a, Candidate b) {
  return b.index != kNone && (a.index == kNone || b.value > a.value || (b.value == a.value && b.index < a.index)) ? b
                                                                                                                  : a;
}
__device__ Candidate warp_best(Candidate c) {
  for (int o = 16; o; o /= 2) c = better(c, {__shfl_xor_sync(~0u, c.value, o), __shfl_xor_sync(~0u, c.index, o)});
  return c;
}

/// A block per row. One number that is not finite decides the result.
template <typename T>
__global__ void __launch_bounds__(kBlock) argmax_kernel(const T* x, int32_t* y, int n) {
  __shared__ Candidate best[kBlock / 32];
  __shared__ int bad[kBlock / 32];
  const T* row = x + int64_t(blockIdx.x) * n;
  Candidate mine{0, kNone};
  bool odd = false;
  for (int j = int(threadIdx.x); j < n; j += kBlock) {
    float v = float(row[j]);
    odd |= !(fabsf(v) < INFINITY);
    mine = better(mine, {v, j});
  }
  mine = warp_best(mine);
  odd = __any_sync(~0u, odd);
  if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = mine, bad[threadIdx.x / 32] = odd;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  mine = warp_best(best[threadIdx.x]);
  odd = __any_sync(~0u, bad[threadIdx.x] != 0);
  if (threadIdx.x == 0) y[blockIdx.x] = odd ? -1 : mine.index;
}

}  // namespace

// ---- operators ----

void argmax(const Act& x, Out y) {
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    launch(argmax_kernel<T>, dim3(unsigned(x.shape[0])), dim3(kBlock), 0, (const T*)x.data<T>(), y.data<int32_t>(),
           int(x.shape[1]));
  });
}

}  // namespace mt::cuda
