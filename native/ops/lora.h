// A frozen linear layer with a low-rank update that is trained: y = x Wᵀ + bias + scaling·(x Aᵀ) Bᵀ, W [N,K] frozen and
// of any float type, A [r,K] and B [N,r] float32, scaling = alpha/r. All tensors are contiguous.
#pragma once
#include "core/view.h"

namespace mt {

/// Saves shrunk [...,r] = x Aᵀ.
void check_lora_forward(const Act& x, const View& w, const Maybe& bias, const View& a, const View& b, double scaling,
                        ActOut y, Out shrunk);
/// With g = scaling·dy B: dx = dy W + g A + residual, the gradient of x from its other uses; da = gᵀ x;
/// db = scaling·dyᵀ shrunk. W and bias get no gradient.
void check_lora_backward(const Act& dy, const Act& x, const View& shrunk, const View& w, const View& a, const View& b,
                         double scaling, const MaybeAct& residual, MaybeActOut dx, Out da, Out db);

namespace cpu {
void lora_forward(const Act& x, const View& w, const Maybe& bias, const View& a, const View& b, double scaling,
                  ActOut y, Out shrunk);
void lora_backward(const Act& dy, const Act& x, const View& shrunk, const View& w, const View& a, const View& b,
                   double scaling, const MaybeAct& residual, MaybeActOut dx, Out da, Out db);
}  // namespace cpu
namespace cuda {
void lora_forward(const Act& x, const View& w, const Maybe& bias, const View& a, const View& b, double scaling,
                  ActOut y, Out shrunk);
void lora_backward(const Act& dy, const Act& x, const View& shrunk, const View& w, const View& a, const View& b,
                   double scaling, const MaybeAct& residual, MaybeActOut dx, Out da, Out db);
}  // namespace cuda
}  // namespace mt
