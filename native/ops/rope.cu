#include "ops/rope.h"

#include "kernels/device.h"

namespace mt::cuda {
namespace {

constexpr int64_t kHeads = 4;  // that one angle is worked out for

struct Strides {
  int64_t b, n, h;
};

/// A thread per place, group of heads and pair of elements. Angles in double up to whole turns, as positions are large.
template <typename T>
__global__ void __launch_bounds__(kThreads) rope_kernel(const T* x, const int32_t* positions, T* y, int64_t total, int64_t n, int64_t heads, int64_t half, double log2_theta, float sign, Strides from, Strides to) {
  int64_t k = thread_index();
  if (k >= total) return;
  int64_t groups = (heads + kHeads - 1) / kHeads, i = k % half, h = k / half % groups * kHeads, place = k / (half * groups);
  double turns = double(positions[place]) * exp2(-log2_theta * double(i) / double(half)) * 0.15915494309189534;
  float a = float((turns - rint(turns)) * 6.283185307179586), c = cosf(a), s = sign * sinf(a);
  x += place / n * from.b + place % n * from.n + i;
  y += place / n * to.b + place % n * to.n + i;
  for (int64_t end = min(heads, h + kHeads); h < end; ++h) {
    float u = float(x[h * from.h]), v = float(x[h * from.h + half]);
    y[h * to.h] = T(u * c - v * s);
    y[h * to.h + half] = T(v * c + u * s);
  }
}

}  // namespace

void rope_forward(const View& x, const View& positions, double theta, bool inverse, Out y) {
  int64_t heads = x.shape[2], half = x.shape[3] / 2, total = x.shape[0] * x.shape[1] * ((heads + kHeads - 1) / kHeads) * half;
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    launch(rope_kernel<T>, blocks(total), dim3(kThreads), 0, (const T*)x.data<T>(), (const int32_t*)positions.data<int32_t>(), y.data<T>(), total, x.shape[1], heads, half, std::log2(theta),
           inverse ? -1.0f : 1.0f, Strides{x.stride[0], x.stride[1], x.stride[2]}, Strides{y.stride[0], y.stride[1], y.stride[2]});
  });
}

}  // namespace mt::cuda
