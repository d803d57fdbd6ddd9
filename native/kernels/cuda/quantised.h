// Numbers of quantised matrices (core/quantised.h) on a CUDA device. Each is what the CPU makes of it, to the bit.
#pragma once
#include "core/quantised.h"
#include "kernels/cuda/device.h"

namespace mt::cuda {

// ---- what codes stand for ----

/// Copies nf4's levels to shared memory, where a warp reads them without conflicts. All threads call it; it ends with a
/// barrier.
__device__ inline void load_levels(const Quantised& q, float (&levels)[16]) {
  if (q.dtype != DType::nf4) return;
  if (threadIdx.x < 16) levels[threadIdx.x] = q.levels[threadIdx.x];
  __syncthreads();
}
/// The lowest byte as a signed integer: in the lowest bits of 2^23 it is one without a conversion.
__device__ inline float signed_byte(uint32_t x) {
  return __uint_as_float(0x4b000000u | ((x & 0xff) ^ 0x80)) - float((1 << 23) + 128);
}
/// The scale of a block of nf4, by its code and its group. The product is rounded before the sum.
__device__ inline float block_scale(const Quantised& q, uint32_t code, const ScaleGroup& g) {
  return __fmul_rn(q.map[code], g.scale) + g.offset;
}
__device__ inline float block_scale(const Quantised& q, int64_t block) {
  return block_scale(q, q.blocks[block], q.groups[block / kGroupBlocks]);
}
/// What the code in a place stands for: the number, but for those of columns that int8 keeps.
__device__ inline float decoded(const Quantised& q, const float* levels, int64_t row, int64_t col) {
  const int64_t i = row * q.width + col;
  if (q.dtype == DType::i8) return signed_byte(q.codes[i]) * q.scales[row];
  return levels[q.codes[i / 2] >> (i % 2 ? 0 : 4) & 15] * block_scale(q, i / kBlockElements);
}

// ---- columns that int8 keeps; nf4 keeps none ----

/// The number of the first kept column at or behind a column.
__device__ inline int kept_from(const Quantised& q, int64_t col) {
  int low = 0, high = int(q.kept_columns);
  while (low < high) {
    const int middle = (low + high) / 2;
    if (q.columns[middle] < col) low = middle + 1;
    else high = middle;
  }
  return low;
}
/// The same from the answer for a column that is a little before this one.
__device__ inline int kept_from(const Quantised& q, int64_t col, int before) {
  while (before < q.kept_columns && q.columns[before] < col) ++before;
  return before;
}
/// Puts what is kept in place among N numbers of a row from column `col` on; `kept`: kept_from(col).
template <int N>
__device__ inline void put_kept(const Quantised& q, int64_t row, int64_t col, int kept, float (&v)[N]) {
  if (row >= q.rows) return;
  for (; kept < q.kept_columns && q.columns[kept] < col + N; ++kept) {
    const float x = float(q.kept[row * q.kept_columns + kept]);
    const int at = int(q.columns[kept] - col);
#pragma unroll
    for (int e = 0; e < N; ++e) v[e] = e == at ? x : v[e];
  }
}

// ---- several numbers of a row ----

/// Eight codes as they lie in memory, with what scales them: loads of which none waits for another.
struct Codes {
  uint32_t words[2];  // int8: a code in each byte; nf4: one in each half byte, then that of the block
  ScaleGroup scale;   // int8: of the row; nf4: of the block's group
};
/// From column `col`, a multiple of 8 as the width is. Beyond the matrix: codes of zeros.
__device__ inline Codes read_codes(const Quantised& q, int64_t row, int64_t col) {
  if (row >= q.rows || col >= q.width) return {};
  const int64_t first = row * q.width + col;
  if (q.dtype == DType::i8) {
    const uint2 x = *reinterpret_cast<const uint2*>(q.codes + first);
    return {{x.x, x.y}, {q.scales[row], 0}};
  }
  const int64_t block = first / kBlockElements;
  return {{*reinterpret_cast<const uint32_t*>(q.codes + first / 2), q.blocks[block]}, q.groups[block / kGroupBlocks]};
}
/// What they stand for, as decoded().
__device__ inline void decode(const Quantised& q, const float* levels, const Codes& c, float (&v)[8]) {
  if (q.dtype == DType::i8) {
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = signed_byte(c.words[e / 4] >> (8 * (e % 4))) * c.scale.scale;
  } else {
    const float scale = block_scale(q, c.words[1], c.scale);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = levels[c.words[0] >> (4 * (e ^ 1)) & 15] * scale;
  }
}
/// Four numbers of a row from column `col`, a multiple of 4; zeros beyond the matrix. `kept`: kept_from(col).
__device__ inline void fetch4(const Quantised& q, const float* levels, int64_t row, int64_t col, int kept,
                              float (&v)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) v[e] = 0;
  if (row >= q.rows || col >= q.width) return;
  const int64_t first = row * q.width + col;
  if (q.width % 4) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (col + e < q.width) v[e] = decoded(q, levels, row, col + e);
  } else if (q.dtype == DType::i8) {
    const uint32_t codes = *reinterpret_cast<const uint32_t*>(q.codes + first);
    const float scale = q.scales[row];
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = signed_byte(codes >> (8 * e)) * scale;
  } else {  // in one block
    const uint32_t codes = *reinterpret_cast<const uint16_t*>(q.codes + first / 2);
    const float scale = block_scale(q, first / kBlockElements);
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = levels[codes >> (4 * (e ^ 1)) & 15] * scale;
  }
  put_kept(q, row, col, kept, v);
}

}  // namespace mt::cuda
