// Numbers of quantised matrices (core/quantised.h) on a CUDA device.
#pragma once
#include "core/quantised.h"
#include "kernels/cuda/device.h"

namespace mt::cuda {

/// The scale of nf4's block number i.
__device__ inline float block_scale(const Quantised& q, int64_t i) {
  const ScaleGroup g = q.groups[i / kGroupBlocks];
  return q.map[q.blocks[i]] * g.scale + g.offset;
}
/// The place of a column among those that int8 keeps, or that of the first behind it.
__device__ inline int64_t kept_from(const Quantised& q, int64_t column) {
  if (q.dtype != DType::i8) return 0;
  int64_t low = 0, high = q.kept_columns;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (q.columns[middle] < column) low = middle + 1;
    else high = middle;
  }
  return low;
}
/// Copies nf4's levels to shared memory, where a warp reads them without conflicts. All threads call it; it ends with a
/// barrier.
__device__ inline void load_levels(const Quantised& q, float (&levels)[16]) {
  if (q.dtype != DType::nf4) return;
  if (threadIdx.x < 16) levels[threadIdx.x] = q.levels[threadIdx.x];
  __syncthreads();
}

/// N = 4 or 8 numbers of a row from column `col`, a multiple of N; zeros beyond the matrix. `kept`: kept_from(col), of
/// int8.
template <int N>
__device__ inline void fetch(const Quantised& q, const float* levels, int64_t row, int64_t col, int64_t kept,
                             float (&v)[N]) {
#pragma unroll
  for (int e = 0; e < N; ++e) v[e] = 0;
  if (row >= q.rows || col >= q.width) return;
  const int64_t first = row * q.width + col;
  const bool whole = q.width % N == 0;  // then numbers of a row lie in one word, and in one block
  const int count = q.width - col < N ? int(q.width - col) : N;
  if (q.dtype == DType::nf4) {
    if (whole) {
      const float scale = block_scale(q, first / kBlockElements);
      unsigned codes = 0;
      if constexpr (N == 8) codes = *reinterpret_cast<const uint32_t*>(q.codes + first / 2);
      else codes = *reinterpret_cast<const uint16_t*>(q.codes + first / 2);
#pragma unroll
      for (int e = 0; e < N; ++e) v[e] = levels[codes >> (4 * (e ^ 1)) & 15] * scale;
      return;
    }
#pragma unroll
    for (int e = 0; e < N; ++e)
      if (e < count) {
        const unsigned codes = q.codes[(first + e) / 2];
        v[e] = levels[(first + e) % 2 ? codes & 15 : codes >> 4] * block_scale(q, (first + e) / kBlockElements);
      }
    return;
  }
  const float scale = q.scales[row];
  if (whole) {
#pragma unroll
    for (int w = 0; w < N / 4; ++w) {
      const uint32_t codes = reinterpret_cast<const uint32_t*>(q.codes + first)[w];
#pragma unroll
      for (int e = 0; e < 4; ++e) v[4 * w + e] = float(static_cast<signed char>(codes >> (8 * e) & 255)) * scale;
    }
  } else {
#pragma unroll
    for (int e = 0; e < N; ++e)
      if (e < count) v[e] = float(static_cast<signed char>(q.codes[first + e])) * scale;
  }
  for (; kept < q.kept_columns && q.columns[kept] < col + N; ++kept) {
    const float x = float(q.kept[row * q.kept_columns + kept]);
    const int at = int(q.columns[kept] - col);
#pragma unroll
    for (int e = 0; e < N; ++e)
      if (e == at) v[e] = x;
  }
}

/// One number.
__device__ inline float dequantised(const Quantised& q, int64_t row, int64_t col) {
  if (q.dtype == DType::i8) {
    const int64_t kept = kept_from(q, col);
    if (kept < q.kept_columns && q.columns[kept] == col) return float(q.kept[row * q.kept_columns + kept]);
    return float(static_cast<signed char>(q.codes[row * q.width + col])) * q.scales[row];
  }
  const int64_t i = row * q.width + col;
  const unsigned codes = q.codes[i / 2];
  return q.levels[i % 2 ? codes & 15 : codes >> 4] * block_scale(q, i / kBlockElements);
}

}  // namespace mt::cuda
