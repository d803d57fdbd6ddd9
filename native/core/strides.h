// Two strided views of one shape as the fewest nested loops.
#pragma once
#include "core/view.h"

namespace mt {

/// The dimensions of a copy after those of size 1 are dropped and adjacent contiguous ones are joined. Plain numbers,
/// so that kernels can take it as an argument.
struct Loop {
  int rank = 0;
  int64_t shape[kMaxRank] = {}, from[kMaxRank] = {}, to[kMaxRank] = {};
  Loop(const View& x, const View& y) {
    for (int i = 0; i < x.rank; ++i) {
      if (x.shape[i] == 1) continue;
      if (rank && from[rank - 1] == x.stride[i] * x.shape[i] && to[rank - 1] == y.stride[i] * x.shape[i]) {
        shape[rank - 1] *= x.shape[i];
        from[rank - 1] = x.stride[i];
        to[rank - 1] = y.stride[i];
      } else {
        shape[rank] = x.shape[i];
        from[rank] = x.stride[i];
        to[rank++] = y.stride[i];
      }
    }
    if (!rank) shape[rank] = from[rank] = to[rank] = 1, rank = 1;
  }
};

}  // namespace mt
