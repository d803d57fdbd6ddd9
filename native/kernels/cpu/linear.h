// Shared by operators with a linear layer: checks of weights [out, in] and rows [..., width], and the views as factors
// of a matrix product.
#pragma once
#include <limits>

#include "core/view.h"
#include "kernels/cpu/matmul.h"

namespace mt {

// ---- checks ----

inline void require_weight(const View& w, const char* what) {
  require(w.dtype == DType::f32 || w.dtype == DType::bf16 || w.dtype == DType::f16, what,
          ": expected dtype float32, bfloat16 or float16, but got ", name(w.dtype), ".");
  require_rank(w, what, 2);
  require_contiguous(w, what);
}
/// One that may also be quantised.
inline void require_any_weight(const View& w, const char* what) {
  if (!is_quantised(w.dtype)) return require_weight(w, what);
  require_rank(w, what, 2);
  require_contiguous(w, what);
}
/// v [..., last]; `why` says where `last` comes from.
inline void require_last(const View& v, const char* what, int64_t last, const char* why) {
  require_dense(v, what);
  require(v.rank > 0 && v.size(-1) == last, what, ": expected a last dimension of ", last, ", ", why,
          ", but got shape ", shape_text(v), ".");
}
/// v [..., last], with the leading dimensions of `like`, an argument named `whose`.
inline void require_rows(const View& v, const char* what, int64_t last, const View& like, const char* whose) {
  require_dense(v, what);
  bool ok = v.rank == like.rank && v.rank > 0 && v.size(-1) == last;
  for (int i = 0; ok && i + 1 < v.rank; ++i) ok = v.shape[i] == like.shape[i];
  require(ok, what, ": expected the shape of ", whose, ", ", shape_text(like), ", with ", last,
          " as its last dimension, but got ", shape_text(v), ".");
}
inline void require_vector(const View& v, const char* what, int64_t n) {
  require_dense(v, what);
  require_shape(v, what, {n});
}

// ---- factors: v [..., width] as a matrix [rows, width], and its transpose ----

inline const void* first_of(const View& v) {
  return static_cast<const char*>(v.storage->data()) + v.offset * int64_t(size_of(v.dtype));
}

inline Left left(const View& v) { return {first_of(v), v.dtype, v.size(-1), 1}; }
inline Left left_transposed(const View& v) { return {first_of(v), v.dtype, 1, v.size(-1)}; }
inline Right right(const View& v) { return {first_of(v), v.dtype, v.size(-1), 1}; }
inline Right right_transposed(const View& v) { return {first_of(v), v.dtype, 1, v.size(-1)}; }
inline Result result(const View& v) { return {const_cast<void*>(first_of(v)), v.dtype, v.size(-1)}; }
inline const float* numbers(const View& v) { return v ? v.data<float>() : nullptr; }

/// A factor [k, n] made of a weight, packed once where that is frozen, asked for so often, and there is memory. A
/// quantised one is read in place.
inline Right packed(const View& w, Right r, int64_t n, int64_t k, bool rows, int quarters, int asked = 1) {
  if (is_quantised(w.dtype)) {
    r.quantised = quantised(w);
    return r;
  }
  if (w.storage->final())
    r.packed = w.storage->derived({w.offset, n, k, rows}, size_t(packed_bytes(n, k, w.dtype)), quarters, asked,
                                  [&](void* out) { pack_right(n, k, r, out); });
  if (r.packed || w.storage->replaceable()) r.order = Order::packed;
  return r;
}

/// At which request a weight is packed for products of so many rows. The pages of a file are in memory already, and
/// fresh memory costs more than the packing. Many rows pack float32 block by block as fast as they read packs; of 16
/// bits, from the second product on, a pack pays. A row takes a third to half less time out of a pack, which costs as
/// much as some hundred rows: a long answer is worth one.
inline int packed_at(const View& w, int64_t rows) {
  constexpr int64_t kFew = 16;
  constexpr int kLong = 64;
  constexpr int kNever = std::numeric_limits<int>::max();
  if (!w.storage->replaceable()) return 1;
  if (rows <= kFew) return kLong;
  return w.dtype == DType::f32 ? kNever : 2;
}

/// A weight [out, in] as the right factor of a product of so many rows with its transpose (forward), and with itself
/// (backward). Both read one packed form.
inline Right weight_transposed(const View& w, int64_t rows) {
  return packed(w, right_transposed(w), w.size(0), w.size(1), false, 3, packed_at(w, rows));
}
inline Right weight(const View& w, int64_t rows) {
  Right r = right(w);
  if (is_quantised(w.dtype)) {
    r.quantised = quantised(w);
    return r;
  }
  const Right transposed = weight_transposed(w, rows);
  r.turned = transposed.packed;
  if (transposed.order == Order::packed) r.order = Order::turned;
  return r;
}
/// Both forms packed at once: for many products with some rows or columns at a time.
inline Right weight_rows(const View& w) { return packed(w, right(w), w.size(1), w.size(0), true, 2); }
inline Right weight_columns(const View& w) { return packed(w, right_transposed(w), w.size(0), w.size(1), false, 3); }

}  // namespace mt
