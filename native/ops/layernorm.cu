#include "ops/layernorm.h"

#include "kernels/cuda/norm.h"

namespace mt::cuda {

void layernorm_forward(const Act& x, const View& weight, const View& bias, double eps, ActOut y, MaybeActOut rest,
                       Out mean, Out rstd) {
  norm_forward<true>(x, weight, bias.data<float>(), eps, y, rest, mean.data<float>(), rstd.data<float>());
}
void layernorm_backward(const Act& dy, const MaybeAct& drest, const Act& x, const View& weight, const View& mean,
                        const View& rstd, const MaybeAct& residual, MaybeActOut dx, MaybeOut dweight, MaybeOut dbias) {
  norm_backward<true>(dy, drest, x, weight, mean.data<float>(), rstd.data<float>(), residual, dx, dweight, dbias);
}

}  // namespace mt::cuda
