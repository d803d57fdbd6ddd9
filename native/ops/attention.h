// Attention on strided views, fused with padding, causality and dynamic attention routing. Strides express the channel
// swap, as the order in which the caller names dimensions, and the slices of a packed QKV.
//
//   S = scale·q·kᵀ     key k is visible to query i: k <= i + nk − nq where causal, and key_mask[k] = 1
//   off                P = softmax(S + b) over visible keys, b the bias of the pair's distance, 0 where absent
//   score              P = softmax(S ∘ w) over visible keys, w = Σ_j α_j M_j: a pair in no mask has score 0, not −∞
//   attention          P = Σ_j α_j P_j, P_j = softmax(S) over visible keys in M_j; where there is none, M_0's softmax
//   out = P·v          a query without visible keys: out 0, gradients 0
//
// Forward saves lse, the natural log-sum-exp of each softmax's scores (−∞ where it has none); backward forms P again
// from it. With dP = dout·vᵀ, D = rowsum(P∘dP), D_j = rowsum(P_j∘dP):
//   dv = Pᵀ·dout, dq = scale·dS·k, dk = scale·dSᵀ·q; the bias gets no gradient
//   off                dS = P∘(dP − D)
//   score              dS = P∘(dP − D)∘w             dα_j = Σ P∘(dP − D)∘S∘M_j
//   attention          dS = Σ_j α_j P_j∘(dP − D_j)   dα_j = Σ D_j          sums over heads and queries, in their order
#pragma once
#include "core/view.h"
#include "kernels/routing.h"

namespace mt {

/// Writes out and lse.
///   q, out    [b0,b1,nq,h,d]  any strides, but 1 for d
///   k, v      [b0,b1,nk,h,d]  likewise
///   key_mask  [b0,b1,nk]      uint8, 1 = token, 0 = padding; absent: all keys are tokens
///   mode      a Routing       0 off, 1 score, 2 attention
///   masks     [nq,nk]         uint8, bit j = M_j; in modes 1 and 2
///   alpha     [b0,b1,p]       p <= 8; in modes 1 and 2
///   bias      [h,nq+nk−1]     b of query i and key k is that at k − i + nq − 1; any strides; in mode 0 alone
///   scale     a number        usually 1/√d
///   lse       [b0,b1,h,nq,m]  m = p in mode 2, else 1
void check_attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha,
                             Maybe bias, int64_t mode, bool causal, double scale, ActOut out, Out lse);
/// Gradients that are absent are not computed. dq, dk and dv have any strides that do not repeat; dalpha [b0,b1,p].
void check_attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                              Maybe alpha, Maybe bias, int64_t mode, bool causal, double scale, const View& lse,
                              MaybeActOut dq, MaybeActOut dk, MaybeActOut dv, MaybeOut dalpha);

namespace cpu {
void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, Maybe bias,
                       int64_t mode, bool causal, double scale, ActOut out, Out lse);
void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, Maybe bias, int64_t mode, bool causal, double scale, const View& lse,
                        MaybeActOut dq, MaybeActOut dk, MaybeActOut dv, MaybeOut dalpha);
}  // namespace cpu
namespace cuda {
void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, Maybe bias,
                       int64_t mode, bool causal, double scale, ActOut out, Out lse);
void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, Maybe bias, int64_t mode, bool causal, double scale, const View& lse,
                        MaybeActOut dq, MaybeActOut dk, MaybeActOut dv, MaybeOut dalpha);
}  // namespace cuda
}  // namespace mt
