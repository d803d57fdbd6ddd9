#include "ops/layernorm.h"

#include <vector>

#include "core/parallel.h"
#include "core/parted.h"

#define MT_EACH_ISA "kernels/cpu/layernorm.h"
#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

void check_layernorm_forward(const Act& x, const View& weight, const View& bias, double eps, ActOut y, MaybeActOut rest,
                             Out mean, Out rstd) {
  require_dense(x, "x");
  require(x.rank >= 1, "x: expected at least one dimension, but got a single number.");
  require_dense(weight, "weight");
  require_shape(weight, "weight", {x.size(-1)});
  require_dense(bias, "bias");
  require_shape(bias, "bias", {x.size(-1)});
  require(eps >= 0, "eps: expected 0 or more, but got ", eps, ".");
  require_parted(y, rest, "y", "rest", x, "x");
  require_dense(mean, "mean");
  require_shape(mean, "mean", {x.rows()});
  require_dense(rstd, "rstd");
  require_shape(rstd, "rstd", {x.rows()});
}
void check_layernorm_backward(const Act& dy, const MaybeAct& drest, const Act& x, const View& weight, const View& mean,
                              const View& rstd, const MaybeAct& residual, MaybeActOut dx, MaybeOut dweight,
                              MaybeOut dbias) {
  ActOut y;
  Out m, r;
  static_cast<View&>(y) = x, static_cast<View&>(m) = mean, static_cast<View&>(r) = rstd;
  check_layernorm_forward(x, weight, weight, 0, y, {}, m, r);
  require_parted(dy, drest, "dy", "drest", x, "x");
  if (residual) require_dense(residual, "residual"), require_same_shape(residual, "residual", x, "x");
  if (dx) require_dense(dx, "dx"), require_same_shape(dx, "dx", x, "x");
  if (dweight) require_dense(dweight, "dweight"), require_same_shape(dweight, "dweight", weight, "weight");
  if (dbias) require_dense(dbias, "dbias"), require_same_shape(dbias, "dbias", weight, "weight");
}

// ---- CPU ----

namespace cpu {
namespace {

/// f(row): where a row begins, of rows that may be split between two tensors.
auto rows_of(const View& head, const View& tail, int64_t D) {
  return [parts = Parted(head, tail), h = head.data<float>(), t = tail ? tail.data<float>() : nullptr, D](int64_t r) {
    if (!parts.per) return h + r * D;
    const int64_t g = r / parts.per, i = r % parts.per;
    return i < parts.first ? h + g * parts.head + i * D : t + g * parts.tail + (i - parts.first) * D;
  };
}

}  // namespace

void layernorm_forward(const View& x, const View& weight, const View& bias, double eps, Out y, MaybeOut rest, Out mean,
                       Out rstd) {
  int64_t D = x.size(-1);
  const float *px = x.data<float>(), *w = weight.data<float>(), *b = bias.data<float>();
  float *pm = mean.data<float>(), *pr = rstd.data<float>();
  const auto py = rows_of(y, rest, D);
  const auto row = MT_FOR_ISA(layernorm_row);
  parallel_for(x.rows(), D, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(px + r * D, w, b, eps, py(r), pm + r, pr + r, D);
  });
}

void layernorm_backward(const View& dy, const Maybe& drest, const View& x, const View& weight, const View& mean,
                        const View& rstd, const Maybe& residual, MaybeOut dx, MaybeOut dweight, MaybeOut dbias) {
  int64_t D = x.size(-1), rows = x.rows();
  const auto pd = rows_of(dy, drest, D);
  const float *px = x.data<float>(), *w = weight.data<float>(), *pm = mean.data<float>(), *pr = rstd.data<float>();
  if (dx) {
    const float* more = residual ? residual.data<float>() : nullptr;
    float* out = dx.data<float>();
    const auto row = MT_FOR_ISA(layernorm_row_backward);
    parallel_for(rows, D, [=](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        row(pd(r), px + r * D, w, pm[r], pr[r], more ? more + r * D : nullptr, out + r * D, D);
    });
  }
  if (!dweight && !dbias) return;
  // Threads share the columns; each column is summed over the rows in order.
  float *ow = dweight ? dweight.data<float>() : nullptr, *ob = dbias ? dbias.data<float>() : nullptr;
  parallel_for(D, 3 * rows, [=](int64_t begin, int64_t end) {
    std::vector<double> sw(size_t(end - begin), 0.0), sb(size_t(end - begin), 0.0);
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = pd(r);
      for (int64_t i = begin; i < end; ++i) {
        float d = row[i];
        sw[size_t(i - begin)] += d * ((px[r * D + i] - pm[r]) * pr[r]);
        sb[size_t(i - begin)] += d;
      }
    }
    for (int64_t i = begin; i < end; ++i) {
      if (ow) ow[i] = float(sw[size_t(i - begin)]);
      if (ob) ob[i] = float(sb[size_t(i - begin)]);
    }
  });
}

}  // namespace cpu
}  // namespace mt
