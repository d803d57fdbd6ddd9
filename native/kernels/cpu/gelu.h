// Exact GELU over spans; included by each_isa.h. Φ(x) comes from Φ(−|x|) = e^(−x²/2)·t·P(t − 5/8), t = 1/(1 +
// 0.3|x|/√2); P was fitted to half the scaled complementary error function over |x| ≤ 13, relative error below 2e-8.

struct Normal {
  vec cdf;      // Φ(x)
  vec density;  // √(2π)·φ(x) = e^(−x²/2)
};

MT_INLINE Normal normal(vec x) {
  vec size = max(x, splat(0.0f) - x);
  vec t = splat(1.0f) / (splat(1.0f) + splat(0.21213204f) * size), u = t - splat(0.625f);
  vec p = splat(-0.064717069f);
  p = fma(p, u, splat(-0.081036977f));
  p = fma(p, u, splat(0.097692646f));
  p = fma(p, u, splat(0.41949806f));
  p = fma(p, u, splat(0.69049597f));
  p = fma(p, u, splat(0.75896645f));
  p = fma(p, u, splat(0.62523204f));
  p = fma(p, u, splat(0.40215731f));
  p = fma(p, u, splat(0.20431654f));
  vec e = exp(splat(-0.5f) * size * size), below = e * (t * p);
  return {select(x > splat(0.0f), splat(1.0f) - below, below), e};
}

/// y[i] = f(lanes at i); the tail is computed in a vector of its own.
template <typename F>
inline void spans(float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f([i](const float* p) { return load(p + i); }));
  if (i == n) return;
  float last[kLanes];
  store(last, f([i, n](const float* p) {
          float part[kLanes] = {};
          std::memcpy(part, p + i, size_t(n - i) * sizeof(float));
          return load(part);
        }));
  std::memcpy(y + i, last, size_t(n - i) * sizeof(float));
}

MT_NOINLINE inline void gelu(const float* x, float* y, int64_t n) {
  spans(y, n, [=](auto at) {
    vec v = at(x);
    return v * normal(v).cdf;
  });
}

/// dx = dy·(Φ(x) + x φ(x)).
MT_NOINLINE inline void gelu_backward(const float* dy, const float* x, float* dx, int64_t n) {
  spans(dx, n, [=](auto at) {
    vec v = at(x);
    Normal g = normal(v);
    return at(dy) * fma(v * splat(0.39894228f), g.density, g.cdf);
  });
}
