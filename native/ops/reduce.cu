#include "ops/reduce.h"

#include "kernels/device.h"

namespace mt::cuda {
namespace {

constexpr int64_t kChunk = 256;  // terms that one thread adds up before its sum meets others

/// y[o,j] = factor·Σ_k x[o,k,j] over k of one chunk: a thread per (o, chunk, j), so that reads of neighbours lie side by side.
template <typename A, typename B>
__global__ void __launch_bounds__(kThreads) sum_chunks(const A* x, B* y, int64_t outer, int64_t n, int64_t inner, int64_t chunks, float factor) {
  int64_t i = thread_index();
  if (i >= outer * chunks * inner) return;
  int64_t j = i % inner, c = i / inner % chunks, o = i / (inner * chunks), end = c * kChunk + kChunk < n ? c * kChunk + kChunk : n;
  float sum = 0;
  for (int64_t k = c * kChunk; k < end; ++k) sum += float(x[(o * n + k) * inner + j]);
  y[i] = B(factor * sum);
}
/// y[o] = factor·Σ x[o,:] where the sum runs along memory: a warp per row, lanes side by side.
template <typename A, typename B>
__global__ void __launch_bounds__(kThreads) sum_rows(const A* x, B* y, int64_t outer, int64_t n, float factor) {
  int64_t o = thread_index() / 32;
  if (o >= outer) return;
  float sum = 0;
  for (int64_t k = threadIdx.x % 32; k < n; k += 32) sum += float(x[o * n + k]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) y[o] = B(factor * sum);
}
template <typename T>
__global__ void __launch_bounds__(kThreads) repeat_kernel(const T* dy, T* dx, int64_t total, int64_t n, int64_t inner, float factor) {
  int64_t i = thread_index();
  if (i < total) dx[i] = T(factor * float(dy[i / (n * inner) * inner + i % inner]));
}

/// Sums in float32 by chunks, and the chunks' sums in turn until one is left.
template <typename A, typename B>
void sum(const A* x, B* y, Split s, float factor) {
  if (s.inner == 1) return launch(sum_rows<A, B>, blocks(s.outer * 32), dim3(kThreads), 0, x, y, s.outer, s.n, factor);
  int64_t chunks = (s.n + kChunk - 1) / kChunk;
  if (chunks <= 1) return launch(sum_chunks<A, B>, blocks(s.outer * s.inner), dim3(kThreads), 0, x, y, s.outer, s.n, s.inner, int64_t(1), factor);
  Scratch part(size_t(s.outer * chunks * s.inner) * sizeof(float));
  launch(sum_chunks<A, float>, blocks(s.outer * chunks * s.inner), dim3(kThreads), 0, x, part.as<float>(), s.outer, s.n, s.inner, chunks, 1.0f);
  s.n = chunks;
  sum((const float*)part.as<float>(), y, s, factor);
}

}  // namespace

void reduce_forward(const View& x, int64_t dim, double factor, Out y) {
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    sum((const T*)x.data<T>(), y.data<T>(), Split(x, dim), float(factor));
  });
}

void reduce_backward(const View& dy, int64_t dim, double factor, Out dx) {
  Split s(dx, dim);
  each_activation(dy.dtype, [&](auto t) {
    using T = decltype(t);
    launch(repeat_kernel<T>, blocks(dx.numel()), dim3(kThreads), 0, (const T*)dy.data<T>(), dx.data<T>(), dx.numel(), s.n, s.inner, float(factor));
  });
}

}  // namespace mt::cuda
