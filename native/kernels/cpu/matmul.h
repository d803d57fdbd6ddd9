// Matrix products on the CPU: float32 accumulation, factors of several float types, kernels chosen once for the machine
// (AMX beside AVX-512, AVX-512, AVX2 with FMA, or portable; MT_CPU=avx512, avx2 or portable asks for less). No
// operator.
#pragma once
#include <cstdint>

#include "core/quantised.h"

namespace mt {

/// The left factor, float32 or bfloat16: element (m, k) is data[m·row + k·col].
struct Left {
  const void* data;
  DType dtype;
  int64_t row, col;
};

/// In which order a sum along k is formed: as suits the factors, or as with a packed right factor, or a turned one.
enum class Order : uint8_t { own, packed, turned };

/// The right factor: element (k, n) is data[k·row + n·col], float32, bfloat16 or float16. A frozen one may be packed by
/// pack_right, and is then read in that form alone. A quantised one is all of its matrix or of its transpose, as row
/// and col say, and is unpacked panel by panel.
struct Right {
  const void* data;
  DType dtype;
  int64_t row, col;
  const void* packed = nullptr;
  int64_t panel = 0;             // words between packed panels, where these belong to a factor with more rows
  const void* turned = nullptr;  // the packed form of its transpose: read in place of `data`
  Order order = Order::own;      // of its sums: those with a frozen one have the bits of its packed form from the start
  Quantised quantised = {};
};
/// Where element (row, col) of a factor lies.
template <typename Factor>
const void* at(const Factor& f, int64_t row, int64_t col) {
  return static_cast<const char*>(f.data) + (row * f.row + col * f.col) * int64_t(size_of(f.dtype));
}
/// Whether a factor with n columns is the transpose of what lies in memory. A quantised matrix of one column has the
/// strides of its transpose.
inline bool is_transposed(const Right& b, int64_t n) {
  return b.row == 1 && (!is_quantised(b.dtype) || b.quantised.rows == n);
}

/// The destination, float32 or bfloat16: rows `row` elements apart.
struct Result {
  void* data;
  DType dtype;
  int64_t row;
};

/// A product of low rank that is added in the same pass: factor·left·right, left [m,rank] float32 and contiguous.
struct LowRank {
  const float* left;
  int64_t rank;
  Right right;  // float32
  float factor;
};

struct MatmulOptions {
  float alpha = 1;
  const float* bias = nullptr;  // [n]
  const LowRank* low_rank = nullptr;
  // Applied to every piece of a row once its sums are complete, while it is in cache. Rows and dtype are the result's.
  const void* residual = nullptr;  // [m,n], added last
  void (*map)(const float* from, float* to,
              int64_t n) = nullptr;  // then applied elementwise, with the result in `mapped`
  void* mapped = nullptr;            // [m,n]; may be the result itself
};

/// c = alpha·a·b + bias (+ low rank) (+ residual): a is [m,k], b is [k,n], c is [m,n]. Sums are float32, each in one
/// order, whatever the number of threads; with both factors bfloat16, products may be added in pairs. Sizes may be
/// anything, 0 included.
void matmul(int64_t m, int64_t n, int64_t k, Left a, Right b, Result c, MatmulOptions options = {});

/// How many bytes pack_right writes, and the packing itself: panels of columns, each with its rows in order, 16-bit
/// floats in pairs. The layout is that of this machine's kernels; the memory should be aligned to 64 bytes.
int64_t packed_bytes(int64_t n, int64_t k, DType dtype);
void pack_right(int64_t n, int64_t k, Right b, void* out);

/// Part of a right factor that has k rows: from row `row` on, or from column `col` on. It stays packed where the layout
/// allows.
Right rows_of(Right b, int64_t row, int64_t k);
Right columns_of(Right b, int64_t col, int64_t k);

}  // namespace mt
