// One row of a layer normalisation; included by each_isa.h. Sums are double, in kLanes of a fixed order: rows are
// short, and eps may be 1e-12.

constexpr int kSums = 16;  // independent sums, to hide the latency of additions

/// Σ f(i) over the row.
template <typename F>
MT_INLINE double row_sum(int64_t n, F f) {
  double s[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int l = 0; l < kSums; ++l) s[l] += f(i + l);
  for (; i < n; ++i) s[0] += f(i);
  for (int half = kSums / 2; half; half /= 2)
    for (int l = 0; l < half; ++l) s[l] += s[l + half];
  return s[0];
}

/// y = (x − mean)·rstd·w + b.
MT_NOINLINE inline void layernorm_row(const float* x, const float* w, const float* b, double eps, float* y, float* mean,
                                      float* rstd, int64_t n) {
  const double m = n ? row_sum(n, [=](int64_t i) { return double(x[i]); }) / double(n) : 0;
  const double squares = row_sum(n, [=](int64_t i) { return (x[i] - m) * (x[i] - m); });
  const double s = 1.0 / std::sqrt(squares / double(n) + eps);
  *mean = float(m);
  *rstd = float(s);
  for (int64_t i = 0; i < n; ++i) y[i] = float((x[i] - m) * s) * w[i] + b[i];
}

/// dx = rstd·(g − mean(g) − x̂·mean(g·x̂)) + more, g = dy·w, x̂ = (x − mean)·rstd; more may be null.
MT_NOINLINE inline void layernorm_row_backward(const float* dy, const float* x, const float* w, float mean, float rstd,
                                               const float* more, float* dx, int64_t n) {
  const double sum = row_sum(n, [=](int64_t i) { return double(dy[i] * w[i]); });
  const double dot = row_sum(n, [=](int64_t i) { return double(dy[i] * w[i]) * ((x[i] - mean) * rstd); });
  const float a = float(sum / double(n)), c = float(dot / double(n));
  if (more)
    for (int64_t i = 0; i < n; ++i) dx[i] = more[i] + rstd * (dy[i] * w[i] - a - (x[i] - mean) * rstd * c);
  else
    for (int64_t i = 0; i < n; ++i) dx[i] = rstd * (dy[i] * w[i] - a - (x[i] - mean) * rstd * c);
}
