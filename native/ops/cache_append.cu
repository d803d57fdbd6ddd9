#include "ops/cache_append.h"

#include "kernels/cuda/device.h"

namespace mt::cuda {
namespace {

/// New rows where they lie; `batch` and `token` are the strides of these dimensions.
template <typename T>
struct Source {
  const T* data;
  int64_t batch, row;
};

/// A thread per element of the new keys; it also moves the element of the values.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    append_kernel(Source<T> k, Source<T> v, const int32_t* at, T* keys, T* values, int64_t count, int64_t n,
                  int64_t rows, int64_t width, Fault* fault, unsigned what) {
  const int64_t i = thread_index();
  if (i >= count) return;
  const int64_t first = *at, column = i % width, token = i / width % n, b = i / width / n;
  if (first < 0 || first + n > rows) {
    if (i == 0) report(fault, what, first < 0 ? first : first + n - 1, rows);
    return;
  }
  const int64_t to = (b * rows + first + token) * width + column;
  keys[to] = k.data[b * k.batch + token * k.row + column];
  values[to] = v.data[b * v.batch + token * v.row + column];
}

}  // namespace

// ---- operators ----

void cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values) {
  unsigned what;
  Fault* fault = current().fault("cache_append: row %lld is outside the cache's %lld rows", &what);
  each_activation(k.dtype, [&](auto t) {
    using T = decltype(t);
    const auto source = [](const View& x) { return Source<T>{x.data<T>(), x.stride[0], x.stride[1]}; };
    launch(append_kernel<T>, blocks(k.numel()), dim3(kThreads), 0, source(k), source(v),
           (const int32_t*)at.data<int32_t>(), keys.data<T>(), values.data<T>(), k.numel(), k.shape[1], keys.shape[1],
           k.shape[2], fault, what);
  });
}

}  // namespace mt::cuda
