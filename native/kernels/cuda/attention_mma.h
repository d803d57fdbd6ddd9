// Attention on tensor cores, in bfloat16: what forward and backward share. Rows in shared memory have D columns and 8
// more, so that the eight rows of a matrix fall into different banks. Narrower heads are padded with zeros to D
// columns, and the rows to a multiple of 16. A warp works on 16 queries, or 16 keys, at a time. A block takes one unit,
// or several short ones. Strided rows, as in attention over time, are read in place.
#pragma once
#include <cstdlib>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/softmax.h"

namespace mt::cuda {

// ---- where they run ----

inline Room room() {
  int bytes = 0, processors = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, current().device()), "attention");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, current().device()), "attention");
  return {size_t(bytes), processors};
}
/// Whether 16 bytes can be read at every eighth element of `n` rows. The stride of a dimension of size 1 does not
/// matter.
template <typename E>
bool aligned(const Rows<E>& r, const Attention<bf16>& a, int n) {
  const auto even = [](int64_t stride, int64_t size) { return size == 1 || stride % 8 == 0; };
  return !r.data || (reinterpret_cast<uintptr_t>(r.data) % 16 == 0 && even(r.b0, a.units / a.heads / a.b1) &&
                     even(r.b1, a.b1) && even(r.row, n) && even(r.head, a.heads));
}
inline bool suits_tensor_cores(const Attention<bf16>& a) {
  const bool masked = a.routing != Routing::off;
  const bool near = !masked || (std::abs(a.mask_q) < (1 << 20) && std::abs(a.mask_k) < (1 << 20) && a.nq < 1024 &&
                                a.nk < 1024);  // offsets into masks fit an int
  return near && a.d % 8 == 0 && a.d <= (masked || a.bias ? 64 : 128) && a.nq && a.nk && aligned(a.q, a, a.nq) &&
         aligned(a.k, a, a.nk) && aligned(a.v, a, a.nk) && aligned(a.dout, a, a.nq) && aligned(a.out, a, a.nq) &&
         aligned(a.dq, a, a.nq) && aligned(a.dk, a, a.nk) && aligned(a.dv, a, a.nk);
}

// ---- rows ----

template <int D>
inline constexpr int kRow = row_pitch(D);
template <int D>
inline constexpr int kMostWarps = most_warps(D);

/// The bias of a pair's distance; of pairs outside the matrix some other.
__device__ inline float distance_bias(const Attention<bf16>& a, int head, int query, int key) {
  return a.bias[head * a.bias_head + min(max(key - query + a.nq - 1, 0), a.nq + a.nk - 2) * a.bias_step];
}

/// A thread's lane. Of a 16×8 accumulator it has elements (row + 8·(e/2), column + e%2), e < 4.
struct Lane {
  int index = int(threadIdx.x) % 32, row = index / 4, column = index % 4 * 2;
};

/// Starts to copy rows r0.. of a view into shared memory: complete after cp_async_wait and a barrier.
template <int D>
__device__ void load_rows(bf16* to, const bf16* from, int64_t stride, int r0, int n, int rows, int d, int thread,
                          int threads) {
  constexpr int kPieces = D / 8;
  for (int i = thread; i < rows * kPieces; i += threads) {
    int r = i / kPieces, c = i % kPieces * 8;
    bool valid = r0 + r < n && c < d;
    cp_async_16(to + r * kRow<D> + c, valid ? from + (r0 + r) * stride + c : from, valid);
  }
}

// ---- fragments ----

/// sum[2][4] += 16 rows · (16 rows)ᵀ over D columns. Further unrolled, the loads would take registers that the backward
/// kernels need.
template <int D>
__device__ void row_products(float (&sum)[2][4], const bf16* left, const bf16* right, Lane l) {
#pragma unroll 2
  for (int c = 0; c < D; c += 16) {
    uint32_t a[4], b[4];
    ldmatrix_x4(a, left + l.index % 16 * kRow<D> + c + l.index / 16 * 8);
    ldmatrix_x4(b, right + (l.index / 16 * 8 + l.index % 8) * kRow<D> + c + l.index / 8 % 2 * 8);
    mma_m16n8k16(sum[0], a, {b[0], b[1]});
    mma_m16n8k16(sum[1], a, {b[2], b[3]});
  }
}
/// Two adjacent accumulators, rounded to bfloat16, as the left factor of the next product.
__device__ inline void as_factor(uint32_t (&r)[4], const float (&lo)[4], const float (&hi)[4]) {
  r[0] = pack_bf16(lo[0], lo[1]);
  r[1] = pack_bf16(lo[2], lo[3]);
  r[2] = pack_bf16(hi[0], hi[1]);
  r[3] = pack_bf16(hi[2], hi[3]);
}
/// sum[D/8][4] += 16×16 · 16 rows.
template <int D>
__device__ void add_product(float (&sum)[D / 8][4], const uint32_t (&a)[4], const bf16* rows, Lane l) {
#pragma unroll
  for (int c = 0; c < D; c += 16) {
    uint32_t b[4];
    ldmatrix_x4_trans(b, rows + l.index % 16 * kRow<D> + c + l.index / 16 * 8);
    mma_m16n8k16(sum[c / 8], a, {b[0], b[1]});
    mma_m16n8k16(sum[c / 8 + 1], a, {b[2], b[3]});
  }
}
/// Transposes words among four lanes: lane t gets word t of each of them.
__device__ inline void exchange(uint32_t (&w)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    bool odd = threadIdx.x & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      uint32_t other = __shfl_xor_sync(~0u, odd ? w[i] : w[i + bit], bit);
      (odd ? w[i] : w[i + bit]) = other;
    }
  }
}
/// Writes 16 rows from r0 on, up to row n, 16 bytes a lane; `low` and `high` multiply the upper and lower eight.
template <int D>
__device__ void store_rows(const float (&sum)[D / 8][4], bf16* to, int64_t stride, int r0, int n, int d, float low,
                           float high, Lane l) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int r = r0 + l.row + 8 * half;
    float factor = half ? high : low;
#pragma unroll
    for (int c = 0; c < D / 8; c += 4) {
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i] = pack_bf16(sum[c + i][2 * half] * factor, sum[c + i][2 * half + 1] * factor);
      exchange(w);
      int column = 8 * c + 4 * l.column;
      if (r < n && column < d) *reinterpret_cast<uint4*>(to + r * stride + column) = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }
}

}  // namespace mt::cuda
