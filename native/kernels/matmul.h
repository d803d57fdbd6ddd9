// Matrix products on the CPU: float32 accumulation, weights of any float type, kernels chosen once for the machine
// (AVX-512, AVX2 with FMA, or portable; MT_CPU=avx2 or MT_CPU=portable asks for less). No operator, no tensor.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace mt {

/// The left factor: element (m, k) is data[m·row + k·col].
struct Left {
  const float* data;
  int64_t row, col;
};

/// The right factor: element (k, n) is data[k·row + n·col], widened to float32 where it is read. A frozen one may come
/// packed by pack_right, and is then read from there alone.
struct Right {
  const void* data;
  DType dtype;
  int64_t row, col;
  const float* packed = nullptr;
};

struct MatmulOptions {
  float alpha = 1;
  bool accumulate = false;      // add to c, rather than replace it
  const float* bias = nullptr;  // [n]
  // Done to every stretch of a row once its sums are whole, while it lies in cache. Rows are ldc apart, like c's.
  const float* residual = nullptr;                                 // [m,n], added last
  void (*map)(const float* from, float* to, int64_t n) = nullptr;  // then what `mapped` gets, number by number
  float* mapped = nullptr;                                         // [m,n]; may be c
};

/// c = alpha·a·b + bias (+ c) (+ residual): a is [m,k], b is [k,n], c is [m,n] with rows ldc apart. Every element is
/// summed in one order, whatever the number of threads. Sizes may be anything, 0 included.
void matmul(int64_t m, int64_t n, int64_t k, Left a, Right b, float* c, int64_t ldc, MatmulOptions options = {});

/// How many floats pack_right writes, and the packing itself: panels of columns, each with its rows in order. The
/// layout belongs to this machine's kernels; the memory wants to be aligned to 64 bytes.
int64_t packed_size(int64_t n, int64_t k);
void pack_right(int64_t n, int64_t k, Right b, float* out);

}  // namespace mt
