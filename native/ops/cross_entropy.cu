#include "ops/cross_entropy.h"

#include <cfloat>

#include "core/round.h"
#include "kernels/cuda/divider.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {
namespace {

/// A block per row, which it reads once: the row's lse, and its term of the loss.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    row_losses(const T* logits, const int32_t* labels, int64_t classes, int64_t ignore, float* lse, float* losses,
               Fault* fault, unsigned what) {
  __shared__ float shared[32];
  int64_t r = blockIdx.x, label = labels[r];
  if (label == ignore || label < 0 || label >= classes) {
    if (threadIdx.x) return;
    if (label != ignore) report(fault, what, label, classes);
    lse[r] = losses[r] = 0;
    return;
  }
  const T* row = logits + r * classes;
  // Sums are relative to the largest number so far, which starts finite, so that a logit of −∞ adds exp(−∞) = 0.
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
/// loss = factor·Σ losses, in double and in a fixed order.
__global__ void __launch_bounds__(kThreads) add_losses(const float* losses, int64_t rows, double factor, float* loss) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t r = threadIdx.x; r < rows; r += kThreads) sum += losses[r];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *loss = float(sum * factor);
}

/// A thread per 16 bytes of all rows together; a row may end within them.
template <typename T, typename I>
__global__ void __launch_bounds__(kThreads, 4)
    row_gradients(const float* dloss, const T* logits, const int32_t* labels, const float* lse, int64_t n,
                  Divider<I> classes, int64_t ignore, double factor, T* dlogits, bool aligned, Fault* fault,
                  unsigned what) {
  const int64_t at = thread_index() * kWidth<T>, left = n - at;
  if (left <= 0) return;
  const bool whole = aligned && left >= kWidth<T>;
  I r = classes.quotient(I(at)), v = I(at) - r * classes.divisor;
  const float scale = float(*dloss * factor);
  float x[kWidth<T>], l = 0;
  int64_t label = 0;
  bool counts = false;
  auto begin_row = [&] {
    label = labels[r];
    const bool known = label >= 0 && label < int64_t(classes.divisor);
    counts = known && label != ignore;
    l = lse[r];
    if (!known && label != ignore && v == 0) report(fault, what, label, classes.divisor);
  };
  load(logits + at, left, whole, x);
  begin_row();
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) {
    x[k] = counts ? scale * expf(x[k] - l) - (int64_t(v) == label ? scale : 0.0f) : 0.0f;
    if (++v < classes.divisor) continue;
    v = 0, ++r;
    if (k + 1 < kWidth<T> && k + 1 < left) begin_row();
  }
  store(dlogits + at, left, whole, x);
}

}  // namespace

void cross_entropy_forward(const Act& logits, const View& labels, int64_t ignore, double factor, Out loss, Out lse) {
  int64_t classes = logits.size(-1), rows = logits.rows();
  unsigned what;
  Fault* fault = current().fault("cross_entropy_forward: label %lld is outside the %lld classes", &what);
  Scratch losses(size_t(rows) * sizeof(float));
  each_activation(logits.dtype, [&](auto t) {
    using T = decltype(t);
    launch(row_losses<T>, blocks(rows, 1), dim3(kThreads), 0, (const T*)logits.data<T>(),
           (const int32_t*)labels.data<int32_t>(), classes, ignore, lse.data<float>(), losses.as<float>(), fault, what);
  });
  launch(add_losses, dim3(1), dim3(kThreads), 0, (const float*)losses.as<float>(), rows, factor, loss.data<float>());
}

void cross_entropy_backward(const View& dloss, const Act& logits, const View& labels, const View& lse, int64_t ignore,
                            double factor, ActOut dlogits) {
  const int64_t classes = logits.size(-1), n = logits.rows() * classes;
  if (!n) return;
  unsigned what;
  Fault* fault = current().fault("cross_entropy_backward: label %lld is outside the %lld classes", &what);
  each_activation(logits.dtype, [&](auto t) {
    using T = decltype(t);
    const T* from = logits.data<T>();
    T* to = dlogits.data<T>();
    const bool whole = aligned<kWidth<T>>(from) && aligned<kWidth<T>>(to);
    auto go = [&](auto kernel, auto divider) {
      launch(kernel, blocks(ceil_div(n, kWidth<T>)), dim3(kThreads), 0, (const float*)dloss.data<float>(), from,
             (const int32_t*)labels.data<int32_t>(), (const float*)lse.data<float>(), n, divider, ignore, factor, to,
             whole, fault, what);
    };
    short_index(n) ? go(row_gradients<T, uint32_t>, Divider<uint32_t>(classes))
                   : go(row_gradients<T, int64_t>, Divider<int64_t>(classes));
  });
}

}  // namespace mt::cuda
