// Quantised matrices on the CPU: made, and read row by row. core/quantised.h has their layout, matmul.h their products.
#pragma once
#include "core/quantised.h"

namespace mt::kernels {

/// The scale of nf4's block number i.
inline float block_scale(const Quantised& q, int64_t i) {
  const ScaleGroup g = q.groups[i / kGroupBlocks];
  return q.map[q.blocks[i]] * g.scale + g.offset;
}

/// to[i] = element (row, col + i) as float32.
void dequantise(const Quantised& q, int64_t row, int64_t col, int64_t n, float* to);

// Products of few rows of float32 with all rows of the matrix.
void in_order_of_codes(const Quantised& q, const float* from, float* to);
/// sums[i·columns + j] = Σ x[i]·W[row + j], up to 4 of each, x [rows] as in_order_of_codes leaves them.
void quantised_dots(const Quantised& q, int64_t row, int64_t columns, const float* x, int64_t apart, int64_t rows,
                    float* scratch, float* sums);
/// Floats of `scratch`.
int64_t dots_scratch(const Quantised& q);

/// Matrices of one width whose rows lie behind each other, of any float type.
struct Source {
  const void* data;
  DType dtype;
  int64_t rows;
};
/// Quantises all of them into `to`, which is writable.
void quantise(const Source* sources, size_t count, const Quantised& to);

}  // namespace mt::kernels
