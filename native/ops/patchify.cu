#include "ops/patchify.h"

#include "kernels/device.h"

namespace mt::cuda {
namespace {

/// A thread per element of the rows, in their order: pixels are read, or written, in runs of a patch's width.
template <bool Back, typename T>
__global__ void __launch_bounds__(kThreads) move_patches(const T* from, T* to, int64_t total, int64_t patch, int64_t channels, int64_t height, int64_t width) {
  int64_t k = thread_index();
  if (k >= total) return;
  int64_t across = width / patch, j = k % patch, i = k / patch % patch, rest = k / (patch * patch);
  int64_t c = rest % channels, left = rest / channels % across * patch + j;
  rest /= channels * across;
  int64_t down = height / patch, top = rest % down * patch + i, pixel = ((rest / down * channels + c) * height + top) * width + left;
  to[Back ? pixel : k] = from[Back ? k : pixel];
}

template <bool Back>
void move(const View& from, const View& to, const View& pixels, int64_t patch) {
  each_activation(pixels.dtype, [&](auto t) {
    using T = decltype(t);
    launch(move_patches<Back, T>, blocks(pixels.numel()), dim3(kThreads), 0, (const T*)from.data<T>(), to.data<T>(), pixels.numel(), patch, pixels.shape[1], pixels.shape[2], pixels.shape[3]);
  });
}

}  // namespace

void patchify_forward(const View& pixels, int64_t patch, Out y) { move<false>(pixels, y, pixels, patch); }
void patchify_backward(const View& dy, int64_t patch, Out dpixels) { move<true>(dy, dpixels, dpixels, patch); }

}  // namespace mt::cuda
