#include "ops/quantize.h"

#include "kernels/cuda/quantised.h"

namespace mt::cuda {
namespace {

/// A thread per element.
__global__ void __launch_bounds__(kThreads) dequantize_kernel(Quantised q, float* w) {
  const int64_t i = thread_index();
  if (i < q.rows * q.width) w[i] = dequantised(q, i / q.width, i % q.width);
}

}  // namespace

void dequantize(const View& q, Out w) {
  const Quantised m = quantised(q);
  launch(dequantize_kernel, blocks(m.rows * m.width), dim3(kThreads), 0, m, w.data<float>());
}

}  // namespace mt::cuda
