#include "ops/embedding.h"

#include <algorithm>

#include "core/parallel.h"

namespace mt {

// ---- checks ----

namespace {
void check_rows(const View& ids, const View& rows, const char* what, int64_t width) {
  require_dtype(ids, "ids", DType::i32);
  require_contiguous(ids, "ids");
  require_dense(rows, what);
  bool ok = rows.rank == ids.rank + 1 && rows.size(-1) == width;
  for (int i = 0; ok && i < ids.rank; ++i) ok = rows.shape[i] == ids.shape[i];
  require(ok, what, ": expected the shape of ids, ", shape_text(ids), ", with ", width, " columns, but got ",
          shape_text(rows), ".");
}
}  // namespace

void check_embedding_forward(const View& ids, const View& table, ActOut y) {
  require_rank(table, "table", 2);
  require_contiguous(table, "table");
  require(table.dtype == DType::f32 || table.dtype == DType::bf16 || table.dtype == DType::f16,
          "table: expected float32, bfloat16 or float16, but got ", name(table.dtype), ".");
  check_rows(ids, y, "y", table.shape[1]);
}
void check_embedding_backward(const Act& dy, const View& ids, Out dtable) {
  require_dense(dtable, "dtable");
  require_rank(dtable, "dtable", 2);
  check_rows(ids, dy, "dy", dtable.shape[1]);
}

// ---- CPU ----

namespace cpu {
namespace {

int64_t row_of(int32_t id, int64_t rows) {
  if (id < 0 || id >= rows)
    throw std::runtime_error(text("id ", id, " is outside the embedding's ", rows,
                                  " rows; tokenizer and checkpoint do not belong together"));
  return id;
}

template <typename T>
void gather(const View& ids, const View& table, const View& y) {
  int64_t D = table.shape[1], rows = table.shape[0];
  const int32_t* id = ids.data<int32_t>();
  const T* from = table.data<T>();
  float* to = y.data<float>();
  parallel_for(ids.numel(), D, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = from + row_of(id[i], rows) * D;
      for (int64_t j = 0; j < D; ++j) to[i * D + j] = float(row[j]);
    }
  });
}

}  // namespace

void embedding_forward(const View& ids, const View& table, Out y) {
  table.dtype == DType::f32    ? gather<float>(ids, table, y)
  : table.dtype == DType::bf16 ? gather<bf16>(ids, table, y)
                               : gather<f16>(ids, table, y);
}

void embedding_backward(const View& dy, const View& ids, Out dtable) {
  int64_t D = dtable.shape[1], rows = dtable.shape[0], n = ids.numel();
  const int32_t* id = ids.data<int32_t>();
  const float* from = dy.data<float>();
  float* to = dtable.data<float>();
  for (int64_t i = 0; i < n; ++i) row_of(id[i], rows);
  // Threads share the columns, so that every row is summed in the order of the ids.
  parallel_for(D, rows + n, [=](int64_t begin, int64_t end) {
    for (int64_t v = 0; v < rows; ++v) std::fill(to + v * D + begin, to + v * D + end, 0.0f);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = begin; j < end; ++j) to[id[i] * D + j] += from[i * D + j];
  });
}

}  // namespace cpu
}  // namespace mt
