#include "ops/cross_entropy.h"

#include <cfloat>

#include "kernels/device.h"

namespace mt::cuda {
namespace {

constexpr int kPerThread = 8;  // elements of a row that a thread of the backward takes

/// lse of a row, and what it adds to the loss: a block per row, which it reads once.
template <typename T>
__global__ void __launch_bounds__(kThreads) row_losses(const T* logits, const int32_t* labels, int64_t classes, int64_t ignore, float* lse, float* losses, Fault* fault, unsigned what) {
  __shared__ float shared[32];
  int64_t r = blockIdx.x, label = labels[r];
  if (label == ignore || label < 0 || label >= classes) {
    if (threadIdx.x) return;
    if (label != ignore) report(fault, what, label, classes);
    lse[r] = losses[r] = 0;
    return;
  }
  const T* row = logits + r * classes;
  // Sums are relative to the largest so far, which begins as a number, so that −∞ adds exp(−∞) = 0.
  float most = -FLT_MAX, sum = 0;
  for (int64_t v = threadIdx.x; v < classes; v += 4 * kThreads) {
    float x[4], before = most;
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = v + k * kThreads < classes ? float(row[v + k * kThreads]) : -INFINITY;
    most = fmaxf(most, fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])));
    sum *= expf(before - most);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += expf(x[k] - most);
  }
  float top = block_max(most, shared);
  sum = block_sum(sum * expf(most - top), shared);
  if (threadIdx.x) return;
  float l = logf(sum);
  lse[r] = top + l;
  losses[r] = top - float(row[label]) + l;
}
/// loss = factor·Σ losses, in double and in one order.
__global__ void __launch_bounds__(kThreads) add_losses(const float* losses, int64_t rows, double factor, float* loss) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t r = threadIdx.x; r < rows; r += kThreads) sum += losses[r];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *loss = float(sum * factor);
}

/// A block per row and piece of it.
template <typename T>
__global__ void __launch_bounds__(kThreads) row_gradients(const float* dloss, const T* logits, const int32_t* labels, const float* lse, int64_t classes, int64_t pieces, int64_t ignore, double factor, T* dlogits, Fault* fault, unsigned what) {
  int64_t r = blockIdx.x / pieces, begin = blockIdx.x % pieces * (kThreads * kPerThread) + threadIdx.x, label = labels[r];
  bool known = label >= 0 && label < classes, counts = known && label != ignore;
  if (!known && label != ignore && threadIdx.x == 0) report(fault, what, label, classes);
  float scale = float(*dloss * factor), l = lse[r];
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    int64_t v = begin + k * kThreads;
    if (v < classes) dlogits[r * classes + v] = T(counts ? scale * expf(float(logits[r * classes + v]) - l) - (v == label ? scale : 0.0f) : 0.0f);
  }
}

}  // namespace

void cross_entropy_forward(const View& logits, const View& labels, int64_t ignore, double factor, Out loss, Out lse) {
  int64_t classes = logits.size(-1), rows = logits.rows();
  unsigned what;
  Fault* fault = current().fault("cross_entropy_forward: label %lld is outside the %lld classes", &what);
  Scratch losses(size_t(rows) * sizeof(float));
  each_activation(logits.dtype, [&](auto t) {
    using T = decltype(t);
    launch(row_losses<T>, blocks(rows, 1), dim3(kThreads), 0, (const T*)logits.data<T>(), (const int32_t*)labels.data<int32_t>(), classes, ignore, lse.data<float>(), losses.as<float>(), fault, what);
  });
  launch(add_losses, dim3(1), dim3(kThreads), 0, (const float*)losses.as<float>(), rows, factor, loss.data<float>());
}

void cross_entropy_backward(const View& dloss, const View& logits, const View& labels, const View& lse, int64_t ignore, double factor, Out dlogits) {
  int64_t classes = logits.size(-1), pieces = (classes + kThreads * kPerThread - 1) / (kThreads * kPerThread);
  unsigned what;
  Fault* fault = current().fault("cross_entropy_backward: label %lld is outside the %lld classes", &what);
  each_activation(logits.dtype, [&](auto t) {
    using T = decltype(t);
    launch(row_gradients<T>, blocks(logits.rows() * pieces, 1), dim3(kThreads), 0, (const float*)dloss.data<float>(), (const T*)logits.data<T>(), (const int32_t*)labels.data<int32_t>(), (const float*)lse.data<float>(),
           classes, pieces, ignore, factor, dlogits.data<T>(), fault, what);
  });
}

}  // namespace mt::cuda
