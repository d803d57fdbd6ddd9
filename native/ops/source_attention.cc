#include "ops/source_attention.h"

#include <vector>

#include "core/blocks.h"
#include "core/parallel.h"
#include "kernels/cpu/attention_unit.h"
#include "kernels/cpu/linear.h"

#define MT_EACH_ISA "kernels/cpu/softmax.h"
#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

void check_source_attention(const Act& q, const Act& source, const View& wk, const View& wv, Maybe bias, Maybe a,
                            Maybe b, double, int64_t heads, ActOut out) {
  require_dense(q, "q");
  require(q.rank >= 2, "q: expected at least 2 dimensions, but got shape ", shape_text(q), ".");
  const int64_t width = q.size(-1);
  require(heads >= 1 && width >= 1 && width % heads == 0, "heads: expected a divisor of the width ", width,
          ", but got ", heads, ".");
  require_dense(source, "source");
  bool leads = source.rank == q.rank;
  for (int i = 0; leads && i + 2 < q.rank; ++i) leads = source.shape[i] == q.shape[i];
  require(leads, "source: expected the dimensions of q but for the last two, ", shape_text(q), ", but got shape ",
          shape_text(source), ".");
  for (const auto& [w, what] : {std::pair{&wk, "wk"}, std::pair{&wv, "wv"}}) {
    require_weight(*w, what);
    require_shape(*w, what, {width, source.size(-1)});
  }
  if (bias) require_vector(bias, "bias", width);
  require(bool(a) == bool(b), a ? "b" : "a", ": expected both of a and b or neither, but got none.");
  if (a) {
    require_dense(a, "a");
    require_rank(a, "a", 2);
    require_shape(a, "a", {a.size(0), source.size(-1)});
    require_dense(b, "b");
    require_shape(b, "b", {width, a.size(0)});
  }
  require_dense(out, "out");
  require_same_shape(out, "out", q, "q");
}

// ---- CPU ----

namespace cpu {
namespace {

constexpr int64_t kTogether = 4;  // groups at a time: their wide rows fit into the cache that cores share

}  // namespace

void source_attention(const View& q, const View& source, const View& wk, const View& wv, Maybe bias, Maybe a, Maybe b,
                      double scaling, int64_t heads, Out out) {
  const int64_t n = q.size(-2), width = q.size(-1), d = width / heads, keys = source.size(-2), in = source.size(-1),
                rank = a ? a.size(0) : 0;
  if (!out.numel()) return;
  if (!keys) return void(std::fill_n(out.data<float>(), out.numel(), 0.0f));
  const int64_t groups = q.numel() / (n * width), rows = heads * n, ld = padded(keys);
  const Right into = weight_rows(wk), back = weight_columns(wv);
  std::vector<float> key_bias(size_t(ld), -INFINITY);  // 0 for every key, −∞ behind the last
  std::fill_n(key_bias.begin(), keys, 0.0f);
  const auto normalise = MT_FOR_ISA(softmax_rows);
  const float scale = float(1 / std::sqrt(double(d)));
  // A head's weights are read once for several groups, but not for so many that threads would have no group.
  const int64_t together = std::clamp<int64_t>(groups / threads(), 1, kTogether);
  const auto work = [&](int64_t begin, int64_t end) {
    thread_local Scratch wide_scratch, score_scratch, low_scratch;
    float* scores = score_scratch.floats(rows * ld);
    float* wide = wide_scratch.floats(together * rows * in);  // of every group, head by head: q W_k, later P E
    float* low = rank ? low_scratch.floats(together * rows * rank) : nullptr;
    const auto wide_of = [&](int64_t i, int64_t h) { return wide + (i * rows + h * n) * in; };
    for (int64_t g = begin * together, count; g < std::min(groups, end * together); g += count) {
      count = std::min(together, groups - g);
      for (int64_t h = 0; h < heads; ++h)  // q W_k/√d: (n, d)·(d, in) of each head
        for (int64_t i = 0; i < count; ++i)
          matmul(n, in, d, {q.data<float>() + (g + i) * n * width + h * d, DType::f32, width, 1},
                 rows_of(into, h * d, width), {wide_of(i, h), DType::f32, in}, {.alpha = scale});
      for (int64_t i = 0; i < count; ++i) {
        const float* e = source.data<float>() + (g + i) * keys * in;
        // S = (q W_k/√d) Eᵀ: (heads·n, in)·(in, keys); P; P E: (heads·n, keys)·(keys, in)
        matmul(rows, keys, in, {wide_of(i, 0), DType::f32, in, 1}, {e, DType::f32, 1, in}, {scores, DType::f32, ld});
        normalise(scores, ld, rows, key_bias.data(), keys);
        matmul(rows, in, keys, {scores, DType::f32, ld, 1}, {e, DType::f32, in, 1}, {wide_of(i, 0), DType::f32, in});
      }
      // P E Aᵀ: (count·heads·n, in)·(in, rank)
      if (rank) matmul(count * rows, rank, in, {wide, DType::f32, in, 1}, right_transposed(a), {low, DType::f32, rank});
      for (int64_t h = 0; h < heads; ++h)  // out = P E W_vᵀ + b_v + scaling·(P E Aᵀ) Bᵀ: (n, in)·(in, d) of each head
        for (int64_t i = 0; i < count; ++i) {
          LowRank update{};
          if (rank)
            update = {low + (i * rows + h * n) * rank, rank, columns_of(right_transposed(b), h * d, rank),
                      float(scaling)};
          matmul(n, d, in, {wide_of(i, h), DType::f32, in, 1}, columns_of(back, h * d, in),
                 {out.data<float>() + (g + i) * n * width + h * d, DType::f32, width},
                 {.bias = bias ? bias.data<float>() + h * d : nullptr, .low_rank = rank ? &update : nullptr});
        }
    }
  };
  // With fewer groups than threads, the threads share each matrix product instead.
  const int64_t turns = (groups + together - 1) / together;
  if (groups < threads()) work(0, turns);
  else parallel_for(turns, together * rows * in * (keys + d) / 8, work);
}

}  // namespace cpu
}  // namespace mt
