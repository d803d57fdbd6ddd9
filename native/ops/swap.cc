#include "ops/swap.h"

#include <cstring>

#include "core/parallel.h"

namespace mt {

void check_swap(const Act& x, ActOut y) {
  require_dense(x, "x");
  require_rank(x, "x", 4);
  require_dense(y, "y");
  require_shape(y, "y", {x.shape[0], x.shape[2], x.shape[1], x.shape[3]});
}

namespace cpu {

void swap(const View& x, Out y) {
  int64_t T = x.shape[1], L = x.shape[2], D = x.shape[3];
  const float* from = x.data<float>();
  float* to = y.data<float>();
  parallel_for(x.shape[0] * L, T * D, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t b = r / L, l = r % L;
      for (int64_t t = 0; t < T; ++t)
        std::memcpy(to + (r * T + t) * D, from + ((b * T + t) * L + l) * D, size_t(D) * sizeof(float));
    }
  });
}

}  // namespace cpu
}  // namespace mt
