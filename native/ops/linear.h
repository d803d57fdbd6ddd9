// Linear layers: y = x Wᵀ + b with W [N,K], as checkpoints store it. W may be float32, bfloat16 or float16; sums are
// float32. All tensors are contiguous. Backward reads x where W is trained, and z where a GELU follows.
#pragma once
#include "core/view.h"

namespace mt {

/// y [...,N] = x [...,K] Wᵀ + bias [N] + residual, which is like y and added last.
void check_linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y);
/// z [...,N] = x Wᵀ + bias; y [...,N] = gelu(z), as elementwise.h has it. z is wanted for a gradient: dz is that of
/// gelu_backward, then as below.
void check_linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y);
/// dx [...,K] = dy [...,N] W + residual, the gradient of x from its other uses.
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
