// Moves elements from one strided view to another: copies, casts, permutations, repetitions. A thread takes up to 16
// bytes at once where the innermost dimension is contiguous on both sides and all rows are aligned. Indices have 32
// bits where all of them fit.
#pragma once
#include <algorithm>

#include "core/strides.h"
#include "kernels/cuda/divider.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {

/// How a pair of views is walked: `width` elements at a time, which the loop counts as one.
struct Walk {
  Loop loop;
  int width;
  int64_t count;     // of accesses
  bool short_index;  // the count and all offsets are below 2^31
};

/// x and y: addresses of the first elements; `from` and `to`: bytes of an element of each. `most`: the most elements at
/// a time, a power of two.
inline Walk plan_walk(Loop loop, uintptr_t x, uintptr_t y, size_t from, size_t to, int most) {
  const int last = loop.rank - 1;
  auto fits = [&](int width) {
    auto aligned = [width](uintptr_t p, size_t bytes) { return p % std::min<size_t>(16, width * bytes) == 0; };
    if (loop.from[last] != 1 || loop.to[last] != 1 || loop.shape[last] % width || !aligned(x, from) || !aligned(y, to))
      return false;
    for (int d = 0; d < last; ++d)
      if (loop.from[d] % width || loop.to[d] % width) return false;
    return true;
  };
  int width = most;
  while (width > 1 && !fits(width)) width /= 2;
  int64_t count = 1, end_from = 1, end_to = 1;
  if (width > 1) loop.shape[last] /= width;
  for (int d = 0; d <= last; ++d) {
    if (d < last) loop.from[d] /= width, loop.to[d] /= width;
    count *= loop.shape[d];
    end_from += (loop.shape[d] - 1) * loop.from[d];
    end_to += (loop.shape[d] - 1) * loop.to[d];
  }
  return {loop, width, count, short_index(count) && short_index(end_from) && short_index(end_to)};
}

/// A walk as a kernel's argument.
template <typename I>
struct Steps {
  I count, from[kMaxRank], to[kMaxRank];
  Divider<I> shape[kMaxRank];
  int rank;
  explicit Steps(const Walk& w) : count(I(w.count)), rank(w.loop.rank) {
    for (int d = 0; d < rank; ++d)
      from[d] = I(w.loop.from[d]), to[d] = I(w.loop.to[d]), shape[d] = Divider<I>(w.loop.shape[d]);
  }
  /// Adds the offsets of access i to a and b.
  __device__ void find(I i, I& a, I& b) const {
#pragma unroll
    for (int d = kMaxRank - 1; d > 0; --d) {
      if (d >= rank) continue;
      const I rest = shape[d].quotient(i), at = i - rest * shape[d].divisor;
      a += at * from[d];
      b += at * to[d];
      i = rest;
    }
    a += i * from[0];
    b += i * to[0];
  }
};

/// y = f(x): a thread per access, in the order of y's loops.
template <typename A, typename B, int width, typename I, typename F>
__global__ void __launch_bounds__(kThreads) walk_kernel(const A* x, B* y, Steps<I> steps, F f) {
  const I i = I(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= steps.count) return;
  I a = 0, b = 0;
  steps.find(i, a, b);
  const Pack<A, width> from = reinterpret_cast<const Pack<A, width>*>(x)[a];
  Pack<B, width> to;
#pragma unroll
  for (int e = 0; e < width; ++e) to.e[e] = f(from.e[e]);
  reinterpret_cast<Pack<B, width>*>(y)[b] = to;
}

template <typename A, typename B, int width, typename F>
void launch_walk(const A* x, B* y, const Walk& w, F f) {
  if (!w.count) return;
  if (w.short_index)
    launch(walk_kernel<A, B, width, uint32_t, F>, blocks(w.count), dim3(kThreads), 0, x, y, Steps<uint32_t>(w), f);
  else launch(walk_kernel<A, B, width, int64_t, F>, blocks(w.count), dim3(kThreads), 0, x, y, Steps<int64_t>(w), f);
}

/// y = f(x), element by element. A thread takes `most` elements, by default as many of the narrower type as 16 bytes
/// hold, or one.
template <typename A, typename B, int most = 16 / std::min(sizeof(A), sizeof(B)), typename F>
void walk(const View& x, const View& y, F f) {
  const A* from = x.data<A>();
  B* to = y.data<B>();
  const Loop loop(x, y);
  const Walk w = plan_walk(loop, uintptr_t(from), uintptr_t(to), sizeof(A), sizeof(B), most);
  if (!w.count) return;
  if (w.width == most && w.short_index)
    launch(walk_kernel<A, B, most, uint32_t, F>, blocks(w.count), dim3(kThreads), 0, from, to, Steps<uint32_t>(w), f);
  else launch_walk<A, B, 1>(from, to, plan_walk(loop, uintptr_t(from), uintptr_t(to), sizeof(A), sizeof(B), 1), f);
}

/// Calls f with a value of the unsigned type that has `bytes` bytes.
template <typename F>
void each_unit(size_t bytes, F f) {
  bytes == 16  ? f(uint4{})
  : bytes == 8 ? f(uint2{})
  : bytes == 4 ? f(uint32_t{})
  : bytes == 2 ? f(uint16_t{})
               : f(uint8_t{});
}

/// y = x, both of the same type, which may be any: bytes are moved.
void move(const View& x, const View& y);

}  // namespace mt::cuda
