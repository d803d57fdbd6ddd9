// Numbers of quantised matrices (core/quantised.h) on a CUDA device.
#pragma once
#include "core/quantised.h"
#include "kernels/cuda/device.h"

namespace mt::cuda {

/// The level of NF4's code: a tree of selections, since a table of constants would lie in memory.
__device__ inline float nf4_level(unsigned code) {
  constexpr auto& q = kNf4Levels;
  const bool one = code & 1, two = code & 2, four = code & 4;
  const float low = four ? (two ? (one ? q[7] : q[6]) : (one ? q[5] : q[4]))
                         : (two ? (one ? q[3] : q[2]) : (one ? q[1] : q[0]));
  const float high = four ? (two ? (one ? q[15] : q[14]) : (one ? q[13] : q[12]))
                          : (two ? (one ? q[11] : q[10]) : (one ? q[9] : q[8]));
  return code & 8 ? high : low;
}
/// The scale of nf4's block number i.
__device__ inline float block_scale(const Quantised& q, int64_t i) {
  const ScaleGroup g = q.groups[i / kGroupBlocks];
  return q.map[q.blocks[i]] * g.scale + g.offset;
}
/// The place of a column among those that int8 keeps, or that of the first behind it.
__device__ inline int64_t kept_from(const Quantised& q, int64_t column) {
  int64_t low = 0, high = q.kept_columns;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (q.columns[middle] < column) low = middle + 1;
    else high = middle;
  }
  return low;
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
  return nf4_level(i % 2 ? codes & 15 : codes >> 4) * block_scale(q, i / kBlockElements);
}

}  // namespace mt::cuda
