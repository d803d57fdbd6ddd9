#include "ops/cross_entropy.h"

#include <algorithm>

#include "core/parallel.h"

namespace mt {

// ---- checks ----

void check_cross_entropy_forward(const Act& logits, const View& labels, int64_t, double, Out loss, Out lse) {
  require_dense(logits, "logits");
  require(logits.rank >= 1 && logits.size(-1) >= 1, "logits: expected at least one class, but got shape ",
          shape_text(logits), ".");
  require_dtype(labels, "labels", DType::i32);
  require_contiguous(labels, "labels");
  bool ok = labels.rank == logits.rank - 1;
  for (int i = 0; ok && i < labels.rank; ++i) ok = labels.shape[i] == logits.shape[i];
  require(ok, "labels: expected the rows of logits, ", shape_text(logits), ", but got ", shape_text(labels), ".");
  require_dense(loss, "loss");
  require(loss.numel() == 1, "loss: expected one number, but got shape ", shape_text(loss), ".");
  require_dense(lse, "lse");
  require_shape(lse, "lse", {logits.rows()});
}
void check_cross_entropy_backward(const View& dloss, const Act& logits, const View& labels, const View& lse,
                                  int64_t ignore, double factor, ActOut dlogits) {
  Out loss, saved;
  static_cast<View&>(loss) = dloss, static_cast<View&>(saved) = lse;
  check_cross_entropy_forward(logits, labels, ignore, factor, loss, saved);
  require_dense(dlogits, "dlogits");
  require_same_shape(dlogits, "dlogits", logits, "logits");
}

// ---- CPU ----

namespace cpu {
namespace {

void require_class(int32_t label, int64_t classes) {
  if (label < 0 || label >= classes)
    throw std::runtime_error(text("label ", label, " is outside the ", classes, " classes"));
}

}  // namespace

void cross_entropy_forward(const View& logits, const View& labels, int64_t ignore, double factor, Out loss, Out lse) {
  int64_t V = logits.size(-1), rows = logits.rows();
  const float* x = logits.data<float>();
  const int32_t* label = labels.data<int32_t>();
  float* out = lse.data<float>();
  parallel_for(rows, 12 * V, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      out[r] = 0;
      if (label[r] == ignore) continue;
      require_class(label[r], V);
      const float* row = x + r * V;
      float most = *std::max_element(row, row + V);
      double sum = 0;
      for (int64_t v = 0; v < V; ++v) sum += std::exp(row[v] - most);
      out[r] = float(double(most) + std::log(sum));
    }
  });
  double total = 0;
  for (int64_t r = 0; r < rows; ++r)
    if (label[r] != ignore) total += double(out[r]) - x[r * V + label[r]];
  *loss.data<float>() = float(total * factor);
}

void cross_entropy_backward(const View& dloss, const View& logits, const View& labels, const View& lse, int64_t ignore,
                            double factor, Out dlogits) {
  int64_t V = logits.size(-1);
  const float *x = logits.data<float>(), *saved = lse.data<float>();
  const int32_t* label = labels.data<int32_t>();
  float *out = dlogits.data<float>(), scale = float(*dloss.data<float>() * factor);
  parallel_for(logits.rows(), 12 * V, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = out + r * V;
      if (label[r] == ignore) {
        std::fill(row, row + V, 0.0f);
        continue;
      }
      require_class(label[r], V);
      for (int64_t v = 0; v < V; ++v) row[v] = scale * std::exp(x[r * V + v] - saved[r]);
      row[label[r]] -= scale;
    }
  });
}

}  // namespace cpu
}  // namespace mt
