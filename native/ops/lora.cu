#include "ops/lora.h"

#include "core/cuda.h"
#include "kernels/product.h"

namespace mt::cuda {
namespace {

bool narrow(const View& x) { return x.dtype == DType::bf16; }

}  // namespace

void lora_forward(const View& x, const View& w, const Maybe& bias, const View& a, const View& b, double scaling, Out y, Out shrunk) {
  product({.form = Form::nt, .a = matrix(x), .b = matrix(a), .c = shrunk.data<float>(), .type = DType::f32, .narrow = narrow(x)});
  product({.form = Form::nt, .a = matrix(x), .b = matrix(w), .c = address(y), .type = y.dtype, .narrow = narrow(x),
           .bias = bias ? bias.data<float>() : nullptr, .a2 = matrix(shrunk), .b2 = matrix(b), .factor = float(scaling)});
}

void lora_backward(const View& dy, const View& x, const View& shrunk, const View& w, const View& a, const View& b, double scaling, const Maybe& residual, MaybeOut dx, Out da, Out db) {
  const int64_t m = x.rows(), r = a.size(0);
  // u = scaling·dy B is rounded where it is stored if it would be where it is used.
  const DType type = narrow(x) && m > kFewRows ? DType::bf16 : DType::f32;
  Scratch scratch(size_t(m * r) * size_of(type));
  const Matrix u{scratch.as<void>(), type, m, r};
  product({.form = Form::nn, .a = matrix(dy), .b = matrix(b), .c = scratch.as<void>(), .type = type, .narrow = narrow(x), .alpha = float(scaling)});
  product({.form = Form::tn, .a = u, .b = matrix(x), .c = da.data<float>(), .type = DType::f32, .narrow = narrow(x)});
  product({.form = Form::tn, .a = matrix(dy), .b = matrix(shrunk), .c = db.data<float>(), .type = DType::f32, .narrow = narrow(x), .alpha = float(scaling)});
  if (dx) product({.form = Form::nn, .a = matrix(dy), .b = matrix(w), .c = address(dx), .type = dx.dtype, .narrow = narrow(x), .a2 = u, .b2 = matrix(a),
                   .residual = residual ? address(residual) : nullptr});
}

}  // namespace mt::cuda
