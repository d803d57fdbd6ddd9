// Attention on tensor cores, in bfloat16: what forward and backward share. Rows lie in shared memory, D columns and 8
// more, so that the eight rows of a matrix fall into different banks; heads narrower than D are filled up with zeros,
// and so are rows up to a multiple of 16. A warp works on 16 queries, or 16 keys, at a time. A block takes one unit, or
// several short ones side by side: attention in time reads its strided rows where they are.
#pragma once
#include "kernels/cuda/attention_device.h"
#include "kernels/cuda/attention_plan.h"

namespace mt::cuda {

template <int D>
inline constexpr int kRow = row_pitch(D);
template <int D>
inline constexpr int kMostWarps = most_warps(D);
inline constexpr float kNothing = -INFINITY;
inline constexpr float kFar =
    60;  // a mask whose sum lies this far (natural logarithms) under the row's maximum has exponentials of its own

/// Where a thread stands. In an accumulator of 16×8 it has elements (row + 8·(e/2), column + e%2), e < 4.
struct Lane {
  int index = int(threadIdx.x) % 32, row = index / 4, column = index % 4 * 2;
};

/// Rows r0.. of a view into shared memory; they are there after cp_async_wait and a barrier.
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
/// 0 for a key, −∞ for padding and behind the last key.
__device__ inline void load_bias(float* to, const uint8_t* kept, int64_t stride, int k0, int n, int rows, int thread,
                                 int threads) {
  for (int k = thread; k < rows; k += threads)
    to[k] = k0 + k < n && (!kept || kept[(k0 + k) * stride]) ? 0.0f : kNothing;
}

// ---- fragments ----

/// sum[2][4] += 16 rows · (16 rows)ᵀ over D columns. Unrolled further, its loads would cost the backward kernels
/// registers that they lack.
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
/// Two accumulators side by side, rounded, as a left factor.
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
/// Lane t of four gets what each of them had in word t.
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
/// Writes 16 rows from r0, those before n, 16 bytes a lane.
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

// ---- sums over a row: the four lanes that share it ----

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/// Mask sets of an accumulator's four pairs, a byte each; of no meaning behind the last key, empty behind the last
/// query.
template <typename Query, typename Key>
__device__ unsigned mask_sets(const Attention<bf16>& a, Query query, Key key) {
  unsigned sets = 0;
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (query(e) < a.nq)
      sets |= unsigned(a.masks[query(e) * int(a.mask_q) + min(key(e), a.nk - 1) * int(a.mask_k)]) << (8 * e);
  return sets;
}
__device__ inline bool keeps(unsigned sets, int e, int j) { return sets >> (8 * e + j) & 1; }
/// x ∘= Σ α_j M_j of four pairs.
__device__ inline void weigh(const Attention<bf16>& a, const float* alpha, unsigned sets, float (&x)[4]) {
  float w[4] = {};
#pragma unroll 1
  for (int j = 0; j < a.p; ++j) {
    float weight = alpha[j * a.alpha_j];
#pragma unroll
    for (int e = 0; e < 4; ++e) w[e] += keeps(sets, e, j) ? weight : 0.0f;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) x[e] *= w[e];
}

}  // namespace mt::cuda
