// Products x Wᵀ with at most eight rows, as in decoding. Reading W takes the time: a block reads two rows of W once for
// all rows of x, 16 bytes a thread, with several loads in flight. The arithmetic is float32.
#include <type_traits>

#include "kernels/cuda/matmul_tile.h"

namespace mt::cuda {
namespace {

constexpr int kRowThreads = 128, kPair = 2;  // rows of W that a block reads

/// Eight elements in the format of memory; `aligned` to 16 bytes or not.
template <typename T, bool aligned>
struct Eight {
  uint4 raw[sizeof(T) / 2];
  __device__ void read(const void* p, int64_t at) {
    const T* from = static_cast<const T*>(p) + at;
    if constexpr (aligned) {
#pragma unroll
      for (size_t i = 0; i < sizeof(T) / 2; ++i) raw[i] = reinterpret_cast<const uint4*>(from)[i];
    } else {
      uint32_t words[2 * sizeof(T)];
#pragma unroll
      for (size_t i = 0; i < 2 * sizeof(T); ++i) {
        if constexpr (sizeof(T) == 4) words[i] = reinterpret_cast<const uint32_t*>(from)[i];
        else words[i] = from[2 * i].bits | uint32_t(from[2 * i + 1].bits) << 16;
      }
#pragma unroll
      for (size_t i = 0; i < sizeof(T) / 2; ++i)
        raw[i] = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    }
  }
  __device__ void widen(float (&v)[8]) const {
    const uint32_t first[4] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w};
    if constexpr (sizeof(T) == 4) {
      const uint32_t second[4] = {raw[1].x, raw[1].y, raw[1].z, raw[1].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = __uint_as_float(first[i]), v[i + 4] = __uint_as_float(second[i]);
    } else {
      constexpr bool half = dtype_for<T>::value == DType::f16;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[2 * i] = half ? widen_f16(first[i] & 0xffff) : low_bf16(first[i]);
        v[2 * i + 1] = half ? widen_f16(first[i] >> 16) : high_bf16(first[i]);
      }
    }
  }
};

/// Adds the products of eight elements of rows of W, from column i on, with those of all rows of x.
template <typename X, int rows, bool aligned>
__device__ void add_eight(const Job& j, const int64_t (&x)[rows], int64_t i, const float (&wide)[kPair][8],
                          float (&sum)[kPair][rows]) {
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    Eight<X, aligned> xs;
    float v[8];
    xs.read(j.a.data, x[r] + i);
    xs.widen(v);
#pragma unroll
    for (int p = 0; p < kPair; ++p)
#pragma unroll
      for (int e = 0; e < 8; ++e) sum[p][r] = fmaf(wide[p][e], v[e], sum[p][r]);
  }
}
/// Adds the thread's part of the dot products of the rows that begin at x and w.
template <typename X, typename W, int rows, bool aligned>
__device__ void add_products(const Job& j, const int64_t (&x)[rows], const int64_t (&w)[kPair],
                             float (&sum)[kPair][rows]) {
#pragma unroll(aligned ? 2 : 1)
  for (int64_t i = threadIdx.x * 8; i < j.a.cols; i += kRowThreads * 8) {
    Eight<W, aligned> raw[kPair];
#pragma unroll
    for (int p = 0; p < kPair; ++p) raw[p].read(j.b.data, w[p] + i);
    float wide[kPair][8];
#pragma unroll
    for (int p = 0; p < kPair; ++p) raw[p].widen(wide[p]);
    add_eight<X, rows, aligned>(j, x, i, wide, sum);
  }
}
/// The same of a quantised W, from row n on. The next codes are on their way while these are used, the first while the
/// block waits for the levels. All threads call it.
template <typename X, int rows, bool aligned>
__device__ void add_quantised(const Job& j, const int64_t (&x)[rows], int64_t n, float (&sum)[kPair][rows]) {
  __shared__ float levels[16];
  const Quantised& q = j.quantised;
  Codes next[kPair];
  const auto read = [&](int64_t i) {
#pragma unroll
    for (int p = 0; p < kPair; ++p) next[p] = read_codes(q, n + p, i);
  };
  read(threadIdx.x * 8);
  load_levels(q, levels);
#pragma unroll 1
  for (int i = int(threadIdx.x) * 8; i < q.width; i += kRowThreads * 8) {
    float wide[kPair][8];
    Codes now[kPair];
#pragma unroll
    for (int p = 0; p < kPair; ++p) now[p] = next[p];
    read(i + kRowThreads * 8);
#pragma unroll
    for (int p = 0; p < kPair; ++p) decode(q, levels, now[p], wide[p]);
    add_eight<X, rows, aligned>(j, x, i, wide, sum);
  }
  // The codes of columns that are kept are 0.
#pragma unroll 1
  for (int k = int(threadIdx.x); k < q.kept_columns; k += kRowThreads)
#pragma unroll
    for (int p = 0; p < kPair; ++p)
#pragma unroll
      for (int r = 0; r < rows; ++r)
        if (n + p < q.rows)
          sum[p][r] = fmaf(float(q.kept[(n + p) * q.kept_columns + k]), element(j.a, x[r] + q.columns[k]), sum[p][r]);
}

