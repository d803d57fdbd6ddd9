// Sums over one dimension, times a factor: means over frames, gradients of repeated tensors.
#pragma once
#include "core/view.h"

namespace mt {

/// Sizes: of the dimensions before `dim`, of `dim`, and of those after it.
struct Split {
  int64_t outer = 1, n, inner = 1;
  Split(const View& x, int64_t dim) : n(x.shape[dim]) {
    for (int i = 0; i < x.rank; ++i) (i < dim ? outer : i > dim ? inner : n) *= i == dim ? 1 : x.shape[i];
  }
};

/// y = factor·Σ x over dimension `dim`, in a fixed order; x contiguous; y has x's shape without that dimension.
void check_reduce_forward(const Act& x, int64_t dim, double factor, ActOut y);
/// dx = factor·dy, repeated along `dim`.
void check_reduce_backward(const Act& dy, int64_t dim, double factor, ActOut dx);

namespace cpu {
void reduce_forward(const View& x, int64_t dim, double factor, Out y);
void reduce_backward(const View& dy, int64_t dim, double factor, Out dx);
}  // namespace cpu
namespace cuda {
void reduce_forward(const Act& x, int64_t dim, double factor, ActOut y);
void reduce_backward(const Act& dy, int64_t dim, double factor, ActOut dx);
}  // namespace cuda
}  // namespace mt
