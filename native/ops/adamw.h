// AdamW with decoupled weight decay (Loshchilov and Hutter 2019): of one tensor, and of all trained tensors at once,
// where norm, clipping, the check for finite numbers and the update stay on the device, so that a whole training step
// can be one graph.
#pragma once
#include "core/list.h"

namespace mt {

/// sum += Σ x²; sum is one float32 number that the caller sets to 0 first. In double inside, in a fixed order.
void check_square_sum(const View& x, InOut sum);
/// One step, in place, step counted from 1: g = scale·grad (scale one number, or 1 where absent);
/// param −= lr·decay·param; m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; param −= lr·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + eps).
void check_adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1,
                 double beta2, double eps, double decay, int64_t step);

// ---- all tensors at once: the bits of the operators above, called for one tensor after the other ----

/// sums[i] += xs[i]: gradients of several micro-batches.
void check_accumulate(const InOuts& sums, const Views& xs);
/// What a step depends on, for `losses` of [k] numbers (or none): report [3+k] = S, the sum of the squares of all
/// gradients; min(1, clip / (√S + 1e−6)), by which clipping multiplies them (1 where clip is 0); 1 where S and all
/// losses are finite, else 0; the losses.
void check_gradient_norm(const Views& grads, const Maybe& losses, double clip, const Out& report);
/// What changes from step to step, for lr and decay of n kinds of parameters: int64 [2+2n], the bits of the doubles
/// 1/(1−β₁ᵗ), 1/(1−β₂ᵗ), and of each kind lr and 1 − lr·decay. Written before the graph that reads it is launched.
void check_adamw_schedule(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay,
                          const Out& schedule);
/// The step of check_adamw for every tensor: rows[i] is the kind of parameter i in `schedule`, and the gradients' scale
/// is report[1]. Nothing is changed where report[2] is 0.
void check_adamw_all(const InOuts& params, const Views& grads, const InOuts& m, const InOuts& v, const Numbers& rows,
                     const View& report, const View& schedule, double beta1, double beta2, double eps);

namespace cpu {
void square_sum(const View& x, InOut sum);
void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2,
           double eps, double decay, int64_t step);
void accumulate(const InOuts& sums, const Views& xs);
void gradient_norm(const Views& grads, const Maybe& losses, double clip, const Out& report);
void adamw_schedule(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay,
                    const Out& schedule);
void adamw_all(const InOuts& params, const Views& grads, const InOuts& m, const InOuts& v, const Numbers& rows,
               const View& report, const View& schedule, double beta1, double beta2, double eps);
}  // namespace cpu
namespace cuda {
void square_sum(const View& x, InOut sum);
void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2,
           double eps, double decay, int64_t step);
void accumulate(const InOuts& sums, const Views& xs);
void gradient_norm(const Views& grads, const Maybe& losses, double clip, const Out& report);
void adamw_schedule(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay,
                    const Out& schedule);
void adamw_all(const InOuts& params, const Views& grads, const InOuts& m, const InOuts& v, const Numbers& rows,
               const View& report, const View& schedule, double beta1, double beta2, double eps);
}  // namespace cuda

/// What check_adamw_schedule describes, on the host: both twins write these.
std::vector<double> schedule_values(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay);

}  // namespace mt
