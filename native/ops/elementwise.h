// Elementwise operators on contiguous tensors of one shape.
#pragma once
#include "core/view.h"

namespace mt {

/// out = a + scale·b. b may repeat: its shape is that of a's last dimensions. Backward: da = dy, db = scale·dy, by
/// `scale`.
void check_add(const Act& a, const Act& b, double scale, ActOut out);
/// out = factor·x.
void check_scale(const Act& x, double factor, ActOut out);
/// out = a∘b.
void check_multiply(const Act& a, const Act& b, ActOut out);
/// y = gelu(x) = x Φ(x), Φ(x) = (1 + erf(x/√2))/2, not its approximation by tanh; dx = dy∘(Φ(x) + x φ(x)).
void check_gelu_forward(const Act& x, ActOut y);
void check_gelu_backward(const Act& dy, const Act& x, ActOut dx);
/// Its approximation y = x/2·(1 + tanh u), u = √(2/π)(x + 0.044715 x³); dx = dy∘((1 + tanh u)/2 + x/2·(1 − tanh²
/// u)·u′).
void check_gelu_tanh_forward(const Act& x, ActOut y);
void check_gelu_tanh_backward(const Act& dy, const Act& x, ActOut dx);
/// y = max(x, 0); dx = dy where x > 0. At 0 the slope is 0.
void check_relu_forward(const Act& x, ActOut y);
void check_relu_backward(const Act& dy, const Act& x, ActOut dx);
/// y = a + tanh(g)(b − a), g one number. da = (1 − tanh g) dy, db = tanh(g) dy, dg = (1 − tanh² g) Σ dy∘(b − a).
void check_gate_forward(const Act& a, const Act& b, const View& g, ActOut y);
void check_gate_backward(const Act& dy, const Act& a, const Act& b, const View& g, ActOut da, ActOut db, MaybeOut dg);

namespace cpu {
void add(const View& a, const View& b, double scale, Out out);
void scale(const Act& x, double factor, ActOut out);
void multiply(const Act& a, const Act& b, ActOut out);
void gelu_forward(const Act& x, ActOut y);
void gelu_backward(const Act& dy, const Act& x, ActOut dx);
void gelu_tanh_forward(const Act& x, ActOut y);
void gelu_tanh_backward(const Act& dy, const Act& x, ActOut dx);
void relu_forward(const Act& x, ActOut y);
void relu_backward(const Act& dy, const Act& x, ActOut dx);
void gate_forward(const Act& a, const Act& b, const View& g, ActOut y);
void gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg);
}  // namespace cpu
namespace cuda {
void add(const Act& a, const Act& b, double scale, ActOut out);
void scale(const Act& x, double factor, ActOut out);
void multiply(const Act& a, const Act& b, ActOut out);
void gelu_forward(const Act& x, ActOut y);
void gelu_backward(const Act& dy, const Act& x, ActOut dx);
void gelu_tanh_forward(const Act& x, ActOut y);
void gelu_tanh_backward(const Act& dy, const Act& x, ActOut dx);
void relu_forward(const Act& x, ActOut y);
void relu_backward(const Act& dy, const Act& x, ActOut dx);
void gate_forward(const Act& a, const Act& b, const View& g, ActOut y);
void gate_backward(const Act& dy, const Act& a, const Act& b, const View& g, ActOut da, ActOut db, MaybeOut dg);
}  // namespace cuda
}  // namespace mt
