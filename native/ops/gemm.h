// Linear layers: y = x Wᵀ + b with W [N,K], as checkpoints store it. W may be float32, bfloat16 or float16; sums are
// float32. x, y and the gradients are float32; all are contiguous. Forward saves x where W is trained, else nothing.
#pragma once
#include "core/view.h"

namespace mt {

/// y [...,N] = x [...,K] Wᵀ + bias [N].
void check_gemm_forward(const View& x, const View& w, const Maybe& bias, Out y);
/// dx [...,K] = dy [...,N] W.
void check_gemm_backward_input(const View& dy, const View& w, Out dx);
/// dw [N,K] = dyᵀ x; dbias [N] = Σ dy over the rows.
void check_gemm_backward_weight(const View& dy, const View& x, MaybeOut dw, MaybeOut dbias);

namespace cpu {
void gemm_forward(const View& x, const View& w, const Maybe& bias, Out y);
void gemm_backward_input(const View& dy, const View& w, Out dx);
void gemm_backward_weight(const View& dy, const View& x, MaybeOut dw, MaybeOut dbias);
}  // namespace cpu
namespace cuda {
void gemm_forward(const View& x, const View& w, const Maybe& bias, Out y);
void gemm_backward_input(const View& dy, const View& w, Out dx);
void gemm_backward_weight(const View& dy, const View& x, MaybeOut dw, MaybeOut dbias);
}  // namespace cuda
}  // namespace mt
