#include "ops/rmsnorm.h"

#include <vector>

#include "core/parallel.h"

namespace mt {

// ---- checks ----

void check_rmsnorm_forward(const Act& x, const View& weight, double eps, ActOut y, Out rstd) {
  require_dense(x, "x");
  require(x.rank >= 1, "x: expected at least one dimension, but got a single number.");
  require_dense(weight, "weight");
  require_shape(weight, "weight", {x.size(-1)});
  require(eps >= 0, "eps: expected 0 or more, but got ", eps, ".");
  require_dense(y, "y");
  require_same_shape(y, "y", x, "x");
  require_dense(rstd, "rstd");
  require_shape(rstd, "rstd", {x.rows()});
}
void check_rmsnorm_backward(const Act& dy, const Act& x, const View& weight, const View& rstd, const MaybeAct& residual,
                            MaybeActOut dx, MaybeOut dweight) {
  ActOut y;
  Out r;
  static_cast<View&>(y) = dy, static_cast<View&>(r) = rstd;
  check_rmsnorm_forward(x, weight, 0, y, r);
  if (residual) require_dense(residual, "residual"), require_same_shape(residual, "residual", x, "x");
  if (dx) require_dense(dx, "dx"), require_same_shape(dx, "dx", x, "x");
  if (dweight) require_dense(dweight, "dweight"), require_same_shape(dweight, "dweight", weight, "weight");
}

// ---- CPU ----

namespace cpu {

void rmsnorm_forward(const View& x, const View& weight, double eps, Out y, Out rstd) {
  int64_t D = x.size(-1);
  const float *px = x.data<float>(), *w = weight.data<float>();
  float *py = y.data<float>(), *pr = rstd.data<float>();
  parallel_for(x.rows(), 3 * D, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = px + r * D;
      double squares = 0;
      for (int64_t i = 0; i < D; ++i) squares += double(row[i]) * row[i];
      float s = float(1.0 / std::sqrt(squares / double(D) + eps));
      pr[r] = s;
      for (int64_t i = 0; i < D; ++i) py[r * D + i] = row[i] * s * w[i];
    }
  });
}

void rmsnorm_backward(const View& dy, const View& x, const View& weight, const View& rstd, const Maybe& residual,
                      MaybeOut dx, MaybeOut dweight) {
  int64_t D = x.size(-1), rows = x.rows();
  const float *pd = dy.data<float>(), *px = x.data<float>(), *w = weight.data<float>(), *pr = rstd.data<float>();
  if (dx) {
    const float* more = residual ? residual.data<float>() : nullptr;
    float* out = dx.data<float>();
    parallel_for(rows, 5 * D, [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const float *d = pd + r * D, *row = px + r * D;
        double dot = 0;
        for (int64_t i = 0; i < D; ++i) dot += double(d[i] * w[i]) * row[i];
        float c = float(dot / double(D)) * pr[r] * pr[r];
        for (int64_t i = 0; i < D; ++i)
          out[r * D + i] = (more ? more[r * D + i] : 0.0f) + pr[r] * (d[i] * w[i] - row[i] * c);
      }
    });
  }
  if (!dweight) return;
  float* ow = dweight.data<float>();
  parallel_for(D, 2 * rows, [=](int64_t begin, int64_t end) {
    std::vector<double> sums(size_t(end - begin), 0.0);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = begin; i < end; ++i) sums[size_t(i - begin)] += pd[r * D + i] * (px[r * D + i] * pr[r]);
    for (int64_t i = begin; i < end; ++i) ow[i] = float(sums[size_t(i - begin)]);
  });
}

}  // namespace cpu
}  // namespace mt
