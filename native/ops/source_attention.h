// Cross-attention to a source E whose keys and values are linear in E with frozen weights. No gradient is wanted.
//
//   k = E W_kᵀ
//   v = E W_vᵀ + b_v + scaling·(E Aᵀ) Bᵀ
//   out = softmax(q·kᵀ/√d)·v, head by head
//
// A bias of the keys would add one number to all scores of a query, which changes no softmax: there is no such
// argument. The CPU multiplies the weights into queries and result, (q W_k) Eᵀ and (P E) W_vᵀ for each head, which
// costs less where queries are few and E is wide; b_v is added as it is, since rows of P sum to 1. A GPU forms keys and
// values.
#pragma once
#include "core/view.h"

namespace mt {

/// q, out [...,n,h·d]; source E [...,K,in] with the same leading dimensions; wk, wv [h·d,in] of any float type; bias
/// b_v [h·d]; a [r,in] and b [h·d,r] together or not at all. All contiguous.
void check_source_attention(const Act& q, const Act& source, const View& wk, const View& wv, Maybe bias, Maybe a,
                            Maybe b, double scaling, int64_t heads, ActOut out);

namespace cpu {
void source_attention(const View& q, const View& source, const View& wk, const View& wv, Maybe bias, Maybe a, Maybe b,
                      double scaling, int64_t heads, Out out);
}  // namespace cpu
namespace cuda {
void source_attention(const Act& q, const Act& source, const View& wk, const View& wv, Maybe bias, Maybe a, Maybe b,
                      double scaling, int64_t heads, ActOut out);
}  // namespace cuda
}  // namespace mt
