// Gated SiLU over spans; included by each_isa.h.
#include "kernels/cpu/gelu.h"

/// σ(x) = 1 / (1 + e^−x): 0 where e^−x is beyond float32, NaN in, NaN out.
MT_INLINE vec sigmoid(vec x) {
  const vec below = splat(0.0f) - x;
  return select(below > splat(88.0f), splat(0.0f), splat(1.0f) / (splat(1.0f) + exp(below)));
}

/// y = g σ(g) u.
MT_NOINLINE inline void silu_mul(const float* gate, const float* up, float* y, int64_t n) {
  spans(y, n, [=](auto at) {
    const vec g = at(gate);
    return g * sigmoid(g) * at(up);
  });
}

/// dg = dy u σ(g) (1 + g (1 − σ(g))), du = dy g σ(g).
MT_NOINLINE inline void silu_mul_backward(const float* dy, const float* gate, const float* up, float* dgate, float* dup,
                                          int64_t n) {
  spans(dgate, n, [=](auto at) {
    const vec g = at(gate), s = sigmoid(g);
    return at(dy) * at(up) * s * fma(g, splat(1.0f) - s, splat(1.0f));
  });
  spans(dup, n, [=](auto at) {
    const vec g = at(gate);
    return at(dy) * g * sigmoid(g);
  });
}
