// AdamW with decoupled weight decay (Loshchilov and Hutter 2019), and the sum of squares that clipping needs.
#pragma once
#include "core/view.h"

namespace mt {

/// sum += Σ x²; sum is one float32 number that the caller sets to 0 first. In double inside, in a fixed order.
void check_square_sum(const View& x, InOut sum);
/// One step, in place, step counted from 1: g = scale·grad (scale one number, or 1 where absent);
/// param −= lr·decay·param; m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; param −= lr·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + eps).
void check_adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2, double eps, double decay, int64_t step);

namespace cpu {
void square_sum(const View& x, InOut sum);
void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2, double eps, double decay, int64_t step);
}  // namespace cpu
namespace cuda {
void square_sum(const View& x, InOut sum);
void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2, double eps, double decay, int64_t step);
}  // namespace cuda
}  // namespace mt
