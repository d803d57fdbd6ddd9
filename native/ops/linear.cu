#include "ops/linear.h"

#include "kernels/cuda/device.h"
#include "kernels/cuda/product.h"

namespace mt::cuda {
namespace {

constexpr int kColumns = 32, kStrips = 8, kRows = 256;  // of a block that sums columns: columns, threads for each, rows

/// y[chunk, j] = Σ x[i, j] over the chunk's rows: every strip its own rows from first to last, then strip by strip.
template <typename T>
__global__ void __launch_bounds__(kColumns* kStrips)
    sum_columns(const T* x, float* y, int64_t m, int64_t n, int64_t wide) {
  __shared__ float shared[kStrips][kColumns];
  const int c = int(threadIdx.x) % kColumns, strip = int(threadIdx.x) / kColumns;
  const int64_t chunk = blockIdx.x / wide, col = int64_t(blockIdx.x) % wide * kColumns + c,
                end = (chunk + 1) * kRows < m ? (chunk + 1) * kRows : m;
  float sum = 0;
  if (col < n)
    for (int64_t i = chunk * kRows + strip; i < end; i += kStrips) sum += float(x[i * n + col]);
  shared[strip][c] = sum;
  __syncthreads();
  if (strip || col >= n) return;
  for (int s = 1; s < kStrips; ++s) sum += shared[s][c];
  y[chunk * n + col] = sum;
}

/// By chunks of rows, and the chunks' sums in turn until one row is left.
template <typename T>
void columns(const T* x, float* y, int64_t m, int64_t n) {
  const int64_t chunks = m > kRows ? (m + kRows - 1) / kRows : 1, wide = (n + kColumns - 1) / kColumns;
  Scratch part(chunks > 1 ? size_t(chunks * n) * sizeof(float) : 0);
  float* to = chunks > 1 ? part.as<float>() : y;
  launch(sum_columns<T>, blocks(chunks * wide, 1), dim3(kColumns * kStrips), 0, x, to, m, n, wide);
  if (chunks > 1) columns((const float*)to, y, chunks, n);
}

bool narrow(const View& x) { return x.dtype == DType::bf16; }

}  // namespace

void linear_forward(const Act& x, const View& w, const Maybe& bias, const MaybeAct& residual, ActOut y) {
  product({.form = Form::nt,
           .a = matrix(x),
           .b = matrix(w),
           .c = address(y),
           .type = y.dtype,
           .narrow = narrow(x),
           .bias = bias ? bias.data<float>() : nullptr,
           .residual = residual ? address(residual) : nullptr});
}

void linear_gelu_forward(const Act& x, const View& w, const Maybe& bias, MaybeActOut z, ActOut y) {
  product({.form = Form::nt,
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
  product({.form = Form::nn,
           .a = matrix(dy),
           .b = matrix(w),
           .c = address(dx),
           .type = dx.dtype,
           .narrow = narrow(dy),
           .residual = residual ? address(residual) : nullptr});
}

void linear_backward_weight(const Act& dy, const Act& x, MaybeOut dw, MaybeOut dbias) {
  if (dw)
    product({.form = Form::tn,
             .a = matrix(dy),
             .b = matrix(x),
             .c = dw.data<float>(),
             .type = DType::f32,
             .narrow = narrow(x)});
  if (dbias)
    each_activation(dy.dtype, [&](auto t) {
      using T = decltype(t);
      columns((const T*)dy.data<T>(), dbias.data<float>(), dy.rows(), dy.size(-1));
    });
}

}  // namespace mt::cuda
