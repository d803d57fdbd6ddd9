#include "ops/linear.h"

#include "core/parallel.h"
#include "kernels/cpu/linear.h"

#define MT_EACH_ISA "kernels/cpu/gelu.h"
#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

void check_linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y) {
  require_any_weight(w, "w");
  require_last(x, "x", w.size(1), "the weight's second");
  if (bias) require_vector(bias, "bias", w.size(0));
  if (residual) require_rows(residual, "residual", w.size(0), x, "x");
  require_rows(y, "y", w.size(0), x, "x");
}
void check_linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y) {
  check_linear_forward(x, w, bias, {}, y);
  if (z) require_rows(z, "z", w.size(0), x, "x");
}
void check_linear_backward_input(const Act& dy, const View& w, const MaybeAct& residual, ActOut dx) {
  require_any_weight(w, "w");
  require_last(dy, "dy", w.size(0), "the weight's first");
  if (residual) require_rows(residual, "residual", w.size(1), dy, "dy");
  require_rows(dx, "dx", w.size(1), dy, "dy");
}
void check_linear_backward_weight(const Act& dy, const Act& x, MaybeOut dw, MaybeOut dbias) {
  require_dense(x, "x");
  require(x.rank > 0 && dy.rank > 0, "x and dy: expected at least 1 dimension, but got none.");
  int64_t n = dy.size(-1), k = x.size(-1);
  require_rows(dy, "dy", n, x, "x");
  if (dw) {
    require_dense(dw, "dw");
    require_shape(dw, "dw", {n, k});
  }
  if (dbias) require_vector(dbias, "dbias", n);
}

// ---- CPU ----

namespace cpu {

void linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y) {
  matmul(x.rows(), w.size(0), w.size(1), left(x), weight_transposed(w, x.rows()), result(y),
         {.bias = numbers(bias), .residual = residual ? first_of(residual) : nullptr});
}

void linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y) {
  const View& sums = z ? static_cast<const View&>(z) : y;
  matmul(x.rows(), w.size(0), w.size(1), left(x), weight_transposed(w, x.rows()), result(sums),
         {.bias = numbers(bias), .map = MT_FOR_ISA(gelu), .mapped = result(y).data});
}

void linear_backward_input(const Act& dy, const View& w, const MaybeAct& residual, ActOut dx) {
  matmul(dy.rows(), w.size(1), w.size(0), left(dy), weight(w, dy.rows()), result(dx),
         {.residual = residual ? first_of(residual) : nullptr});
}

void linear_backward_weight(const View& dy, const View& x, MaybeOut dw, MaybeOut dbias) {
  int64_t m = x.rows(), n = dy.size(-1), k = x.size(-1);
  if (dw) matmul(n, k, m, left_transposed(dy), right(x), result(dw));
  if (!dbias) return;
  // A strip of columns has one cache line of each row; it is summed from the first row to the last.
  const float* d = dy.data<float>();
  float* out = dbias.data<float>();
  constexpr int64_t strip = 16;
  parallel_for((n + strip - 1) / strip, strip * m / 4, [=](int64_t begin, int64_t end) {
    for (int64_t j = begin * strip; j < std::min(n, end * strip); j += strip) {
      double sums[strip] = {};
      int64_t count = std::min(strip, n - j);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t c = 0; c < count; ++c) sums[c] += d[i * n + j + c];
      for (int64_t c = 0; c < count; ++c) out[j + c] = float(sums[c]);
    }
  });
}

}  // namespace cpu
}  // namespace mt
