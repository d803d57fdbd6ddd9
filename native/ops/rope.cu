#include "ops/rope.h"

#include "core/round.h"
#include "kernels/cuda/divider.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {
namespace {

constexpr int64_t kHeads = 4;  // heads that share a computed angle

struct Strides {
  int64_t b, n, h;
};

/// A thread per token, group of heads and `width` pairs of elements; heads from `turned` on are copied. Angles are
/// reduced by whole turns in double, since positions are large.
template <typename T, int width, typename I>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(const T* x, const int32_t* positions, T* y, I total, Divider<I> pairs, Divider<I> groups, Divider<I> n,
                int64_t heads, int64_t turned, int64_t half, double log2_theta, float sign, Strides from, Strides to) {
  const I k = I(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= total) return;
  const I rest = pairs.quotient(k), token = groups.quotient(rest), b = n.quotient(token);
  const int64_t i = int64_t(k - rest * pairs.divisor) * width, row = token - b * n.divisor;
  int64_t h = int64_t(rest - token * groups.divisor) * kHeads;
  float c[width] = {}, s[width] = {};
#pragma unroll
  for (int e = 0; e < width && h < turned; ++e) {
    const double turns = double(positions[token]) * exp2(-log2_theta * double(i + e) / double(half)) *
                         0.15915494309189534;
    const float a = float((turns - rint(turns)) * 6.283185307179586);
    c[e] = cosf(a), s[e] = sign * sinf(a);
  }
  x += b * from.b + row * from.n + i;
  y += b * to.b + row * to.n + i;
  for (const int64_t end = min(heads, h + kHeads); h < end; ++h) {
    float u[width], v[width];
    load(x + h * from.h, width, true, u);
    load(x + h * from.h + half, width, true, v);
#pragma unroll
    for (int e = 0; e < width; ++e) {
      if (h >= turned) continue;
      const float first = u[e];
      u[e] = first * c[e] - v[e] * s[e];
      v[e] = v[e] * c[e] + first * s[e];
    }
    store(y + h * to.h, width, true, u);
    store(y + h * to.h + half, width, true, v);
  }
}

}  // namespace

void rope_forward(const Act& x, const View& positions, double theta, int64_t turned, bool inverse, ActOut y) {
  constexpr int kPairs = 2;
  const int64_t n = x.shape[1], heads = x.shape[2], half = x.shape[3] / 2, groups = ceil_div(heads, kHeads),
                tokens = x.shape[0] * n;
  if (tokens * groups * half == 0) return;
  const Strides from{x.stride[0], x.stride[1], x.stride[2]}, to{y.stride[0], y.stride[1], y.stride[2]};
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    const T* first = x.data<T>();
    T* result = y.data<T>();
    auto go = [&](auto kernel, auto divider, int64_t pairs) {
      using D = decltype(divider);
      const int64_t total = tokens * groups * pairs;
      launch(kernel, blocks(total), dim3(kThreads), 0, first, (const int32_t*)positions.data<int32_t>(), result,
             decltype(divider.divisor)(total), D(pairs), D(groups), D(n), heads, turned, half, std::log2(theta),
             inverse ? -1.0f : 1.0f, from, to);
    };
    bool even = half % kPairs == 0 && aligned<kPairs>(first) && aligned<kPairs>(result);
    for (const Strides& s : {from, to})
      for (int64_t stride : {s.b, s.n, s.h}) even &= stride % kPairs == 0;
    if (!short_index(tokens * groups * half)) go(rope_kernel<T, 1, int64_t>, Divider<int64_t>(), half);
    else if (even) go(rope_kernel<T, kPairs, uint32_t>, Divider<uint32_t>(), half / kPairs);
    else go(rope_kernel<T, 1, uint32_t>, Divider<uint32_t>(), half);
  });
}

}  // namespace mt::cuda
