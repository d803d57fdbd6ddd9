#include "ops/argmax.h"

#include <cmath>

#include "core/parallel.h"

namespace mt {

// ---- checks ----

void check_argmax(const Act& x, Out y) {
  require_dense(x, "x");
  require_rank(x, "x", 2);
  require_dtype(y, "y", DType::i32);
  require_contiguous(y, "y");
  require_shape(y, "y", {x.shape[0]});
  require(x.shape[1] >= 1 && x.shape[1] <= INT32_MAX, "x: expected rows of at least one number, but got shape ",
          shape_text(x), ".");
}

// ---- CPU ----

namespace cpu {
namespace {

template <typename T>
void rows_of(const View& x, const View& y) {
  const int64_t n = x.shape[1];
  const T* from = x.data<T>();
  int32_t* to = y.data<int32_t>();
  parallel_for(x.shape[0], n, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = from + r * n;
      int64_t best = 0;
      for (int64_t j = 0; j < n && best >= 0; ++j) {
        if (!std::isfinite(float(row[j]))) best = -1;
        else if (float(row[j]) > float(row[best])) best = j;
      }
      to[r] = int32_t(best);
    }
  });
}

}  // namespace

void argmax(const Act& x, Out y) { x.dtype == DType::bf16 ? rows_of<bf16>(x, y) : rows_of<float>(x, y); }

}  // namespace cpu
}  // namespace mt
