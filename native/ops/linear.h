// Linear layers: y = x Wᵀ + b with W [N,K], as checkpoints store it. W may be float32, bfloat16 or float16; sums are
// float32. All are contiguous. Forward saves x where W is
// trained, else nothing; before a GELU also z.
#pragma once
#include "core/view.h"

namespace mt {

/// y [...,N] = x [...,K] Wᵀ + bias [N] + residual, which is like y and added last.
void check_linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y);
/// z [...,N] = x Wᵀ + bias, wanted where a gradient will be: dz by gelu_backward, then as below. y = gelu(z), the exact
/// one.
void check_linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y);
/// dx [...,K] = dy [...,N] W + residual, the gradient that x has from elsewhere.
void check_linear_backward_input(const Act& dy, const View& w, const MaybeAct& residual, ActOut dx);
/// dw [N,K] = dyᵀ x; dbias [N] = Σ dy over the rows.
void check_linear_backward_weight(const Act& dy, const Act& x, MaybeOut dw, MaybeOut dbias);

namespace cpu {
void linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y);
void linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y);
void linear_backward_input(const Act& dy, const View& w, const MaybeAct& residual, ActOut dx);
void linear_backward_weight(const View& dy, const View& x, MaybeOut dw, MaybeOut dbias);
}  // namespace cpu
namespace cuda {
void linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y);
void linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y);
void linear_backward_input(const Act& dy, const View& w, const MaybeAct& residual, ActOut dx);
void linear_backward_weight(const Act& dy, const Act& x, MaybeOut dw, MaybeOut dbias);
}  // namespace cuda
}  // namespace mt