/// Row indices are clamped, so that no load depends on a condition; results of clamped rows are not stored.
template <typename X, typename W, int rows>
__global__ void __launch_bounds__(kRowThreads) rows_kernel(Job j) {
  __shared__ float part[kRowThreads / 32][kPair][rows];
  const int64_t n0 = int64_t(blockIdx.x) * kPair;
  int64_t w[kPair], x[rows];
#pragma unroll
  for (int p = 0; p < kPair; ++p) w[p] = (n0 + p < j.n ? n0 + p : j.n - 1) * j.a.cols;
#pragma unroll
  for (int r = 0; r < rows; ++r) x[r] = (r < j.m ? r : j.m - 1) * j.a.cols;
  float sum[kPair][rows] = {};
  if constexpr (std::is_same_v<W, Quantised>) {
    if (j.a.wide) add_quantised<X, rows, true>(j, x, n0, sum);
    else add_quantised<X, rows, false>(j, x, n0, sum);
  } else {
    if (j.a.wide && j.b.wide) add_products<X, W, rows, true>(j, x, w, sum);
    else add_products<X, W, rows, false>(j, x, w, sum);
  }
  for (int64_t i = threadIdx.x; i < j.a2.cols; i += kRowThreads)
    for (int p = 0; p < kPair; ++p)
#pragma unroll
      for (int r = 0; r < rows; ++r)
        sum[p][r] = fmaf(element(j.b2, (n0 + p < j.n ? n0 + p : j.n - 1) * j.b2.cols + i),
                         j.a2.factor * element(j.a2, (r < j.m ? r : j.m - 1) * j.a2.cols + i), sum[p][r]);
#pragma unroll
  for (int p = 0; p < kPair; ++p)
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      float s = warp_sum(sum[p][r]);
      if (threadIdx.x % 32 == 0) part[threadIdx.x / 32][p][r] = s;
    }
  __syncthreads();
  const int r = int(threadIdx.x) / kPair, p = int(threadIdx.x) % kPair;
  if (r >= rows || r >= j.m || n0 + p >= j.n) return;
  float total = 0;
  for (int i = 0; i < kRowThreads / 32; ++i) total += part[i][p][r];
  complete(j, r, n0 + p, total);
}

template <typename X, typename W>
void run(const Job& j) {
  auto kernel = j.m == 1   ? rows_kernel<X, W, 1>
                : j.m == 2 ? rows_kernel<X, W, 2>
                : j.m <= 4 ? rows_kernel<X, W, 4>
                           : rows_kernel<X, W, 8>;
  launch(kernel, blocks(j.n, kPair), dim3(kRowThreads), 0, j);
}

}  // namespace

void few_rows(const Job& j) {
  each_activation(j.a.type, [&](auto x) {
    if (is_quantised(j.b.type)) run<decltype(x), Quantised>(j);
    else each_weight(j.b.type, [&](auto w) { run<decltype(x), decltype(w)>(j); });
  });
}

}  // namespace mt::cuda
