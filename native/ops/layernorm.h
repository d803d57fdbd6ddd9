// LayerNorm over the last dimension: y = (x − mean)/√(var + eps) ∘ weight + bias, with the biased variance.
#pragma once
#include "core/view.h"

namespace mt {

/// x, y [...,D] float32; weight, bias [D]; saves mean and rstd = 1/√(var + eps), [rows] each.
void check_layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, Out mean, Out rstd);
/// With n = (x − mean)·rstd and g = dy∘weight: dx = rstd (g − mean(g) − n mean(g∘n)) + residual, dweight = Σ dy∘n, dbias = Σ dy.
/// residual, like x, is the gradient that x has from elsewhere.
void check_layernorm_backward(const View& dy, const View& x, const View& weight, const View& mean, const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias);

namespace cpu {
void layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, Out mean, Out rstd);
void layernorm_backward(const View& dy, const View& x, const View& weight, const View& mean, const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias);
}  // namespace cpu
namespace cuda {
void layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, Out mean, Out rstd);
void layernorm_backward(const View& dy, const View& x, const View& weight, const View& mean, const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias);
}  // namespace cuda
}  // namespace mt
