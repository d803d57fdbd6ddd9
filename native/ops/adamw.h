// AdamW with decoupled weight decay (Loshchilov and Hutter 2019), for one tensor and for all trained tensors at once.
// In the second form the norm, clipping, the check for finite numbers and the update stay on the device, so that a
// whole training step can be one graph.
#pragma once
#include "core/list.h"

namespace mt {

/// sum += Σ x²; sum is one float32 number that the caller sets to 0 first. Summed in double, in a fixed order.
void check_square_sum(const View& x, InOut sum);
/// One step t = step, counted from 1, in place. scale is one number, 1 where absent.
///   g = scale·grad
///   param −= lr·decay·param
///   m = β₁m + (1−β₁)g
///   v = β₂v + (1−β₂)g²
///   param −= lr·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + eps)
void check_adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1,
                 double beta2, double eps, double decay, int64_t step);

// ---- all tensors at once: the same bits as the operators above give, called for one tensor after the other ----

/// sums[i] += xs[i]: gradients of several micro-batches.
void check_accumulate(const InOuts& sums, const Views& xs);
/// What a step depends on. losses [k], or none; report [3+k]:
///   report[0]    S, the sum of the squares of all gradients
///   report[1]    min(1, clip/(√S + 1e−6)), by which clipping multiplies the gradients; 1 where clip is 0
///   report[2]    1 where S and all losses are finite, else 0
///   report[3..]  the losses
void check_gradient_norm(const Views& grads, const Maybe& losses, double clip, const Out& report);
/// What changes from step to step, with lr [n] and decay [n] of n kinds of parameters. schedule int64 [2+2n] holds the
/// bits of doubles: 1/(1−β₁ᵗ), 1/(1−β₂ᵗ), then for each kind lr and 1 − lr·decay. It is written before the graph that
/// reads it is launched.
void check_adamw_schedule(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay,
                          const Out& schedule);
/// The step of check_adamw for every tensor. rows[i] is the kind of parameter i in `schedule`; the gradients' scale is
/// report[1]. Nothing changes where report[2] is 0.
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

/// The values of adamw_schedule, formed on the host for both twins.
std::vector<double> schedule_values(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay);

}  // namespace mt
