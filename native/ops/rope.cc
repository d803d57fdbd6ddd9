#include "ops/rope.h"

#include <algorithm>
#include <vector>

#include "core/parallel.h"

namespace mt {

void check_rope_forward(const Act& x, const View& positions, double theta, int64_t turned, bool, ActOut y) {
  require_rank(x, "x", 4);
  require_dtype(x, "x", DType::f32);
  require(x.shape[3] % 2 == 0, "x: expected an even head width, but got ", x.shape[3], ".");
  require(x.stride[3] == 1 || x.shape[3] <= 1, "x: expected a contiguous last dimension.");
  require(turned >= 0 && turned <= x.shape[2], "turned: expected 0 to ", x.shape[2], " heads, but got ", turned, ".");
  require_dtype(positions, "positions", DType::i32);
  require_contiguous(positions, "positions");
  require_shape(positions, "positions", {x.shape[0], x.shape[1]});
  require(theta > 0 && std::isfinite(theta), "theta: expected a positive number, but got ", theta, ".");
  require_dtype(y, "y", DType::f32);
  require_same_shape(y, "y", x, "x");
  require(y.stride[3] == 1 || y.shape[3] <= 1, "y: expected a contiguous last dimension.");
}

namespace cpu {

void rope_forward(const View& x, const View& positions, double theta, int64_t turned, bool inverse, Out y) {
  int64_t n = x.shape[1], heads = x.shape[2], half = x.shape[3] / 2;
  const int32_t* pos = positions.data<int32_t>();
  std::vector<double> rate(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) rate[size_t(i)] = std::pow(theta, -2.0 * double(i) / double(2 * half));
  parallel_for(x.shape[0] * n, (heads + 20) * half * 4, [&](int64_t begin, int64_t end) {
    std::vector<float> table(static_cast<size_t>(2 * half));
    float *c = table.data(), *s = c + half;
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = 0; i < half; ++i) {
        double a = double(pos[r]) * rate[size_t(i)];
        c[i] = float(std::cos(a));
        s[i] = float(inverse ? -std::sin(a) : std::sin(a));
      }
      for (int64_t h = 0; h < heads; ++h) {
        const float* from = x.data<float>() + (r / n) * x.stride[0] + (r % n) * x.stride[1] + h * x.stride[2];
        float* to = y.data<float>() + (r / n) * y.stride[0] + (r % n) * y.stride[1] + h * y.stride[2];
        if (h >= turned) {
          std::copy(from, from + 2 * half, to);
          continue;
        }
        for (int64_t i = 0; i < half; ++i) {
          float a = from[i], b = from[i + half];
          to[i] = a * c[i] - b * s[i];
          to[i + half] = b * c[i] + a * s[i];
        }
      }
    }
  });
}

}  // namespace cpu
}  // namespace mt
