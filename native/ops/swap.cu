#include "ops/swap.h"

#include "kernels/device.h"

namespace mt::cuda {
namespace {

/// A thread per element of y[b,l,t,:] = x[b,t,l,:].
template <typename E>
__global__ void __launch_bounds__(kThreads) swap_kernel(const E* x, E* y, int64_t n, int64_t T, int64_t L, int64_t D) {
  int64_t i = thread_index();
  if (i >= n) return;
  int64_t d = i % D, t = i / D % T, l = i / (D * T) % L, b = i / (D * T * L);
  y[i] = x[((b * T + t) * L + l) * D + d];
}

}  // namespace

void swap(const View& x, Out y) {
  each_activation(x.dtype, [&](auto t) {
    using E = decltype(t);
    launch(swap_kernel<E>, blocks(x.numel()), dim3(kThreads), 0, (const E*)x.data<E>(), y.data<E>(), x.numel(), x.shape[1], x.shape[2], x.shape[3]);
  });
}

}  // namespace mt::cuda
