#include "ops/reduce.h"

#include "core/parallel.h"

namespace mt {

namespace {
void check(const View& whole, const char* what, int64_t dim, const View& part, const char* whose) {
  require_dense(whole, what);
  require(dim >= 0 && dim < whole.rank, "dim: expected a dimension of ", shape_text(whole), ", but got ", dim, ".");
  require_dense(part, whose);
  bool ok = part.rank == whole.rank - 1;
  for (int i = 0; ok && i < part.rank; ++i) ok = part.shape[i] == whole.shape[i < dim ? i : i + 1];
  require(ok, whose, ": expected shape ", shape_text(whole), " without dimension ", dim, ", but got ", shape_text(part),
          ".");
}
}  // namespace

void check_reduce_forward(const Act& x, int64_t dim, double, ActOut y) { check(x, "x", dim, y, "y"); }
void check_reduce_backward(const Act& dy, int64_t dim, double, ActOut dx) { check(dx, "dx", dim, dy, "dy"); }

namespace cpu {

void reduce_forward(const View& x, int64_t dim, double factor, Out y) {
  Split s(x, dim);
  const float* from = x.data<float>();
  float *to = y.data<float>(), f = float(factor);
  parallel_for(s.outer * s.inner, s.n, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      // Up to the end of this outer index's row.
      int64_t o = i / s.inner, first = i % s.inner, last = std::min(s.inner, first + end - i);
      const float* base = from + o * s.n * s.inner;
      float* out = to + o * s.inner;
      if (s.inner == 1) {
        double sum = 0;
        for (int64_t k = 0; k < s.n; ++k) sum += base[k];
        out[0] = float(sum) * f;
      } else {
        for (int64_t j = first; j < last; ++j) out[j] = 0;
        for (int64_t k = 0; k < s.n; ++k)
          for (int64_t j = first; j < last; ++j) out[j] += base[k * s.inner + j];
        for (int64_t j = first; j < last; ++j) out[j] *= f;
      }
      i += last - first;
    }
  });
}

void reduce_backward(const View& dy, int64_t dim, double factor, Out dx) {
  Split s(dx, dim);
  const float* from = dy.data<float>();
  float *to = dx.data<float>(), f = float(factor);
  parallel_for(s.outer * s.n, s.inner, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < s.inner; ++j) to[r * s.inner + j] = f * from[r / s.n * s.inner + j];
  });
}

}  // namespace cpu
}  // namespace mt
