#include "ops/patchify.h"

#include <algorithm>

#include "kernels/cuda/strided.h"

namespace mt::cuda {
namespace {

/// Both sides with the dimensions in the order of y: image, patch row, patch column, channel, row and column in it.
struct Sides {
  View pixels, rows;
  Sides(const View& x, const View& y, int64_t patch) : pixels(x), rows(y) {
    const int64_t channels = x.shape[1], height = x.shape[2], width = x.shape[3];
    const int64_t shape[] = {x.shape[0], height / patch, width / patch, channels, patch, patch};
    const int64_t stride[] = {channels * height * width, patch * width, patch, height * width, width, 1};
    pixels.rank = rows.rank = 6;
    std::copy_n(shape, 6, pixels.shape);
    std::copy_n(shape, 6, rows.shape);
    std::copy_n(stride, 6, pixels.stride);
    for (int64_t d = 5, n = 1; d >= 0; n *= shape[d--]) rows.stride[d] = n;
  }
};

}  // namespace

void patchify(const Act& pixels, int64_t patch, ActOut y) {
  const Sides s(pixels, y, patch);
  move(s.pixels, s.rows);
}

}  // namespace mt::cuda
