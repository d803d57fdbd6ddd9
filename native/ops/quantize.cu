#include "ops/quantize.h"

#include "kernels/cuda/quantised.h"

namespace mt::cuda {
namespace {

/// A thread per number.
__global__ void __launch_bounds__(kThreads) dequantize_kernel(Quantised q, float* w) {
  const int64_t i = thread_index();
  if (i >= q.rows * q.width) return;
  const int64_t row = i / q.width, col = i % q.width;
  float v[1] = {decoded(q, q.levels, row, col)};
  put_kept(q, row, col, kept_from(q, col), v);
  w[i] = v[0];
}

}  // namespace

void dequantize(const View& q, Out w) {
  const Quantised m = quantised(q);
  launch(dequantize_kernel, blocks(m.rows * m.width), dim3(kThreads), 0, m, w.data<float>());
}

}  // namespace mt::cuda
