// Cross-entropy of logits against labels: loss = factor·Σ (log Σ_v exp(logits_v) − logits_label) over the rows whose
// label is not `ignore`. The caller's factor decides between sum and mean, over one batch or several.
#pragma once
#include "core/view.h"

namespace mt {

/// logits [...,V]; labels [...] int32; loss one number; saves lse [rows], the log-sum-exp of each row. A label outside
/// [0,V) fails in the queue.
void check_cross_entropy_forward(const Act& logits, const View& labels, int64_t ignore, double factor, Out loss,
                                 Out lse);
/// dlogits = dloss·factor (softmax − one-hot), 0 on ignored rows.
void check_cross_entropy_backward(const View& dloss, const Act& logits, const View& labels, const View& lse,
                                  int64_t ignore, double factor, ActOut dlogits);

namespace cpu {
void cross_entropy_forward(const View& logits, const View& labels, int64_t ignore, double factor, Out loss, Out lse);
void cross_entropy_backward(const View& dloss, const View& logits, const View& labels, const View& lse, int64_t ignore,
                            double factor, Out dlogits);
}  // namespace cpu
namespace cuda {
void cross_entropy_forward(const Act& logits, const View& labels, int64_t ignore, double factor, Out loss, Out lse);
void cross_entropy_backward(const View& dloss, const Act& logits, const View& labels, const View& lse, int64_t ignore,
                            double factor, ActOut dlogits);
}  // namespace cuda
}  // namespace mt
