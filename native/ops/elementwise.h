// Elementwise operators on contiguous tensors of one shape, float32, or bfloat16 all of them.
#pragma once
#include "core/view.h"

namespace mt {

/// out = a + scale·b. Backward: da = dy, db = scale·dy (by `scale`). b may repeat: its shape is a's trailing
/// dimensions.
void check_add(const View& a, const View& b, double scale, Out out);
/// out = factor·x.
void check_scale(const View& x, double factor, Out out);
/// out = a∘b.
void check_multiply(const View& a, const View& b, Out out);
/// y = gelu(x) = x Φ(x), the exact one, Φ(x) = (1 + erf(x/√2))/2; dx = dy∘(Φ(x) + x φ(x)).
void check_gelu_forward(const View& x, Out y);
void check_gelu_backward(const View& dy, const View& x, Out dx);
/// y = max(x, 0); dx = dy where x > 0. At 0 the slope is 0.
void check_relu_forward(const View& x, Out y);
void check_relu_backward(const View& dy, const View& x, Out dx);
/// y = a + tanh(g)(b − a), g one number. da = (1 − tanh g) dy, db = tanh(g) dy, dg = (1 − tanh² g) Σ dy∘(b − a).
void check_gate_forward(const View& a, const View& b, const View& g, Out y);
void check_gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg);

namespace cpu {
void add(const View& a, const View& b, double scale, Out out);
void scale(const View& x, double factor, Out out);
void multiply(const View& a, const View& b, Out out);
void gelu_forward(const View& x, Out y);
void gelu_backward(const View& dy, const View& x, Out dx);
void relu_forward(const View& x, Out y);
void relu_backward(const View& dy, const View& x, Out dx);
void gate_forward(const View& a, const View& b, const View& g, Out y);
void gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg);
}  // namespace cpu
namespace cuda {
void add(const View& a, const View& b, double scale, Out out);
void scale(const View& x, double factor, Out out);
void multiply(const View& a, const View& b, Out out);
void gelu_forward(const View& x, Out y);
void gelu_backward(const View& dy, const View& x, Out dx);
void relu_forward(const View& x, Out y);
void relu_backward(const View& dy, const View& x, Out dx);
void gate_forward(const View& a, const View& b, const View& g, Out y);
void gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg);
}  // namespace cuda
}  // namespace mt
