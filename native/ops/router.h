// The router of dynamic attention routing: the weight of each mask, from the block's input.
#pragma once
#include "core/view.h"

namespace mt {

/// x [b0,b1,n,D], any strides, but 1 for D: the order of dimensions decides what n, which is pooled over, is. w1 [H,D],
/// b1 [H], w2 [p,H], b2 [p] and the outputs are contiguous.
///   pooled = mean_n x                 [b0,b1,D]
///   hidden = relu(w1·pooled + b1)     [b0,b1,H]
///   alpha  = softmax(w2·hidden + b2)  [b0,b1,p]
void check_router_forward(const Act& x, const View& w1, const View& b1, const View& w2, const View& b2, Out alpha,
                          Out pooled, Out hidden);
/// With dz = alpha∘(dalpha − Σ alpha∘dalpha), and dh = w2ᵀ·dz where hidden > 0, else 0:
///   dw2 = Σ dz hiddenᵀ, db2 = Σ dz, dw1 = Σ dh pooledᵀ, db1 = Σ dh
///   dx [b0,b1,m,D] = w1ᵀ·dh / count in its first `count` rows, the n that were pooled, 0 in the others; + residual
/// residual, like dx, is the gradient of x from its other uses.
void check_router_backward(const View& dalpha, const View& alpha, const View& pooled, const View& hidden,
                           const View& w1, const View& w2, int64_t count, const MaybeAct& residual, MaybeActOut dx,
                           Out dw1, Out db1, Out dw2, Out db2);

namespace cpu {
void router_forward(const View& x, const View& w1, const View& b1, const View& w2, const View& b2, Out alpha,
                    Out pooled, Out hidden);
void router_backward(const View& dalpha, const View& alpha, const View& pooled, const View& hidden, const View& w1,
                     const View& w2, int64_t count, const Maybe& residual, MaybeOut dx, Out dw1, Out db1, Out dw2,
                     Out db2);
}  // namespace cpu
namespace cuda {
void router_forward(const Act& x, const View& w1, const View& b1, const View& w2, const View& b2, Out alpha, Out pooled,
                    Out hidden);
void router_backward(const View& dalpha, const View& alpha, const View& pooled, const View& hidden, const View& w1,
                     const View& w2, int64_t count, const MaybeAct& residual, MaybeActOut dx, Out dw1, Out db1, Out dw2,
                     Out db2);
}  // namespace cuda
}  // namespace mt
