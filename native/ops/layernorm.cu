#include "ops/layernorm.h"

#include "kernels/cuda/norm.h"

namespace mt::cuda {

void layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, MaybeOut rest, Out mean,
                       Out rstd) {
  norm_forward<true>(x, weight, bias.data<float>(), eps, y, rest, mean.data<float>(), rstd.data<float>());
}
void layernorm_backward(const View& dy, const Maybe& drest, const View& x, const View& weight, const View& mean,
                        const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias) {
  norm_backward<true>(dy, drest, x, weight, mean.data<float>(), rstd.data<float>(), residual, dx, dweight, dbias);
}

}  // namespace mt::cuda
