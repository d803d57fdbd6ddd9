#include "ops/reduce.h"

#include "kernels/cuda/columns.h"
#include "kernels/cuda/strided.h"

namespace mt::cuda {
namespace {

constexpr int64_t kChunk = 256;  // terms that a thread sums in one pass

/// y[o,j] = factor·Σ_k x[o,k,j] over k of one chunk: a thread per (o, chunk, `width` columns), so that adjacent threads
/// read adjacent elements. `columns` divides by inner/width.
template <typename A, typename B, int width, typename I>
__global__ void __launch_bounds__(kThreads) sum_chunks(const A* x, B* y, I count, int64_t n, int64_t inner,
                                                       Divider<I> columns, Divider<I> chunks, float factor) {
  const I i = I(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const I block = columns.quotient(i), o = chunks.quotient(block);
  const int64_t j = (i - block * columns.divisor) * int64_t(width), first = (block - o * chunks.divisor) * kChunk,
                left = n - first;
  x += (o * n + first) * inner + j;
  float sum[width] = {};
  for (int k = 0, end = int(left < kChunk ? left : kChunk); k < end; ++k, x += inner) {
    float v[width];
    load(x, width, true, v);
#pragma unroll
    for (int e = 0; e < width; ++e) sum[e] += v[e];
  }
#pragma unroll
  for (int e = 0; e < width; ++e) sum[e] *= factor;
  store(y + block * inner + j, width, true, sum);
}
/// y[o] = factor·Σ x[o,:] where the summed dimension is the contiguous one: a warp per row, adjacent lanes read
/// adjacent elements.
template <typename A, typename B>
__global__ void __launch_bounds__(kThreads) sum_rows(const A* x, B* y, int64_t outer, int64_t n, float factor) {
  int64_t o = thread_index() / 32;
  if (o >= outer) return;
  float sum = 0;
  for (int64_t k = threadIdx.x % 32; k < n; k += 32) sum += float(x[o * n + k]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) y[o] = B(factor * sum);
}
struct Scale {
  float factor;
  template <typename T>
  __device__ T operator()(T v) const {
    return T(factor * float(v));
  }
};

/// One pass over chunks of at most kChunk terms. A thread takes several columns only where enough threads for a large
/// GPU remain.
template <typename A, typename B>
void sum_once(const A* x, B* y, Split s, int64_t chunks, float factor) {
  constexpr int width = 4;
  constexpr int64_t kEnough = 1 << 15;
  const int64_t all = s.outer * chunks * s.inner;
  auto go = [&](auto kernel, auto divider, int64_t columns) {
    using D = decltype(divider);
    const int64_t count = s.outer * chunks * columns;
    launch(kernel, blocks(count), dim3(kThreads), 0, x, y, decltype(divider.divisor)(count), s.n, s.inner, D(columns),
           D(chunks), factor);
  };
  if (!all) return;
  if (!short_index(all)) return go(sum_chunks<A, B, 1, int64_t>, Divider<int64_t>(), s.inner);
  if (all / width >= kEnough && s.inner % width == 0 && aligned<width>(x) && aligned<width>(y))
    return go(sum_chunks<A, B, width, uint32_t>, Divider<uint32_t>(), s.inner / width);
  go(sum_chunks<A, B, 1, uint32_t>, Divider<uint32_t>(), s.inner);
}

/// Sums by chunks in float32, then the sums of the chunks, until one is left.
template <typename A, typename B>
void sum(const A* x, B* y, Split s, float factor) {
  if (s.inner == 1) return launch(sum_rows<A, B>, blocks(s.outer * 32), dim3(kThreads), 0, x, y, s.outer, s.n, factor);
  if (s.outer == 1 && s.n > kStrips) return sum_columns(x, y, s.n, s.inner, factor);
  const int64_t chunks = ceil_div(s.n, kChunk);
  if (chunks <= 1) return sum_once(x, y, s, 1, factor);
  Scratch part(size_t(s.outer * chunks * s.inner) * sizeof(float));
  sum_once(x, part.as<float>(), s, chunks, 1.0f);
  s.n = chunks;
  sum((const float*)part.as<float>(), y, s, factor);
}

}  // namespace

void reduce_forward(const Act& x, int64_t dim, double factor, ActOut y) {
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    sum((const T*)x.data<T>(), y.data<T>(), Split(x, dim), float(factor));
  });
}

void reduce_backward(const Act& dy, int64_t dim, double factor, ActOut dx) {
  const Split s(dx, dim);
  View from = dy, to = dx;  // [outer, n, inner]
  from.rank = to.rank = 3;
  const int64_t shape[] = {s.outer, s.n, s.inner}, repeated[] = {s.inner, 0, 1}, stride[] = {s.n * s.inner, s.inner, 1};
  for (int d = 0; d < 3; ++d) {
    from.shape[d] = to.shape[d] = shape[d];
    from.stride[d] = repeated[d];
    to.stride[d] = stride[d];
  }
  each_activation(dy.dtype, [&](auto t) {
    using T = decltype(t);
    walk<T, T>(from, to, Scale{float(factor)});
  });
}

}  // namespace mt::cuda
