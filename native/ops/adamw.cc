#include "ops/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/parallel.h"

namespace mt {

namespace {

void require_betas(double beta1, double beta2) {
  require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1,
          "betas: expected numbers from 0 up to, not including, 1, but got ", beta1, " and ", beta2, ".");
}
/// Kernels over many tensors count elements with 32 bits.
void require_size(const View& v, const char* what) {
  require(v.numel() < int64_t(1) << 31, what, ": expected tensors of less than 2^31 elements, but got shape ",
          shape_text(v), ".");
}
/// As many dense tensors as `others`, each of the same shape as its counterpart.
void require_pairs(const std::vector<View>& list, const char* what, const std::vector<View>& others,
                   const char* whose) {
  require(list.size() == others.size(), what, ": expected as many tensors as in ", whose, ", ", others.size(),
          ", but got ", list.size(), ".");
  for (size_t i = 0; i < list.size(); ++i) {
    require_dense(others[i], whose);
    require_dense(list[i], what);
    require_same_shape(list[i], what, others[i], whose);
    require_size(list[i], what);
  }
}

}  // namespace

void check_square_sum(const View& x, InOut sum) {
  require_dense(x, "x");
  require_dense(sum, "sum");
  require(sum.numel() == 1, "sum: expected one number, but got shape ", shape_text(sum), ".");
}
void check_adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1,
                 double beta2, double eps, double decay, int64_t step) {
  require_dense(param, "param");
  const View* others[] = {&grad, &m, &v};
  const char* names[] = {"grad", "m", "v"};
  for (int i = 0; i < 3; ++i) {
    require_dense(*others[i], names[i]);
    require_same_shape(*others[i], names[i], param, "param");
  }
  if (scale)
    require(scale.numel() == 1 && scale.dtype == DType::f32, "scale: expected one float32 number, but got shape ",
            shape_text(scale), ".");
  require(std::isfinite(lr) && lr >= 0, "lr: expected 0 or more, but got ", lr, ".");
  require_betas(beta1, beta2);
  require(eps >= 0 && decay >= 0, "eps, decay: expected 0 or more, but got ", eps, " and ", decay, ".");
  require(step >= 1, "step: expected 1 or more, but got ", step, ".");
}
void check_accumulate(const InOuts& sums, const Views& xs) { require_pairs(xs, "xs", sums, "sums"); }
void check_gradient_norm(const Views& grads, const Maybe& losses, double clip, const Out& report) {
  for (const View& g : grads) {
    require_dense(g, "grads");
    require_size(g, "grads");
  }
  if (losses) {
    require_dense(losses, "losses");
    require_rank(losses, "losses", 1);
  }
  require(clip >= 0, "clip: expected 0 or more, but got ", clip, ".");
  require_dense(report, "report");
  require_shape(report, "report", {3 + (losses ? losses.shape[0] : 0)});
}
void check_adamw_schedule(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay,
                          const Out& schedule) {
  require(step >= 1, "step: expected 1 or more, but got ", step, ".");
  require_betas(beta1, beta2);
  for (double rate : lr) require(std::isfinite(rate) && rate >= 0, "lr: expected 0 or more, but got ", rate, ".");
  for (double d : decay) require(std::isfinite(d) && d >= 0, "decay: expected 0 or more, but got ", d, ".");
  require(lr.size() == decay.size(), "decay: expected one number for each of lr, ", lr.size(), ", but got ",
          decay.size(), ".");
  require_dtype(schedule, "schedule", DType::i64);
  require_contiguous(schedule, "schedule");
  require_shape(schedule, "schedule", {int64_t(2 + 2 * lr.size())});
}
void check_adamw_all(const InOuts& params, const Views& grads, const InOuts& m, const InOuts& v, const Numbers& rows,
                     const View& report, const View& schedule, double beta1, double beta2, double eps) {
  require_pairs(grads, "grads", params, "params");
  require_pairs(m, "m", params, "params");
  require_pairs(v, "v", params, "params");
  require_dense(report, "report");
  require(report.rank == 1 && report.shape[0] >= 3, "report: expected [3+k] numbers of gradient_norm, but got shape ",
          shape_text(report), ".");
  require_dtype(schedule, "schedule", DType::i64);
  require_contiguous(schedule, "schedule");
  require(schedule.rank == 1 && schedule.shape[0] >= 2 && schedule.shape[0] % 2 == 0,
          "schedule: expected [2+2n] numbers of adamw_schedule, but got shape ", shape_text(schedule), ".");
  const double kinds = double(schedule.shape[0] / 2 - 1);
  require(rows.size() == params.size(), "rows: expected one for each of ", params.size(), " params, but got ",
          rows.size(), ".");
  for (double row : rows)
    require(row >= 0 && row < kinds && row == std::floor(row) && row < 65536,
            "rows: expected integers from 0 to below ", kinds, ", the kinds in schedule, but got ", row, ".");
  require_betas(beta1, beta2);
  require(eps >= 0, "eps: expected 0 or more, but got ", eps, ".");
}

