// RMSNorm over the last dimension, as in LLaMA: y = x/√(mean(x²) + eps) ∘ weight.
#pragma once
#include "core/view.h"

namespace mt {

/// x, y [...,D]; weight [D]; saves rstd = 1/√(mean(x²) + eps), [rows].
void check_rmsnorm_forward(const Act& x, const View& weight, double eps, ActOut y, Out rstd);
/// With g = dy∘weight: dx = rstd (g − x rstd² mean(g∘x)) + residual, dweight = Σ dy∘x·rstd. residual, like x, is the
/// gradient of x from its other uses.
void check_rmsnorm_backward(const Act& dy, const Act& x, const View& weight, const View& rstd, const MaybeAct& residual,
                            MaybeActOut dx, MaybeOut dweight);

namespace cpu {
void rmsnorm_forward(const View& x, const View& weight, double eps, Out y, Out rstd);
void rmsnorm_backward(const View& dy, const View& x, const View& weight, const View& rstd, const Maybe& residual,
                      MaybeOut dx, MaybeOut dweight);
}  // namespace cpu
namespace cuda {
void rmsnorm_forward(const Act& x, const View& weight, double eps, ActOut y, Out rstd);
void rmsnorm_backward(const Act& dy, const Act& x, const View& weight, const View& rstd, const MaybeAct& residual,
                      MaybeActOut dx, MaybeOut dweight);
}  // namespace cuda
}  // namespace mt
