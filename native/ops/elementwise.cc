#include "ops/elementwise.h"

#include <cmath>
#include <vector>

#include "core/parallel.h"

#define MT_EACH_ISA "kernels/cpu/gelu.h"
#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

namespace {
void same(const View& v, const char* what, const View& x, const char* whose) {
  require_dense(v, what);
  require_same_shape(v, what, x, whose);
}
}  // namespace

void check_add(const Act& a, const Act& b, double, ActOut out) {
  require_dense(a, "a");
  require_dense(b, "b");
  bool tail = b.rank <= a.rank;
  for (int i = 1; tail && i <= b.rank; ++i) tail = a.size(-i) == b.size(-i);
  require(tail, "b: expected the shape of a, ", shape_text(a), ", or its last dimensions, but got ", shape_text(b),
          ".");
  same(out, "out", a, "a");
}
void check_scale(const Act& x, double, ActOut out) {
  require_dense(x, "x");
  same(out, "out", x, "x");
}
void check_multiply(const Act& a, const Act& b, ActOut out) {
  require_dense(a, "a");
  same(b, "b", a, "a");
  same(out, "out", a, "a");
}
void check_gelu_forward(const Act& x, ActOut y) {
  require_dense(x, "x");
  same(y, "y", x, "x");
}
void check_gelu_backward(const Act& dy, const Act& x, ActOut dx) {
  require_dense(x, "x");
  same(dy, "dy", x, "x");
  same(dx, "dx", x, "x");
}
void check_gelu_tanh_forward(const Act& x, ActOut y) { check_gelu_forward(x, y); }
void check_gelu_tanh_backward(const Act& dy, const Act& x, ActOut dx) { check_gelu_backward(dy, x, dx); }
void check_relu_forward(const Act& x, ActOut y) { check_gelu_forward(x, y); }
void check_relu_backward(const Act& dy, const Act& x, ActOut dx) { check_gelu_backward(dy, x, dx); }
void check_gate_forward(const Act& a, const Act& b, const View& g, ActOut y) {
  require_dense(a, "a");
  same(b, "b", a, "a");
  require_dense(g, "g");
  require_shape(g, "g", {1});
  same(y, "y", a, "a");
}
void check_gate_backward(const Act& dy, const Act& a, const Act& b, const View& g, ActOut da, ActOut db, MaybeOut dg) {
  check_gate_forward(a, b, g, da);
  same(dy, "dy", a, "a");
  same(db, "db", a, "a");
  if (dg) require_dense(dg, "dg"), require_shape(dg, "dg", {1});
}

// ---- CPU ----

namespace cpu {
namespace {

constexpr int64_t kPiece = 1024;  // bfloat16 numbers of each argument that are widened at a time

/// run(in, out, n) on parts of the arguments, on all threads; in and out are arrays of pointers to float32.
template <size_t In, size_t Out, typename F>
void stretches(const View* const (&in)[In], const View* const (&out)[Out], int64_t cost, F run) {
  parallel_for(out[0]->numel(), cost, [&](int64_t begin, int64_t end) {
    const float* from[In];
    float* to[Out];
    if (out[0]->dtype == DType::f32) {
      for (size_t i = 0; i < In; ++i) from[i] = in[i]->template data<float>() + begin;
      for (size_t i = 0; i < Out; ++i) to[i] = out[i]->template data<float>() + begin;
      return run(from, to, end - begin);
    }
    float room[In + Out][kPiece];
    for (size_t i = 0; i < In; ++i) from[i] = room[i];
    for (size_t i = 0; i < Out; ++i) to[i] = room[In + i];
    for (int64_t at = begin, n; at < end; at += n) {
      n = std::min(kPiece, end - at);
      for (size_t i = 0; i < In; ++i) MT_FOR_ISA(widen_row)(in[i]->template data<bf16>() + at, room[i], n);
      run(from, to, n);
      for (size_t i = 0; i < Out; ++i) MT_FOR_ISA(narrow_row)(to[i], out[i]->template data<bf16>() + at, n);
    }
  });
}

float gelu_tanh_gate(float x) { return 1 / (1 + std::exp(-x * (1.5957691f + 0.0713548163f * x * x))); }

/// out = f(in), number by number.
template <size_t In, typename F>
void each(const View* const (&in)[In], const View& out, F f) {
  stretches(in, {&out}, 1, [=](const float* const* from, float* const* to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (In == 1) to[0][i] = f(from[0][i]);
      else to[0][i] = f(from[0][i], from[1][i]);
    }
  });
}

}  // namespace

