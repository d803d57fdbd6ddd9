#include "ops/lora_pack.h"

#include "kernels/cuda/device.h"

namespace mt::cuda {
namespace {

/// Where b_i lies in b: `rows` rows from `first` on, columns from `column` to `column` + rank.
struct Part {
  float* data;
  int64_t first, rows, column, rank;
  __device__ bool holds(int64_t row, int64_t c) const {
    return row >= first && row < first + rows && c >= column && c < column + rank;
  }
  __device__ float& at(int64_t row, int64_t c) const { return data[(row - first) * rank + c - column]; }
};
Part part(const View& b, int64_t first, int64_t column) {
  if (!b) return {nullptr, 0, 0, 0, 0};
  return {b.data<float>(), first, b.size(0), column, b.size(1)};
}

/// A thread per element of a, then of b.
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const float* a1, const float* a2, float* a, int64_t n1, int64_t n, Part one, Part two, float* b,
                int64_t count, int64_t r) {
  int64_t i = thread_index();
  if (i < n) a[i] = i < n1 ? a1[i] : a2[i - n1];
  i -= n;
  if (i < 0 || i >= count) return;
  int64_t row = i / r, c = i % r;
  b[i] = one.holds(row, c) ? one.at(row, c) : two.holds(row, c) ? two.at(row, c) : 0.0f;
}
/// A thread per element of db1, then of db2.
__global__ void __launch_bounds__(kThreads) unpack_kernel(const float* db, int64_t r, Part one, Part two) {
  int64_t i = thread_index();
  const int64_t n1 = one.rows * one.rank;
  if (i < n1) {
    one.data[i] = db[(one.first + i / one.rank) * r + i % one.rank];
    return;
  }
  i -= n1;
  if (i < two.rows * two.rank) two.data[i] = db[(two.first + i / two.rank) * r + two.column + i % two.rank];
}

}  // namespace

void lora_pack(const View& a1, const View& b1, int64_t first1, const Maybe& a2, const Maybe& b2, int64_t first2, Out a,
               Out b) {
  launch(pack_kernel, blocks(a.numel() + b.numel()), dim3(kThreads), 0, (const float*)a1.data<float>(),
         (const float*)(a2 ? a2.data<float>() : nullptr), a.data<float>(), a1.numel(), a.numel(), part(b1, first1, 0),
         part(b2, first2, b1.size(1)), b.data<float>(), b.numel(), b.size(1));
}
void lora_unpack(const View& db, int64_t first1, int64_t first2, Out db1, MaybeOut db2) {
  const int64_t n = db1.numel() + (db2 ? db2.numel() : 0);
  if (n)
    launch(unpack_kernel, blocks(n), dim3(kThreads), 0, (const float*)db.data<float>(), db.size(1),
           part(db1, first1, 0), part(db2, first2, db1.size(1)));
}

}  // namespace mt::cuda
