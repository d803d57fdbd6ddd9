// The index of a row's largest number: the likeliest token.
#pragma once
#include "core/view.h"

namespace mt {

/// y[r] = the first j with the largest x[r,j]; −1 where a number of the row is not finite. x [R,V] contiguous, V ≥ 1;
/// y [R] int32, contiguous.
void check_argmax(const Act& x, Out y);

namespace cpu {
void argmax(const Act& x, Out y);
}  // namespace cpu
namespace cuda {
void argmax(const Act& x, Out y);
}  // namespace cuda
}  // namespace mt