void add(const View& a, const View& b, double scale, Out out) {
  const float *pa = a.data<float>(), *pb = b.data<float>();
  float *po = out.data<float>(), s = float(scale);
  int64_t period = b.numel();
  if (!period) return;
  parallel_for(a.numel() / period, period, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t i = 0; i < period; ++i) po[r * period + i] = pa[r * period + i] + s * pb[i];
  });
}

void scale(const Act& x, double factor, ActOut out) {
  each({&x}, out, [s = float(factor)](float a) { return s * a; });
}

void multiply(const Act& a, const Act& b, ActOut out) {
  each({&a, &b}, out, [](float x, float y) { return x * y; });
}

void gelu_forward(const Act& x, ActOut y) {
  stretches({&x}, {&y}, 4, [run = MT_FOR_ISA(gelu)](auto in, auto out, int64_t n) { run(in[0], out[0], n); });
}
void gelu_backward(const Act& dy, const Act& x, ActOut dx) {
  stretches({&dy, &x}, {&dx}, 5,
            [run = MT_FOR_ISA(gelu_backward)](auto in, auto out, int64_t n) { run(in[0], in[1], out[0], n); });
}

// x/2·(1 + tanh u) = x·s, s = 1/(1 + e^(−2u)), which keeps its relative error where tanh u is near −1.
void gelu_tanh_forward(const Act& x, ActOut y) {
  stretches({&x}, {&y}, 20, [](auto in, auto out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[0][i] = in[0][i] * gelu_tanh_gate(in[0][i]);
  });
}
void gelu_tanh_backward(const Act& dy, const Act& x, ActOut dx) {
  stretches({&dy, &x}, {&dx}, 20, [](auto in, auto out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const float a = in[1][i], s = gelu_tanh_gate(a);
      out[0][i] = in[0][i] * s * (1 + a * (1 - s) * (1.5957691f + 0.2140644488f * a * a));
    }
  });
}

void relu_forward(const Act& x, ActOut y) {
  each({&x}, y, [](float a) { return a <= 0 ? 0 : a; });
}
void relu_backward(const Act& dy, const Act& x, ActOut dx) {
  each({&dy, &x}, dx, [](float d, float a) { return a <= 0 ? 0 : d; });
}

void gate_forward(const Act& a, const Act& b, const View& g, ActOut y) {
  each({&a, &b}, y, [t = std::tanh(*g.data<float>())](float x, float z) { return x + t * (z - x); });
}
void gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg) {
  const float *pd = dy.data<float>(), *pa = a.data<float>(), *pb = b.data<float>();
  const float t = std::tanh(*g.data<float>());
  stretches({&dy}, {&da, &db}, 1, [=](const float* const* in, float* const* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      out[0][i] = (1 - t) * in[0][i];
      out[1][i] = t * in[0][i];
    }
  });
  if (!dg) return;
  // Pieces of fixed length, summed in order: the same bits whatever the number of threads.
  constexpr int64_t piece = 4096;
  int64_t n = a.numel(), pieces = (n + piece - 1) / piece;
  std::vector<double> sums(size_t(pieces), 0.0);
  parallel_for(pieces, piece, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t i = p * piece; i < std::min(n, (p + 1) * piece); ++i)
        sums[size_t(p)] += double(pd[i]) * (pb[i] - pa[i]);
  });
  double sum = 0;
  for (double s : sums) sum += s;
  *dg.data<float>() = float(sum * (1.0 - double(t) * t));
}

}  // namespace cpu
}  // namespace mt
