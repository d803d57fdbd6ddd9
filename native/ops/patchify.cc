#include "ops/patchify.h"

#include <cstring>

#include "core/parallel.h"

namespace mt {

namespace {
void check(const View& pixels, const char* what, int64_t patch, const View& rows, const char* whose) {
  require_dense(pixels, what);
  require_rank(pixels, what, 4);
  require(patch >= 1 && patch <= (1 << 15), "patch: expected 1 to 32768, but got ", patch, ".");
  require(pixels.shape[1] <= (int64_t(1) << 46) / (patch * patch), what, ": expected fewer channels, but got ",
          shape_text(pixels), ".");  // no product below overflows
  require(pixels.shape[2] % patch == 0 && pixels.shape[3] % patch == 0, what,
          ": expected a height and width that patches of ", patch, " divide, but got ", shape_text(pixels), ".");
  require_dense(rows, whose);
  require_shape(
      rows, whose,
      {pixels.shape[0], (pixels.shape[2] / patch) * (pixels.shape[3] / patch), pixels.shape[1] * patch * patch});
}
}  // namespace

void check_patchify_forward(const Act& pixels, int64_t patch, ActOut y) { check(pixels, "pixels", patch, y, "y"); }
void check_patchify_backward(const Act& dy, int64_t patch, ActOut dpixels) {
  check(dpixels, "dpixels", patch, dy, "dy");
}

namespace cpu {
namespace {

/// move(pixel run, patch run) for every run of `patch` pixels that lie behind each other in both.
template <typename F>
void runs(const View& pixels, int64_t patch, F move) {
  int64_t C = pixels.shape[1], H = pixels.shape[2], W = pixels.shape[3], across = W / patch,
          count = (H / patch) * across;
  parallel_for(pixels.shape[0] * count, C * patch * patch, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t b = r / count, top = r % count / across * patch, left = (r % count) % across * patch;
      for (int64_t c = 0; c < C; ++c)
        for (int64_t i = 0; i < patch; ++i)
          move(((b * C + c) * H + top + i) * W + left, (r * C + c) * patch * patch + i * patch);
    }
  });
}

}  // namespace

void patchify_forward(const View& pixels, int64_t patch, Out y) {
  const float* from = pixels.data<float>();
  float* to = y.data<float>();
  runs(pixels, patch,
       [=](int64_t pixel, int64_t row) { std::memcpy(to + row, from + pixel, size_t(patch) * sizeof(float)); });
}
void patchify_backward(const View& dy, int64_t patch, Out dpixels) {
  const float* from = dy.data<float>();
  float* to = dpixels.data<float>();
  runs(dpixels, patch,
       [=](int64_t pixel, int64_t row) { std::memcpy(to + pixel, from + row, size_t(patch) * sizeof(float)); });
}

}  // namespace cpu
}  // namespace mt
