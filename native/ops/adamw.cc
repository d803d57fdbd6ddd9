#include "ops/adamw.h"

#include <vector>

#include "core/parallel.h"

namespace mt {

void check_square_sum(const View& x, InOut sum) {
  require_dense(x, "x");
  require_dense(sum, "sum");
  require(sum.numel() == 1, "sum: expected one number, but got shape ", shape_text(sum), ".");
}
void check_adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2, double eps, double decay, int64_t step) {
  require_dense(param, "param");
  const View* others[] = {&grad, &m, &v};
  const char* names[] = {"grad", "m", "v"};
  for (int i = 0; i < 3; ++i) {
    require_dense(*others[i], names[i]);
    require_same_shape(*others[i], names[i], param, "param");
  }
  if (scale) require(scale.numel() == 1 && scale.dtype == DType::f32, "scale: expected one float32 number, but got shape ", shape_text(scale), ".");
  require(std::isfinite(lr) && lr >= 0, "lr: expected 0 or more, but got ", lr, ".");
  require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas: expected numbers from 0 up to, not including, 1, but got ", beta1, " and ", beta2, ".");
  require(eps >= 0 && decay >= 0, "eps, decay: expected 0 or more, but got ", eps, " and ", decay, ".");
  require(step >= 1, "step: expected 1 or more, but got ", step, ".");
}

namespace cpu {

void square_sum(const View& x, InOut sum) {
  constexpr int64_t piece = 4096;  // fixed, so that the order of summation does not depend on the threads
  const float* p = x.data<float>();
  int64_t n = x.numel(), pieces = (n + piece - 1) / piece;
  std::vector<double> sums(size_t(pieces), 0.0);
  parallel_for(pieces, piece, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      for (int64_t i = k * piece; i < std::min(n, (k + 1) * piece); ++i) sums[size_t(k)] += double(p[i]) * p[i];
  });
  double total = *sum.data<float>();
  for (double s : sums) total += s;
  *sum.data<float>() = float(total);
}

void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2, double eps, double decay, int64_t step) {
  float *w = param.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  const float* g = grad.data<float>();
  double s = scale ? double(*scale.data<float>()) : 1.0;
  double c1 = 1.0 / (1.0 - std::pow(beta1, double(step))), c2 = 1.0 / (1.0 - std::pow(beta2, double(step)));
  parallel_for(param.numel(), 20, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double d = s * g[i];
      double mi = beta1 * pm[i] + (1 - beta1) * d, vi = beta2 * pv[i] + (1 - beta2) * d * d;
      pm[i] = float(mi);
      pv[i] = float(vi);
      w[i] = float(double(w[i]) * (1 - lr * decay) - lr * (mi * c1) / (std::sqrt(vi * c2) + eps));
    }
  });
}

}  // namespace cpu
}  // namespace mt
