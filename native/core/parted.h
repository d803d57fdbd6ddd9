// Rows [..., m, n] that are split, group by group, over two tensors: the output of a norm whose result is split in two,
// or is a slice of a larger tensor.
#pragma once
#include "core/view.h"

namespace mt {

/// Elements from one group [m, n] of v [..., m, n] to the next, where each group is contiguous and all are evenly
/// spaced; else −1.
inline int64_t group_pitch(const View& v) {
  if (v.rank < 2) return v.contiguous() ? v.numel() : -1;
  View flat = v;
  flat.rank = v.rank - 1;
  flat.shape[flat.rank - 1] = v.size(-2) * v.size(-1);
  flat.stride[flat.rank - 1] = 1;
  const bool dense = (v.size(-1) == 1 || v.stride[v.rank - 1] == 1) &&
                     (v.size(-2) == 1 || v.stride[v.rank - 2] == v.size(-1));
  return dense || !v.numel() ? flat.pitch() : -1;
}

/// `head` [..., a, n] and, where it is given, `tail` [..., b, n] in place of one tensor like x [..., a + b, n].
inline void require_parted(const View& head, const View& tail, const char* what, const char* rest, const View& x,
                           const char* whose) {
  auto part = [&](const View& v, const char* name) {
    require_dtype(v, name, DType::f32);
    require(group_pitch(v) >= 0, name,
            ": expected contiguous groups of rows that are evenly spaced, but got strides for shape ", shape_text(v),
            "; call contiguous() first.");
  };
  part(head, what);
  if (!tail) return require_same_shape(head, what, x, whose);
  part(tail, rest);
  bool fits = x.rank >= 2 && head.rank == x.rank && tail.rank == x.rank && head.size(-1) == x.size(-1) &&
              tail.size(-1) == x.size(-1) && head.size(-2) + tail.size(-2) == x.size(-2);
  for (int i = 0; fits && i + 2 < x.rank; ++i) fits = head.shape[i] == x.shape[i] && tail.shape[i] == x.shape[i];
  require(fits, what, " and ", rest, ": expected the rows of ", whose, ", ", shape_text(x), ", cut in two, but got ",
          shape_text(head), " and ", shape_text(tail), ".");
}

/// Maps row r to its address. Plain numbers, so that kernels can take it as an argument.
struct Parted {
  int64_t per = 0, first = 0;  // rows of a group, and how many of them are in the head; per 0: rows behind each other
  int64_t head = 0, tail = 0;  // elements from one group to the next

  Parted() = default;
  Parted(const View& h, const View& t) {
    if (!t && h.contiguous()) return;
    first = h.size(-2);
    per = first + (t ? t.size(-2) : 0);
    head = group_pitch(h);
    if (t) tail = group_pitch(t);
  }
};

}  // namespace mt
