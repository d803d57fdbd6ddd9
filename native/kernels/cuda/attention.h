// Attention's kernels on CUDA: their argument struct, and the two calls that choose a kernel. bfloat16 runs on tensor
// cores (attention_mma_forward.h, attention_mma_backward.h) where sizes and alignment allow it. All else runs in
// float32 (attention_general.h).
#pragma once
#include "kernels/cuda/device.h"
#include "kernels/routing.h"

namespace mt::cuda {

/// Rows [b0,b1,n,h,d] of a strided view; d is contiguous.
template <typename T>
struct Rows {
  T* data;
  int64_t b0, b1, row, head;
};

/// One call's arguments. A unit is a (b0, b1, head).
template <typename T>
struct Attention {
  Rows<const T> q, k, v, dout;
  Rows<T> out, dq, dk, dv;          // null where they are not wanted
  const uint8_t* key_mask;          // [b0,b1,nk], 1 = token; null: all are
  int64_t key_b0, key_b1, key_row;  // its strides
  const uint8_t* masks;             // [nq,nk], bit j = M_j; null without routing
  int64_t mask_q, mask_k;           // its strides
  const float* alpha;               // [b0,b1,p]; null without routing
  int64_t alpha_b0, alpha_b1, alpha_j;
  const float* bias;  // [h,nq+nk−1], of query i and key k that at k − i + nq − 1; null: none
  int64_t bias_head, bias_step;
  float* lse;      // [units,nq,m]
  float2* centre;  // backward: D and the rounding error of D, [units,nq,m]
  float* shares;   // backward: dα by unit, tile of queries and mask; null where not wanted
  float* parts;    // forward with split keys: results of the pieces, [splits,units,nq,d], lse being [splits,units,nq];
                   // else null
  int64_t units;
  int nq, nk, d, heads, b1;
  Routing routing;
  int p;  // masks; 1 without routing
  bool causal;
  float scale;  // of scores

  /// Softmaxes of a query.
  __host__ __device__ int m() const { return softmaxes(routing, p); }
  __host__ __device__ bool mixes() const { return routing == Routing::mixture; }
};

/// out and lse.
void attention_forward(const Attention<float>& a);
void attention_forward(const Attention<bf16>& a);
/// dq, dk, dv, and dalpha [b0,b1,p] where it is wanted. Allocates centre and shares itself.
void attention_backward(const Attention<float>& a, const View& dalpha);
void attention_backward(const Attention<bf16>& a, const View& dalpha);

/// A unit's number, batch indices and head, and its part of the arguments.
struct UnitIndex {
  int64_t unit;
  int i0, i1, head;
  template <typename T>
  __device__ UnitIndex(const Attention<T>& a, int64_t unit)
      : unit(unit), i0(int(unit / a.heads / a.b1)), i1(int(unit / a.heads % a.b1)), head(int(unit % a.heads)) {}
  /// The unit's first row; null where there are no rows.
  template <typename T>
  __device__ T* operator()(const Rows<T>& r) const {
    return r.data ? r.data + i0 * r.b0 + i1 * r.b1 + head * r.head : nullptr;
  }
  /// [nk], key_row apart; null where all keys are tokens.
  template <typename T>
  __device__ const uint8_t* key_mask(const Attention<T>& a) const {
    return a.key_mask ? a.key_mask + i0 * a.key_b0 + i1 * a.key_b1 : nullptr;
  }
  /// [p], alpha_j apart; null without routing.
  template <typename T>
  __device__ const float* alpha(const Attention<T>& a) const {
    return a.alpha ? a.alpha + i0 * a.alpha_b0 + i1 * a.alpha_b1 : nullptr;
  }
};

}  // namespace mt::cuda
