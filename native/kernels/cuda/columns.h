// Sums over the rows of a matrix, column by column: gradients of biases, of norms' weights, of repeated tensors.
#pragma once
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device.h"

namespace mt::cuda {

inline constexpr int kColumns = 32;                  // of a block
inline constexpr int kStrips = kThreads / kColumns;  // threads of a column
inline constexpr int64_t kChunkRows = 32 * kStrips;  // of a block

/// The sum of x over the threads of a column, in their order; valid in the first of them. `shared` has kThreads
/// numbers.
__device__ inline float column_sum(float x, float* shared) {
  __syncthreads();
  shared[threadIdx.x] = x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < kStrips; ++i) sum += shared[i * kColumns + threadIdx.x % kColumns];
  return sum;
}

/// y[chunk,j] = factor·Σ x[i,j] over the chunk's rows: each strip sums its rows from the first to the last, then the
/// strips are added in order. A block per chunk and one of `tiles` tiles of columns.
template <typename A, typename B>
__global__ void __launch_bounds__(kThreads, 8)
    sum_chunk(const A* x, B* y, int64_t rows, int64_t n, int64_t tiles, float factor) {
  __shared__ float shared[kThreads];
  const int64_t chunk = blockIdx.x / tiles, c = blockIdx.x % tiles * kColumns + threadIdx.x % kColumns,
                end = min(rows, (chunk + 1) * kChunkRows);
  float sum = 0;
  if (c < n)
    for (int64_t i = chunk * kChunkRows + threadIdx.x / kColumns; i < end; i += kStrips) sum += float(x[i * n + c]);
  sum = column_sum(sum, shared);
  if (threadIdx.x < kColumns && c < n) y[chunk * n + c] = B(factor * sum);
}

/// y [n] = factor·Σ over the rows of x [rows,n], in float32: by chunks of rows, then over the sums of the chunks, until
/// one row is left.
template <typename A, typename B>
void sum_columns(const A* x, B* y, int64_t rows, int64_t n, float factor = 1) {
  const int64_t chunks = std::max<int64_t>(1, ceil_div(rows, kChunkRows)), tiles = ceil_div(n, kColumns);
  if (!n) return;
  const auto pass = [&](auto* to, float by) {
    launch(sum_chunk<A, std::remove_pointer_t<decltype(to)>>, blocks(chunks * tiles, 1), dim3(kThreads), 0, x, to, rows,
           n, tiles, by);
  };
  if (chunks == 1) return pass(y, factor);
  Scratch part(size_t(chunks * n) * sizeof(float));
  pass(part.as<float>(), 1.0f);
  sum_columns((const float*)part.as<float>(), y, chunks, n, factor);
}

}  // namespace mt::cuda
