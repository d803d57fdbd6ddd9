// Rotary position embedding in LLaMA's half-split form: with angle a = pos·theta^(−2i/d), the pair (x_i, x_{i+d/2})
// becomes (x_i cos a − x_{i+d/2} sin a, x_{i+d/2} cos a + x_i sin a).
#pragma once
#include "core/view.h"

namespace mt {

/// x, y [B,n,h,d], any strides, but 1 for d, which is even; positions [B,n] int32. The first `turned` heads are
/// rotated, the others copied: of queries, keys and values side by side, all but the values. `inverse` rotates back,
/// which is the backward.
void check_rope_forward(const Act& x, const View& positions, double theta, int64_t turned, bool inverse, ActOut y);

namespace cpu {
void rope_forward(const View& x, const View& positions, double theta, int64_t turned, bool inverse, Out y);
}  // namespace cpu
namespace cuda {
void rope_forward(const Act& x, const View& positions, double theta, int64_t turned, bool inverse, ActOut y);
}  // namespace cuda
}  // namespace mt
