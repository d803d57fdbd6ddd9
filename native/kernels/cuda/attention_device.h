// What the CUDA forms of attention share: where rows lie, which keys a query sees, and what masks make of a score.
#pragma once
#include "kernels/cuda/device.h"
#include "kernels/routing.h"

namespace mt::cuda {

/// Rows [b0,b1,n,h,d] of a strided view, d side by side.
template <typename T>
struct Rows {
  T* data;
  int64_t b0, b1, row, head;
};

/// One call's arguments. A unit is a (b0, b1, head); lse is [units, nq, m].
template <typename T>
struct Attention {
  Rows<const T> q, k, v, dout;
  Rows<T> out, dq, dk, dv;  // null where not wanted
  const uint8_t* key_mask;  // null: no padding
  int64_t key_b0, key_b1, key_row;
  const uint8_t* masks;
  int64_t mask_q, mask_k;
  const float* alpha;
  int64_t alpha_b0, alpha_b1, alpha_j;
  float* lse;
  float2* centre;  // backward: D and what rounding left of it, [units, nq, m]
  float* shares;   // dα by unit, tile of queries and mask; null where not wanted
  float* parts;  // forward over split keys: each piece's result, [splits, units, nq, d], its lse being [splits, units,
                 // nq]; else null
  int64_t units;
  int nq, nk, d, heads, b1, mode, p;
  bool causal;
  float scale;

  __host__ __device__ int m() const { return mode == 2 ? p : 1; }
};

/// The place of a unit in the batch.
struct Place {
  int64_t unit;
  int i0, i1, head;
  template <typename T>
  __device__ Place(const Attention<T>& a, int64_t unit)
      : unit(unit), i0(int(unit / a.heads / a.b1)), i1(int(unit / a.heads % a.b1)), head(int(unit % a.heads)) {}
  /// The unit's first row; null where there are no rows.
  template <typename T>
  __device__ T* operator()(const Rows<T>& r) const {
    return r.data ? r.data + i0 * r.b0 + i1 * r.b1 + head * r.head : nullptr;
  }
  template <typename T>
  __device__ const uint8_t* keys(const Attention<T>& a) const {
    return a.key_mask ? a.key_mask + i0 * a.key_b0 + i1 * a.key_b1 : nullptr;
  }
  template <typename T>
  __device__ const float* alphas(const Attention<T>& a) const {
    return a.alpha ? a.alpha + i0 * a.alpha_b0 + i1 * a.alpha_b1 : nullptr;
  }
};

/// Keys that queries before `end` see, padding included, and the first query that sees key k.
template <typename T>
__device__ int keys_seen(const Attention<T>& a, int end) {
  return !a.causal ? a.nk : max(0, min(a.nk, end + a.nk - a.nq));
}
template <typename T>
__device__ int first_query(const Attention<T>& a, int k) {
  return !a.causal ? 0 : max(0, k - (a.nk - a.nq));
}

/// Σ α_j M_j.
__device__ inline float mask_weight(unsigned bits, const float* alpha, int p) {
  float w = 0;
  for (int j = 0; j < p; ++j) w += bits >> j & 1 ? alpha[j] : 0.0f;
  return w;
}

}  // namespace mt::cuda
