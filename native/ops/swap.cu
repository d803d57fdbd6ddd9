#include "ops/swap.h"

#include <utility>

#include "kernels/cuda/strided.h"

namespace mt::cuda {

/// y[b,l,t,:] = x[b,t,l,:]: a copy of a view of x whose two middle dimensions are exchanged.
void swap(const Act& x, ActOut y) {
  View seen = x;
  std::swap(seen.shape[1], seen.shape[2]);
  std::swap(seen.stride[1], seen.stride[2]);
  move(seen, y);
}

}  // namespace mt::cuda