std::vector<double> schedule_values(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay) {
  std::vector<double> values{1.0 / (1.0 - std::pow(beta1, double(step))), 1.0 / (1.0 - std::pow(beta2, double(step)))};
  for (size_t i = 0; i < lr.size(); ++i) values.insert(values.end(), {lr[i], 1 - lr[i] * decay[i]});
  return values;
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

namespace {

struct Step {
  double scale, rate, keep, correct1, correct2, beta1, beta2, eps;
};
void update(const View& param, const View& grad, const View& m, const View& v, const Step& s) {
  float *w = param.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  const float* g = grad.data<float>();
  parallel_for(param.numel(), 20, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double d = s.scale * g[i];
      double mi = s.beta1 * pm[i] + (1 - s.beta1) * d, vi = s.beta2 * pv[i] + (1 - s.beta2) * d * d;
      pm[i] = float(mi);
      pv[i] = float(vi);
      w[i] = float(double(w[i]) * s.keep - s.rate * (mi * s.correct1) / (std::sqrt(vi * s.correct2) + s.eps));
    }
  });
}

}  // namespace

void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2,
           double eps, double decay, int64_t step) {
  const auto s = schedule_values(step, beta1, beta2, {lr}, {decay});
  update(param, grad, m, v, {scale ? double(*scale.data<float>()) : 1.0, s[2], s[3], s[0], s[1], beta1, beta2, eps});
}

void accumulate(const InOuts& sums, const Views& xs) {
  for (size_t i = 0; i < sums.size(); ++i) {
    float* sum = sums[i].data<float>();
    const float* x = xs[i].data<float>();
    parallel_for(sums[i].numel(), 1, [=](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) sum[k] += x[k];
    });
  }
}

void gradient_norm(const Views& grads, const Maybe& losses, double clip, const Out& report) {
  float* to = report.data<float>();
  InOut sum;
  static_cast<View&>(sum) = report;
  *to = 0;
  for (const View& g : grads) square_sum(g, sum);  // report[0]
  bool fine = std::isfinite(*to);
  const int64_t k = losses ? losses.numel() : 0;
  for (int64_t i = 0; i < k; ++i) {
    to[3 + i] = losses.data<float>()[i];
    fine = fine && std::isfinite(to[3 + i]);
  }
  to[1] = clip > 0 ? float(std::min(1.0, clip / (std::sqrt(double(*to)) + 1e-6))) : 1.0f;
  to[2] = fine;
}

void adamw_schedule(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay,
                    const Out& schedule) {
  const auto values = schedule_values(step, beta1, beta2, lr, decay);
  std::memcpy(schedule.data<int64_t>(), values.data(), values.size() * sizeof(double));
}

void adamw_all(const InOuts& params, const Views& grads, const InOuts& m, const InOuts& v, const Numbers& rows,
               const View& report, const View& schedule, double beta1, double beta2, double eps) {
  const float* r = report.data<float>();
  if (r[2] == 0) return;
  std::vector<double> s(size_t(schedule.numel()));
  std::memcpy(s.data(), schedule.data<int64_t>(), s.size() * sizeof(double));
  for (size_t i = 0; i < params.size(); ++i) {
    const size_t at = 2 + 2 * size_t(rows[i]);
    update(params[i], grads[i], m[i], v[i], {double(r[1]), s[at], s[at + 1], s[0], s[1], beta1, beta2, eps});
  }
}

}  // namespace cpu
}  // namespace mt
