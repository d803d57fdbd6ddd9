#include "ops/patchify.h"

#include <cstring>

#include "core/parallel.h"

namespace mt {

void check_patchify(const Act& pixels, int64_t patch, ActOut y) {
  require_dense(pixels, "pixels");
  require_rank(pixels, "pixels", 4);
  require(patch >= 1 && patch <= (1 << 15), "patch: expected 1 to 32768, but got ", patch, ".");
  require(pixels.shape[1] <= (int64_t(1) << 46) / (patch * patch), "pixels: expected fewer channels, but got ",
          shape_text(pixels), ".");  // no product below overflows
  require(pixels.shape[2] % patch == 0 && pixels.shape[3] % patch == 0,
          "pixels: expected a height and width that patches of ", patch, " divide, but got ", shape_text(pixels), ".");
  require_dense(y, "y");
  require_shape(
      y, "y",
      {pixels.shape[0], (pixels.shape[2] / patch) * (pixels.shape[3] / patch), pixels.shape[1] * patch * patch});
}

namespace cpu {

void patchify(const View& pixels, int64_t patch, Out y) {
  const float* from = pixels.data<float>();
  float* to = y.data<float>();
  int64_t C = pixels.shape[1], H = pixels.shape[2], W = pixels.shape[3], across = W / patch,
          count = (H / patch) * across;
  parallel_for(pixels.shape[0] * count, C * patch * patch, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t b = r / count, top = r % count / across * patch, left = (r % count) % across * patch;
      for (int64_t c = 0; c < C; ++c)
        for (int64_t i = 0; i < patch; ++i)
          std::memcpy(to + (r * C + c) * patch * patch + i * patch, from + ((b * C + c) * H + top + i) * W + left,
                      size_t(patch) * sizeof(float));
    }
  });
}

}  // namespace cpu
}  // namespace mt
