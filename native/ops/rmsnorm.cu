#include "ops/rmsnorm.h"

#include "kernels/cuda/norm.h"

namespace mt::cuda {

void rmsnorm_forward(const Act& x, const View& weight, double eps, ActOut y, Out rstd) {
  norm_forward<false>(x, weight, nullptr, eps, y, View{}, nullptr, rstd.data<float>());
}
void rmsnorm_backward(const Act& dy, const Act& x, const View& weight, const View& rstd, const MaybeAct& residual,
                      MaybeActOut dx, MaybeOut dweight) {
  norm_backward<false>(dy, View{}, x, weight, nullptr, rstd.data<float>(), residual, dx, dweight, View{});
}

}  // namespace mt::cuda
