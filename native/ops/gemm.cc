#include "ops/gemm.h"

#include "core/parallel.h"
#include "kernels/linear.h"

#define MT_EACH_ISA "kernels/gelu.h"
#include "kernels/each_isa.h"

namespace mt {

// ---- checks ----

void check_gemm_forward(const View& x, const View& w, const Maybe& bias, const Maybe& residual, Out y) {
  require_weight(w, "w");
  require_last(x, "x", w.size(1), "the weight's second");
  if (bias) require_vector(bias, "bias", w.size(0));
  if (residual) require_rows(residual, "residual", w.size(0), x, "x");
  require_rows(y, "y", w.size(0), x, "x");
}
void check_gemm_gelu_forward(const View& x, const View& w, const Maybe& bias, MaybeOut z, Out y) {
  check_gemm_forward(x, w, bias, {}, y);
  if (z) require_rows(z, "z", w.size(0), x, "x");
}
void check_gemm_backward_input(const View& dy, const View& w, Out dx) {
  require_weight(w, "w");
  require_last(dy, "dy", w.size(0), "the weight's first");
  require_rows(dx, "dx", w.size(1), dy, "dy");
}
void check_gemm_backward_weight(const View& dy, const View& x, MaybeOut dw, MaybeOut dbias) {
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

namespace {
const float* numbers(const Maybe& v) { return v ? v.data<float>() : nullptr; }
}  // namespace

void gemm_forward(const View& x, const View& w, const Maybe& bias, const Maybe& residual, Out y) {
  int64_t n = w.size(0), k = w.size(1);
  matmul(x.rows(), n, k, left(x), right_transposed(w), y.data<float>(), n, {.bias = numbers(bias), .residual = numbers(residual)});
}

void gemm_gelu_forward(const View& x, const View& w, const Maybe& bias, MaybeOut z, Out y) {
  int64_t n = w.size(0), k = w.size(1);
  float* py = y.data<float>();
  matmul(x.rows(), n, k, left(x), right_transposed(w), z ? z.data<float>() : py, n, {.bias = numbers(bias), .map = MT_FOR_ISA(gelu), .mapped = py});
}

void gemm_backward_input(const View& dy, const View& w, Out dx) {
  int64_t n = w.size(0), k = w.size(1);
  matmul(dy.rows(), k, n, left(dy), right(w), dx.data<float>(), k);
}

void gemm_backward_weight(const View& dy, const View& x, MaybeOut dw, MaybeOut dbias) {
  int64_t m = x.rows(), n = dy.size(-1), k = x.size(-1);
  if (dw) matmul(n, k, m, left_transposed(dy), right(x), dw.data<float>(), k);
  if (!dbias) return;
  // A strip of columns is one cache line per row, summed from the first row to the last.
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
