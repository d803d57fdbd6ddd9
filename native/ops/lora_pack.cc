#include "ops/lora_pack.h"

#include <algorithm>

namespace mt {

// ---- checks ----

namespace {
/// b_1 and b_2 as rows of b [rows, r], from first1 and first2 on.
void check_rows(const View& b1, int64_t first1, const View& b2, int64_t first2, const View& b) {
  auto check = [&](const View& v, const char* what, int64_t first) {
    require_dense(v, what);
    require_rank(v, what, 2);
    require(first >= 0 && first <= b.size(0) - v.size(0), what, ": expected its ", v.size(0),
            " rows to lie within the ", b.size(0), " of b, but they begin at row ", first, ".");
  };
  require_dense(b, "b");
  require_rank(b, "b", 2);
  check(b1, "b1", first1);
  if (b2) check(b2, "b2", first2);
  const int64_t r = b1.size(1) + (b2 ? b2.size(1) : 0);
  require_shape(b, "b", {b.size(0), r});
  require(!b2 || first1 + b1.size(0) <= first2 || first2 + b2.size(0) <= first1,
          "b1, b2: expected rows that do not overlap, but got ", b1.size(0), " from ", first1, " and ", b2.size(0),
          " from ", first2, " on.");
}
}  // namespace

void check_lora_pack(const View& a1, const View& b1, int64_t first1, const Maybe& a2, const Maybe& b2, int64_t first2,
                     Out a, Out b) {
  require(bool(a2) == bool(b2), "a2, b2: expected both or none.");
  check_rows(b1, first1, b2, first2, b);
  require_dense(a1, "a1");
  require_rank(a1, "a1", 2);
  require_shape(a1, "a1", {b1.size(1), a1.size(1)});
  if (a2) require_dense(a2, "a2"), require_shape(a2, "a2", {b2.size(1), a1.size(1)});
  require_dense(a, "a");
  require_shape(a, "a", {b.size(1), a1.size(1)});
}
void check_lora_unpack(const View& db, int64_t first1, int64_t first2, Out db1, MaybeOut db2) {
  check_rows(db1, first1, db2, first2, db);
}

// ---- CPU ----

namespace cpu {

void lora_pack(const View& a1, const View& b1, int64_t first1, const Maybe& a2, const Maybe& b2, int64_t first2, Out a,
               Out b) {
  const int64_t r = b.size(1), r1 = b1.size(1);
  std::copy_n(a1.data<float>(), a1.numel(), a.data<float>());
  if (a2) std::copy_n(a2.data<float>(), a2.numel(), a.data<float>() + a1.numel());
  std::fill_n(b.data<float>(), b.numel(), 0.0f);
  auto put = [&](const View& v, int64_t first, int64_t column) {
    for (int64_t i = 0; i < v.size(0); ++i)
      std::copy_n(v.data<float>() + i * v.size(1), v.size(1), b.data<float>() + (first + i) * r + column);
  };
  put(b1, first1, 0);
  if (b2) put(b2, first2, r1);
}

void lora_unpack(const View& db, int64_t first1, int64_t first2, Out db1, MaybeOut db2) {
  const int64_t r = db.size(1);
  auto take = [&](const View& v, int64_t first, int64_t column) {
    for (int64_t i = 0; i < v.size(0); ++i)
      std::copy_n(db.data<float>() + (first + i) * r + column, v.size(1), v.data<float>() + i * v.size(1));
  };
  take(db1, first1, 0);
  if (db2) take(db2, first2, db1.size(1));
}

}  // namespace cpu
}  // namespace mt
