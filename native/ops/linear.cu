#include "ops/linear.h"

#include "kernels/cuda/columns.h"
#include "kernels/cuda/matmul.h"

namespace mt::cuda {
namespace {

bool narrow(const View& x) { return x.dtype == DType::bf16; }

}  // namespace

void linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y) {
  matmul({.form = Form::nt,
          .a = matrix(x),
          .b = matrix(w),
          .c = address(y),
          .type = y.dtype,
          .narrow = narrow(x),
          .bias = bias ? bias.data<float>() : nullptr,
          .residual = residual ? address(residual) : nullptr});
}

void linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y) {
  matmul({.form = Form::nt,
          .a = matrix(x),
          .b = matrix(w),
          .c = address(y),
          .type = y.dtype,
          .narrow = narrow(x),
          .bias = bias ? bias.data<float>() : nullptr,
          .gelu = true,
          .before = z ? address(z) : nullptr});
}

void linear_backward_input(const Act& dy, const View& w, const MaybeAct& residual, ActOut dx) {
  matmul({.form = Form::nn,
          .a = matrix(dy),
          .b = matrix(w),
          .c = address(dx),
          .type = dx.dtype,
          .narrow = narrow(dy),
          .residual = residual ? address(residual) : nullptr});
}

void linear_backward_weight(const Act& dy, const Act& x, MaybeOut dw, MaybeOut dbias) {
  if (dw)
    matmul({.form = Form::tn,
            .a = matrix(dy),
            .b = matrix(x),
            .c = dw.data<float>(),
            .type = DType::f32,
            .narrow = narrow(x)});
  if (dbias)
    each_activation(dy.dtype, [&](auto t) {
      using T = decltype(t);
      sum_columns((const T*)dy.data<T>(), dbias.data<float>(), dy.rows(), dy.size(-1));
    });
}

}  // namespace mt::cuda
