#include "ops/cache_append.h"

#include <cstring>
#include <stdexcept>

namespace mt {

// ---- checks ----

void check_cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values) {
  require_rank(k, "k", 3);
  require_rank(keys, "keys", 3);
  require_dense(keys, "keys");
  require_dense(values, "values");
  require_same_shape(v, "v", k, "k");
  require_same_shape(values, "values", keys, "keys");
  require_dtype(k, "k", DType::f32);
  require_dtype(v, "v", DType::f32);
  require_dtype(at, "at", DType::i32);
  require_shape(at, "at", {1});
  for (const View* x : {&k, &v})
    require(x->stride[2] == 1 || x->shape[2] == 1, x == &k ? "k" : "v",
            ": expected a last dimension that is contiguous.");
  require(keys.shape[0] == k.shape[0] && keys.shape[2] == k.shape[2], "keys: expected the batch and the width of k, ",
          shape_text(k), ", but got ", shape_text(keys), ".");
}

// ---- CPU ----

namespace cpu {

void cache_append(const Act& k, const Act& v, const View& at, ActInOut keys, ActInOut values) {
  const int64_t first = *at.data<int32_t>(), n = k.shape[1], rows = keys.shape[1], width = k.shape[2];
  if (first < 0 || first + n > rows)
    throw std::runtime_error(
        text("row ", first < 0 ? first : first + n - 1, " is outside the cache's ", rows, " rows"));
  const size_t item = size_of(k.dtype);
  const auto append = [&](const View& from, const View& to) {
    const char* source = static_cast<const char*>(from.storage->data()) + size_t(from.offset) * item;
    char* target = static_cast<char*>(to.storage->data()) + size_t(to.offset) * item;
    for (int64_t b = 0; b < from.shape[0]; ++b)
      for (int64_t i = 0; i < n; ++i)
        std::memcpy(target + size_t((b * rows + first + i) * width) * item,
                    source + size_t(b * from.stride[0] + i * from.stride[1]) * item, size_t(width) * item);
  };
  append(k, keys);
  append(v, values);
}

}  // namespace cpu
}  // namespace mt
