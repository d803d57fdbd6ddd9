// Which keys a query sees, on CUDA: causality, the key mask, and the sets of masks that keep a pair. kernels/routing.h
// says what an empty mask does.
#pragma once
#include "kernels/cuda/attention.h"

namespace mt::cuda {

inline constexpr float kNone = -INFINITY;  // the score of a pair that is not seen, and the lse of an empty softmax

/// How many keys the queries before `end` see, padding included.
template <typename T>
__device__ int keys_seen(const Attention<T>& a, int end) {
  return !a.causal ? a.nk : max(0, min(a.nk, end + a.nk - a.nq));
}
/// The first query that sees key k.
template <typename T>
__device__ int first_query(const Attention<T>& a, int k) {
  return !a.causal ? 0 : max(0, k - (a.nk - a.nq));
}

/// to [rows], from key k0 on: 0 for a key, −∞ for padding and after the last of n keys.
__device__ inline void load_key_bias(float* to, const uint8_t* key_mask, int64_t stride, int k0, int n, int rows,
                                     int thread, int threads) {
  for (int k = thread; k < rows; k += threads)
    to[k] = k0 + k < n && (!key_mask || key_mask[(k0 + k) * stride]) ? 0.0f : kNone;
}

/// Σ_j α_j over the masks in `set`, those that keep a pair.
__device__ inline float mask_weight(unsigned set, const float* alpha, int p) {
  float w = 0;
  for (int j = 0; j < p; ++j) w += set >> j & 1 ? alpha[j] : 0.0f;
  return w;
}

// ---- on tensor cores: the four pairs of an accumulator ----

/// The sets of masks that keep each pair, a byte a pair; query(e) and key(e) name pair e. Unspecified after the last
/// key, empty after the last query.
template <typename Query, typename Key>
__device__ unsigned mask_sets(const Attention<bf16>& a, Query query, Key key) {
  unsigned sets = 0;
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (query(e) < a.nq)
      sets |= unsigned(a.masks[query(e) * int(a.mask_q) + min(key(e), a.nk - 1) * int(a.mask_k)]) << (8 * e);
  return sets;
}
/// Whether M_j keeps pair e.
__device__ inline bool keeps(unsigned sets, int e, int j) { return sets >> (8 * e + j) & 1; }
/// x ∘= Σ_j α_j M_j.
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
