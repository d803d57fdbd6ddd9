#include "ops/source_attention.h"

#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/matmul.h"

namespace mt::cuda {

void source_attention(const Act& q, const Act& source, const View& wk, const View& wv, Maybe bias, Maybe a, Maybe b,
                      double scaling, int64_t heads, ActOut out) {
  const int64_t n = q.size(-2), width = q.size(-1), keys = source.size(-2), rank = a ? a.size(0) : 0;
  if (!out.numel()) return;
  const int64_t groups = q.numel() / (n * width), d = width / heads;
  each_activation(q.dtype, [&](auto t) {
    using T = decltype(t);
    const bool narrow = q.dtype == DType::bf16;
    const Scratch k(size_t(groups * keys * width) * sizeof(T)), v(size_t(groups * keys * width) * sizeof(T));
    const Scratch shrunk(size_t(groups * keys * rank) * sizeof(float)), lse(size_t(groups * heads * n) * sizeof(float));
    if (keys) {
      const Matrix e = matrix(source), low{shrunk.as<void>(), DType::f32, groups * keys, rank};
      // k (groups·keys, width) = E W_kᵀ
      matmul({.form = Form::nt, .a = e, .b = matrix(wk), .c = k.as<void>(), .type = q.dtype, .narrow = narrow});
      // E Aᵀ (groups·keys, rank)
      if (rank)
        matmul(
            {.form = Form::nt, .a = e, .b = matrix(a), .c = shrunk.as<void>(), .type = DType::f32, .narrow = narrow});
      // v (groups·keys, width) = E W_vᵀ + b_v + scaling·(E Aᵀ) Bᵀ
      matmul({.form = Form::nt,
              .a = e,
              .b = matrix(wv),
              .c = v.as<void>(),
              .type = q.dtype,
              .narrow = narrow,
              .bias = bias ? bias.data<float>() : nullptr,
              .a2 = rank ? low : Matrix{},
              .b2 = rank ? matrix(b) : Matrix{},
              .factor = rank ? float(scaling) : 1});
    }
    // out (groups, n, heads, d) = softmax(q·kᵀ/√d)·v
    Attention<T> x{};
    x.q = {q.data<const T>(), n * width, 0, width, d};
    x.k = {k.as<const T>(), keys * width, 0, width, d};
    x.v = {v.as<const T>(), keys * width, 0, width, d};
    x.out = {out.data<T>(), n * width, 0, width, d};
    x.lse = lse.as<float>();
    x.units = groups * heads;
    x.nq = int(n);
    x.nk = int(keys);
    x.d = int(d);
    x.heads = int(heads);
    x.b1 = x.p = 1;
    x.scale = float(1 / std::sqrt(double(d)));
    attention_forward(x);
  });
}

}  // namespace mt::cuda
