// Whether views share elements. An exact answer needs integer programming; these tests are conservative and answer yes
// where they cannot tell.
#pragma once
#include <numeric>

#include "core/view.h"

namespace mt {

/// Distance of the last element from the first. The view has elements.
inline int64_t reach(const View& v) {
  int64_t n = 0;
  for (int i = 0; i < v.rank; ++i) n += (v.shape[i] - 1) * v.stride[i];
  return n;
}

/// False where all elements are distinct: each stride exceeds the extent of all smaller ones together.
inline bool repeats(const View& v) {
  if (!v.numel()) return false;
  for (int i = 0; i < v.rank; ++i) {
    if (v.shape[i] == 1) continue;
    int64_t inner = 0;  // extent of the dimensions with smaller strides; of equal ones, the later
    for (int j = 0; j < v.rank; ++j)
      if (v.stride[j] < v.stride[i] || (v.stride[j] == v.stride[i] && j > i)) inner += (v.shape[j] - 1) * v.stride[j];
    if (v.stride[i] <= inner) return true;
  }
  return false;
}

/// False where the views have no common element. Interleaved slices of a packed tensor are recognised as disjoint.
inline bool overlap(const View& a, const View& b) {
  if (a.storage != b.storage || !a.numel() || !b.numel()) return false;
  if (a.offset + reach(a) < b.offset || b.offset + reach(b) < a.offset) return false;
  // Take strides of `least` and more as whole periods: what is left are two intervals on a circle.
  const View* views[] = {&a, &b};
  for (const View* chosen : views)
    for (int c = 0; c < chosen->rank; ++c) {
      int64_t least = chosen->stride[c], period = 0, inner[2] = {};
      if (least == 0 || chosen->shape[c] == 1) continue;
      for (int k = 0; k < 2; ++k)
        for (int i = 0; i < views[k]->rank; ++i) {
          if (views[k]->shape[i] == 1) continue;
          if (views[k]->stride[i] >= least) period = std::gcd(period, views[k]->stride[i]);
          else inner[k] += (views[k]->shape[i] - 1) * views[k]->stride[i];
        }
      int64_t ahead = ((b.offset - a.offset) % period + period) % period;
      if (ahead > inner[0] && ahead + inner[1] < period) return false;
    }
  return true;
}

}  // namespace mt
