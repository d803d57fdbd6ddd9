#include "ops/layernorm.h"

#include <vector>

#include "core/parallel.h"

#define MT_EACH_ISA "kernels/layernorm.h"
#include "kernels/each_isa.h"

namespace mt {

// ---- checks ----

void check_layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, Out mean, Out rstd) {
  require_dense(x, "x");
  require(x.rank >= 1, "x: expected at least one dimension, but got a single number.");
  require_dense(weight, "weight");
  require_shape(weight, "weight", {x.size(-1)});
  require_dense(bias, "bias");
  require_shape(bias, "bias", {x.size(-1)});
  require(eps >= 0, "eps: expected 0 or more, but got ", eps, ".");
  require_dense(y, "y");
  require_same_shape(y, "y", x, "x");
  require_dense(mean, "mean");
  require_shape(mean, "mean", {x.rows()});
  require_dense(rstd, "rstd");
  require_shape(rstd, "rstd", {x.rows()});
}
void check_layernorm_backward(const View& dy, const View& x, const View& weight, const View& mean, const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias) {
  Out y, m, r;
  static_cast<View&>(y) = dy, static_cast<View&>(m) = mean, static_cast<View&>(r) = rstd;
  check_layernorm_forward(x, weight, weight, 0, y, m, r);
  if (residual) require_dense(residual, "residual"), require_same_shape(residual, "residual", x, "x");
  if (dx) require_dense(dx, "dx"), require_same_shape(dx, "dx", x, "x");
  if (dweight) require_dense(dweight, "dweight"), require_same_shape(dweight, "dweight", weight, "weight");
  if (dbias) require_dense(dbias, "dbias"), require_same_shape(dbias, "dbias", weight, "weight");
}

// ---- CPU ----

namespace cpu {

void layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, Out mean, Out rstd) {
  int64_t D = x.size(-1);
  const float *px = x.data<float>(), *w = weight.data<float>(), *b = bias.data<float>();
  float *py = y.data<float>(), *pm = mean.data<float>(), *pr = rstd.data<float>();
  const auto row = MT_FOR_ISA(layernorm_row);
  parallel_for(x.rows(), D, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(px + r * D, w, b, eps, py + r * D, pm + r, pr + r, D);
  });
}

void layernorm_backward(const View& dy, const View& x, const View& weight, const View& mean, const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias) {
  int64_t D = x.size(-1), rows = x.rows();
  const float *pd = dy.data<float>(), *px = x.data<float>(), *w = weight.data<float>(), *pm = mean.data<float>(), *pr = rstd.data<float>();
  if (dx) {
    const float* more = residual ? residual.data<float>() : nullptr;
    float* out = dx.data<float>();
    const auto row = MT_FOR_ISA(layernorm_row_backward);
    parallel_for(rows, D, [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) row(pd + r * D, px + r * D, w, pm[r], pr[r], more ? more + r * D : nullptr, out + r * D, D);
    });
  }
  if (!dweight && !dbias) return;
  // Columns are shared out; each is summed over the rows in order.
  float *ow = dweight ? dweight.data<float>() : nullptr, *ob = dbias ? dbias.data<float>() : nullptr;
  parallel_for(D, 3 * rows, [=](int64_t begin, int64_t end) {
    std::vector<double> sw(size_t(end - begin), 0.0), sb(size_t(end - begin), 0.0);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = begin; i < end; ++i) {
        float d = pd[r * D + i];
        sw[size_t(i - begin)] += d * ((px[r * D + i] - pm[r]) * pr[r]);
        sb[size_t(i - begin)] += d;
      }
    for (int64_t i = begin; i < end; ++i) {
      if (ow) ow[i] = float(sw[size_t(i - begin)]);
      if (ob) ob[i] = float(sb[size_t(i - begin)]);
    }
  });
}

}  // namespace cpu
}  // namespace mt
