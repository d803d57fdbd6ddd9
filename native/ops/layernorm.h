// LayerNorm over the last dimension: y = (x − mean)/√(var + eps) ∘ weight + bias, with the biased variance.
#pragma once
#include "core/view.h"

namespace mt {

/// x [...,D]; weight, bias [D]; saves mean and rstd = 1/√(var + eps), [rows] each. y is like x, or a slice of a larger
/// tensor whose groups [m,D] are contiguous and evenly spaced. Where `rest` is given, the rows of a group [...,m,D] are
/// split: y gets the first ones, rest the others.
void check_layernorm_forward(const Act& x, const View& weight, const View& bias, double eps, ActOut y, MaybeActOut rest,
                             Out mean, Out rstd);
/// With n = (x − mean)·rstd and g = dy∘weight: dx = rstd (g − mean(g) − n mean(g∘n)) + residual, dweight = Σ dy∘n,
/// dbias = Σ dy. residual, like x, is the gradient of x from its other uses. dy and drest lie as y and rest do.
void check_layernorm_backward(const Act& dy, const MaybeAct& drest, const Act& x, const View& weight, const View& mean,
                              const View& rstd, const MaybeAct& residual, MaybeActOut dx, MaybeOut dweight,
                              MaybeOut dbias);

namespace cpu {
void layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, MaybeOut rest, Out mean,
                       Out rstd);
void layernorm_backward(const View& dy, const Maybe& drest, const View& x, const View& weight, const View& mean,
                        const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias);
}  // namespace cpu
namespace cuda {
void layernorm_forward(const Act& x, const View& weight, const View& bias, double eps, ActOut y, MaybeActOut rest,
                       Out mean, Out rstd);
void layernorm_backward(const Act& dy, const MaybeAct& drest, const Act& x, const View& weight, const View& mean,
                        const View& rstd, const MaybeAct& residual, MaybeActOut dx, MaybeOut dweight, MaybeOut dbias);
}  // namespace cuda
}  // namespace mt
