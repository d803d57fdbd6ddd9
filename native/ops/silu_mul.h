// SwiGLU's product, y = gate·sigmoid(gate)·up.
#pragma once
#include "core/view.h"

namespace mt {

/// gate, up and y have one shape. Rows are contiguous and evenly spaced, so that gate and up may be columns of one
/// matrix.
void check_silu_mul_forward(const Act& gate, const Act& up, ActOut y);
/// With s = sigmoid(gate): dgate = dy∘up·s·(1 + gate·(1 − s)), dup = dy∘gate·s. Rows as above.
void check_silu_mul_backward(const Act& dy, const Act& gate, const Act& up, ActOut dgate, ActOut dup);

namespace cpu {
void silu_mul_forward(const Act& gate, const Act& up, ActOut y);
void silu_mul_backward(const Act& dy, const Act& gate, const Act& up, ActOut dgate, ActOut dup);
}  // namespace cpu
namespace cuda {
void silu_mul_forward(const Act& gate, const Act& up, ActOut y);
void silu_mul_backward(const Act& dy, const Act& gate, const Act& up, ActOut dgate, ActOut dup);
}  // namespace cuda
}  // namespace mt
