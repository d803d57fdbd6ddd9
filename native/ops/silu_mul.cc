#include "ops/silu_mul.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"

#define MT_EACH_ISA "kernels/cpu/silu.h"
#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

namespace {
void same(const View& v, const char* what, const View& x, const char* whose) {
  require_pitched(v, what);
  require_same_shape(v, what, x, whose);
}
}  // namespace

void check_silu_mul_forward(const Act& gate, const Act& up, ActOut y) {
  require_pitched(gate, "gate");
  same(up, "up", gate, "gate");
  same(y, "y", gate, "gate");
}
void check_silu_mul_backward(const Act& dy, const Act& gate, const Act& up, ActOut dgate, ActOut dup) {
  check_silu_mul_forward(gate, up, dgate);
  same(dy, "dy", gate, "gate");
  same(dup, "dup", gate, "gate");
}

// ---- CPU ----

namespace cpu {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

constexpr int64_t kPiece = 1024;  // bfloat16 numbers of a row that are widened at a time

/// run(in, out, n) on pieces of rows, on all threads; in and out are arrays of pointers to float32.
template <size_t In, size_t Out, typename F>
void pieces(const View* const (&in)[In], const View* const (&out)[Out], F run) {
  bool dense = true;
  for (const View* v : in) dense &= v->contiguous();
  for (const View* v : out) dense &= v->contiguous();
  const View& like = *out[0];
  // Rows without gaps between them are one row.
  const int64_t n = dense || like.rank == 0 ? like.numel() : like.size(-1), rows = n ? like.numel() / n : 0,
                per_row = (n + kPiece - 1) / kPiece;
  parallel_for(rows * per_row, 10 * std::min(n, kPiece), [&](int64_t begin, int64_t end) {
    float room[In + Out][kPiece];
    const float* from[In];
    float* to[Out];
    for (int64_t p = begin; p < end; ++p) {
      const int64_t row = p / per_row, at = p % per_row * kPiece, count = std::min(kPiece, n - at);
      auto offset = [&](const View& v) { return row * (dense ? n : v.pitch()) + at; };
      if (like.dtype == DType::f32) {
        for (size_t i = 0; i < In; ++i) from[i] = in[i]->template data<float>() + offset(*in[i]);
        for (size_t i = 0; i < Out; ++i) to[i] = out[i]->template data<float>() + offset(*out[i]);
        run(from, to, count);
        continue;
      }
      for (size_t i = 0; i < In; ++i) {
        MT_FOR_ISA(widen_row)(in[i]->template data<bf16>() + offset(*in[i]), room[i], count);
        from[i] = room[i];
      }
      for (size_t i = 0; i < Out; ++i) to[i] = room[In + i];
      run(from, to, count);
      for (size_t i = 0; i < Out; ++i)
        MT_FOR_ISA(narrow_row)(to[i], out[i]->template data<bf16>() + offset(*out[i]), count);
    }
  });
}

}  // namespace

// float32 with exp() of the C library: the vector version's error, twice as large, puts a gate's gradient past its
// tolerance where terms cancel. A result that is rounded to bfloat16 does not show it, so there vectors do.
void silu_mul_forward(const Act& gate, const Act& up, ActOut y) {
  pieces({&gate, &up}, {&y}, [narrow = y.dtype == DType::bf16](auto in, auto out, int64_t n) {
    if (narrow) return MT_FOR_ISA(silu_mul)(in[0], in[1], out[0], n);
    for (int64_t i = 0; i < n; ++i) out[0][i] = in[0][i] * sigmoid(in[0][i]) * in[1][i];
  });
}
void silu_mul_backward(const Act& dy, const Act& gate, const Act& up, ActOut dgate, ActOut dup) {
  pieces({&dy, &gate, &up}, {&dgate, &dup}, [narrow = dgate.dtype == DType::bf16](auto in, auto out, int64_t n) {
    if (narrow) return MT_FOR_ISA(silu_mul_backward)(in[0], in[1], in[2], out[0], out[1], n);
    for (int64_t i = 0; i < n; ++i) {
      float s = sigmoid(in[1][i]);
      out[0][i] = in[0][i] * in[2][i] * s * (1 + in[1][i] * (1 - s));
      out[1][i] = in[0][i] * in[1][i] * s;
    }
  });
}

}  // namespace cpu
}  // namespace mt
