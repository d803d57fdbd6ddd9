#include "ops/lora.h"

#include <vector>

#include "kernels/cpu/linear.h"

namespace mt {

// ---- checks ----

namespace {
void check_factors(const View& w, const View& a, const View& b) {
  require_any_weight(w, "w");
  require_dense(a, "a");
  require_rank(a, "a", 2);
  require_shape(a, "a", {a.size(0), w.size(1)});
  require_dense(b, "b");
  require_shape(b, "b", {w.size(0), a.size(0)});
}
}  // namespace

void check_lora_forward(const Act& x, const View& w, const Maybe& bias, const View& a, const View& b, double, ActOut y,
                        Out shrunk) {
  check_factors(w, a, b);
  require_last(x, "x", w.size(1), "the weight's second");
  if (bias) require_vector(bias, "bias", w.size(0));
  require_rows(y, "y", w.size(0), x, "x");
  require_rows(shrunk, "shrunk", a.size(0), x, "x");
}
void check_lora_backward(const Act& dy, const Act& x, const View& shrunk, const View& w, const View& a, const View& b,
                         double, const MaybeAct& residual, MaybeActOut dx, Out da, Out db) {
  check_factors(w, a, b);
  require_last(x, "x", w.size(1), "the weight's second");
  require_rows(dy, "dy", w.size(0), x, "x");
  require_rows(shrunk, "shrunk", a.size(0), x, "x");
  if (residual) require_rows(residual, "residual", w.size(1), x, "x");
  if (dx) {
    require_dense(dx, "dx");
    require_same_shape(dx, "dx", x, "x");
  }
  require_dense(da, "da");
  require_same_shape(da, "da", a, "a");
  require_dense(db, "db");
  require_same_shape(db, "db", b, "b");
}

// ---- CPU ----

namespace cpu {

void lora_forward(const Act& x, const View& w, const Maybe& bias, const View& a, const View& b, double scaling,
                  ActOut y, Out shrunk) {
  const int64_t m = x.rows(), n = w.size(0), k = w.size(1), r = a.size(0);
  matmul(m, r, k, left(x), right_transposed(a), result(shrunk));
  const LowRank update{shrunk.data<float>(), r, right_transposed(b), float(scaling)};
  matmul(m, n, k, left(x), weight_transposed(w, m), result(y), {.bias = numbers(bias), .low_rank = &update});
}

void lora_backward(const Act& dy, const Act& x, const View& shrunk, const View& w, const View& a, const View& b,
                   double scaling, const MaybeAct& residual, MaybeActOut dx, Out da, Out db) {
  const int64_t m = x.rows(), n = w.size(0), k = w.size(1), r = a.size(0);
  const float s = float(scaling);
  std::vector<float> g(size_t(m * r));
  matmul(m, r, n, left(dy), right(b), {g.data(), DType::f32, r}, {.alpha = s});
  matmul(r, k, m, {g.data(), DType::f32, 1, r}, right(x), result(da));
  std::vector<float> transposed(size_t(r * n));  // dbᵀ has few rows, so that dy, on the right, is read in place
  matmul(r, n, m, left_transposed(shrunk), right(dy), {transposed.data(), DType::f32, n}, {.alpha = s});
  float* to = db.data<float>();
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < r; ++i) to[j * r + i] = transposed[size_t(i * n + j)];
  if (!dx) return;
  const LowRank update{g.data(), r, right(a), 1};
  matmul(m, k, n, left(dy), weight(w, m), result(dx),
         {.low_rank = &update, .residual = residual ? first_of(residual) : nullptr});
}

}  // namespace cpu
}  // namespace mt
