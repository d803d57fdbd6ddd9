// The channel swap of the paper (its equation 9) as a copy: [B,T,L,D] to [B,L,T,D]. The model never calls it, since its
// attention swaps by strides. It is the reference for that: tests compare the results, benchmarks the time that strides
// save. The backward of a swap is a swap.
#pragma once
#include "core/view.h"

namespace mt {

/// y[b,l,t,:] = x[b,t,l,:]. Both contiguous.
void check_swap(const Act& x, ActOut y);

namespace cpu {
void swap(const View& x, Out y);
}  // namespace cpu
namespace cuda {
void swap(const Act& x, ActOut y);
}  // namespace cuda
}  // namespace mt
