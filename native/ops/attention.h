// Attention on strided views, with padding, causality and dynamic attention routing fused in. The channel swap is the
// order in which the caller names dimensions; a packed QKV's slices are strides too.
//
//   S = q·kᵀ/√d        key k is visible to query i: k <= i + nk − nq where causal, and key_mask[k] = 1
//   off                P = softmax(S) over visible keys
//   score              P = softmax(S ∘ w) over visible keys, w = Σ_j α_j M_j: a pair in no mask has score 0, not −∞
//   attention          P = Σ_j α_j P_j, P_j = softmax(S) over visible keys in M_j; where there is none, M_0's softmax
//   out = P·v          a query without visible keys: out 0, gradients 0
//
// Forward saves lse, the natural log-sum-exp of what each softmax ran over (−∞ where that was nothing); backward forms
// P again from it. With dP = dout·vᵀ, D = rowsum(P∘dP), D_j = rowsum(P_j∘dP):
//   dv = Pᵀ·dout, dq = dS·k/√d, dk = dSᵀ·q/√d
//   off                dS = P∘(dP − D)
//   score              dS = P∘(dP − D)∘w             dα_j = Σ P∘(dP − D)∘S∘M_j
//   attention          dS = Σ_j α_j P_j∘(dP − D_j)   dα_j = Σ D_j          sums over heads and queries, in their order
#pragma once
#include "core/view.h"
#include "kernels/routing.h"

namespace mt {

/// q, out [b0,b1,nq,h,d]; k, v [b0,b1,nk,h,d]: any strides, but 1 for d. key_mask uint8 [b0,b1,nk], 1 = token, 0 =
/// padding. mode: a Routing, 0 off, 1 score, 2 attention. masks uint8 [nq,nk], bit j = M_j, and alpha [b0,b1,p],
/// p <= 8, belong to modes 1 and 2. lse [b0,b1,h,nq,m], m = p in mode 2, else 1.
void check_attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha,
                             int64_t mode, bool causal, ActOut out, Out lse);
/// Gradients that are not asked for are not computed. dq, dk, dv have any strides that do not repeat; dalpha [b0,b1,p].
void check_attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                              Maybe alpha, int64_t mode, bool causal, const View& lse, MaybeActOut dq, MaybeActOut dk,
                              MaybeActOut dv, MaybeOut dalpha);

namespace cpu {
void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, int64_t mode,
                       bool causal, ActOut out, Out lse);
void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, int64_t mode, bool causal, const View& lse, MaybeActOut dq, MaybeActOut dk,
                        MaybeActOut dv, MaybeOut dalpha);
}  // namespace cpu
namespace cuda {
void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, int64_t mode,
                       bool causal, ActOut out, Out lse);
void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, int64_t mode, bool causal, const View& lse, MaybeActOut dq, MaybeActOut dk,
                        MaybeActOut dv, MaybeOut dalpha);
}  // namespace cuda
}  // namespace mt
