#include "ops/linear.h"

#include "kernels/cuda/columns.h"
#include "kernels/cuda/matmul.h"

namespace mt::cuda {

void linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y) {
  Matmul p = activations(Form::nt, x, w, y);
  p.bias = numbers(bias);
  p.residual = address(residual);
  matmul(p);
}

void linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y) {
  Matmul p = activations(Form::nt, x, w, y);
  p.bias = numbers(bias);
  p.gelu = true;
  p.before = address(z);
  matmul(p);
}

void linear_backward_input(const Act& dy, const View& w, const MaybeAct& residual, ActOut dx) {
  Matmul p = activations(Form::nn, dy, w, dx);
  p.residual = address(residual);
  matmul(p);
}

void linear_backward_weight(const Act& dy, const Act& x, MaybeOut dw, MaybeOut dbias) {
  if (dw) matmul(activations(Form::tn, dy, x, dw));
  if (dbias)
    each_activation(dy.dtype, [&](auto t) {
      using T = decltype(t);
      sum_columns((const T*)dy.data<T>(), dbias.data<float>(), dy.rows(), dy.size(-1));
    });
}

}  // namespace mt::cuda
