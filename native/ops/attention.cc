#include "ops/attention.h"

#include <vector>

#include "core/blocks.h"
#include "core/parallel.h"
#include "kernels/cpu/attention_unit.h"
#include "kernels/cpu/linear.h"

#define MT_EACH_ISA "kernels/cpu/attention_backward.h"
#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

namespace {

void rows_of(const View& v, const char* what) {
  require_dtype(v, what, DType::f32);
  require_rank(v, what, 5);
  require(v.stride[4] == 1 || v.shape[4] == 1, what, ": expected stride 1 in the last dimension, but got ", v.stride[4],
          "; call contiguous() first.");
}

/// An output: each element has a place of its own, as far as strides of 0 tell.
void written(const View& v, const char* what) {
  if (!v.numel()) return;
  for (int i = 0; i < v.rank; ++i)
    require(v.stride[i] != 0 || v.shape[i] <= 1, what,
            ": expected an output whose dimensions do not repeat, but dimension ", i, " has stride 0.");
}

/// All but the output.
void check_inputs(const View& q, const View& k, const View& v, const Maybe& key_mask, const Maybe& masks,
                  const Maybe& alpha, int64_t mode, const View& lse) {
  rows_of(q, "q");
  rows_of(k, "k");
  rows_of(v, "v");
  int64_t b0 = q.shape[0], b1 = q.shape[1], nq = q.shape[2], h = q.shape[3], d = q.shape[4], nk = k.shape[2];
  require(d >= 1, "q: expected a head width of at least 1, but got shape ", shape_text(q), ".");
  require_shape(k, "k", {b0, b1, nk, h, d});
  require_same_shape(v, "v", k, "k");
  require(mode >= 0 && mode <= 2, "mode: expected 0 (off), 1 (score) or 2 (attention), but got ", mode, ".");
  if (key_mask) {
    require_dtype(key_mask, "key_mask", DType::u8);
    require_shape(key_mask, "key_mask", {b0, b1, nk});
  }
  require(bool(masks) == (mode != 0), "masks: expected ",
          mode ? "a tensor in this mode, but got none." : "none in mode 0 (off), but got a tensor.");
  require(bool(alpha) == (mode != 0), "alpha: expected ",
          mode ? "a tensor in this mode, but got none." : "none in mode 0 (off), but got a tensor.");
  int64_t p = 1;
  if (mode) {
    require_dtype(masks, "masks", DType::u8);
    require_shape(masks, "masks", {nq, nk});
    require_dtype(alpha, "alpha", DType::f32);
    require_rank(alpha, "alpha", 3);
    p = alpha.shape[2];
    require_shape(alpha, "alpha", {b0, b1, p});
    require(p >= 1 && p <= kMostChoices, "alpha: expected 1 to ", kMostChoices, " choices, but got shape ",
            shape_text(alpha), ".");
  }
  require_dense(lse, "lse");
  require_shape(lse, "lse", {b0, b1, h, nq, mode == 2 ? p : 1});
}

void check_like(const View& v, const char* what, const View& x, const char* whose) {
  rows_of(v, what);
  require_same_shape(v, what, x, whose);
}

}  // namespace

void check_attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha,
                             int64_t mode, bool, ActOut out, Out lse) {
  check_inputs(q, k, v, key_mask, masks, alpha, mode, lse);
  check_like(out, "out", q, "q");
  written(out, "out");
}

void check_attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                              Maybe alpha, int64_t mode, bool, const View& lse, MaybeActOut dq, MaybeActOut dk,
                              MaybeActOut dv, MaybeOut dalpha) {
  check_inputs(q, k, v, key_mask, masks, alpha, mode, lse);
  check_like(dout, "dout", q, "q");
  if (dq) {
    check_like(dq, "dq", q, "q");
    written(dq, "dq");
  }
  if (dk) {
    check_like(dk, "dk", k, "k");
    written(dk, "dk");
  }
  if (dv) {
    check_like(dv, "dv", v, "v");
    written(dv, "dv");
  }
  if (!dalpha) return;
  require(mode != 0, "dalpha: expected none in mode 0 (off), but got a tensor.");
  require_dense(dalpha, "dalpha");
  require_same_shape(dalpha, "dalpha", alpha, "alpha");
}

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

/// Which unit of a call: its batch and its head.
struct Place {
  int64_t i0, i1, head;
};

template <typename T>
T* rows_at(const View& v, const Place& at) {
  return v.data<T>() + at.i0 * v.stride[0] + at.i1 * v.stride[1] + at.head * v.stride[3];
}

/// What all units of a call share, and each unit but for its rows.
struct Call {
  const View &q, &k, &v, &key_mask, &masks, &alpha, &lse;
  int64_t mode;
  bool causal;
  std::vector<int32_t> bits;  // masks, wide and padded

  int64_t heads() const { return q.shape[3]; }
  int64_t units() const { return q.shape[0] * q.shape[1] * q.shape[3]; }
  int64_t cost() const {
    return q.shape[2] * k.shape[2] * (q.shape[4] / 4 + 4) + (q.shape[2] + k.shape[2]) * q.shape[4];
  }

  Call(const View& q, const View& k, const View& v, const View& key_mask, const View& masks, const View& alpha,
       const View& lse, int64_t mode, bool causal)
      : q(q), k(k), v(v), key_mask(key_mask), masks(masks), alpha(alpha), lse(lse), mode(mode), causal(causal) {
    if (!mode) return;
    int64_t nq = masks.shape[0], nk = masks.shape[1], ld = padded(nk);
    bits.resize(size_t(nq * ld));
    for (int64_t i = 0; i < nq; ++i)
      for (int64_t j = 0; j < nk; ++j)
        bits[size_t(i * ld + j)] = masks.data<uint8_t>()[i * masks.stride[0] + j * masks.stride[1]];
  }

  Place place(int64_t index) const {
    return {index / heads() / q.shape[1], index / heads() % q.shape[1], index % heads()};
  }

  /// `bias` lives as long as the unit.
  AttentionUnit unit(int64_t index, std::vector<float>& bias) const {
    const auto [i0, i1, head] = place(index);
    AttentionUnit u{};
    u.nq = q.shape[2];
    u.nk = u.keys = k.shape[2];
    u.d = q.shape[4];
    u.shift = causal ? u.nk - u.nq : u.nk;
    u.mode = int(mode);
    u.p = mode ? int(alpha.shape[2]) : 1;
    u.scale = float(1 / std::sqrt(double(u.d)));
    bias.assign(size_t(padded(u.nk)), -INFINITY);
    const uint8_t* kept = key_mask ? key_mask.data<uint8_t>() + i0 * key_mask.stride[0] + i1 * key_mask.stride[1]
                                   : nullptr;
    for (int64_t j = 0; j < u.nk; ++j)
      if (!kept || kept[j * key_mask.stride[2]]) bias[size_t(j)] = 0;
    while (u.keys > 0 && bias[size_t(u.keys - 1)] != 0) --u.keys;
    u.bias = bias.data();
    u.masks = bits.data();
    if (mode)
      for (int j = 0; j < u.p; ++j)
        u.alpha[j] = alpha.data<float>()[i0 * alpha.stride[0] + i1 * alpha.stride[1] + j * alpha.stride[2]];
    u.lse = lse.data<float>() + index * u.nq * u.lse_size();
    return u;
  }
};

/// A unit's rows as float32: where they lie, or, of bfloat16, copies in a thread's memory, which finish() rounds into
/// outputs.
class UnitRows {
 public:
  UnitRows(const Call& call, int64_t unit) : at_(call.place(unit)), d_(call.q.shape[4]) {
    thread_local Scratch mine;
    if (call.q.dtype == DType::bf16)
      next_ = mine.floats((3 * call.q.shape[2] + 4 * call.k.shape[2]) * d_);  // all that backward asks for
  }
  void read(const View& v, const float*& first, int64_t& row) {
    if (!next_) return lie(v, first, row);
    float* copies = take(v, row);
    for (int64_t r = 0; r < v.shape[2]; ++r)
      MT_FOR_ISA(widen_row)(rows_at<bf16>(v, at_) + r * v.stride[2], copies + r * d_, d_);
    first = copies;
  }
  /// Nothing where no output is wanted.
  void write(const View& v, float*& first, int64_t& row) {
    if (!v) return;
    if (!next_) return lie(v, first, row);
    first = take(v, row);
    outputs_[count_++] = {&v, first};
  }
  void finish() const {
    for (int i = 0; i < count_; ++i) {
      const auto [v, from] = outputs_[i];
      for (int64_t r = 0; r < v->shape[2]; ++r)
        MT_FOR_ISA(narrow_row)(from + r * d_, rows_at<bf16>(*v, at_) + r * v->stride[2], d_);
    }
  }

 private:
  struct Output {
    const View* view;
    const float* copies;
  };
  template <typename Float>
  void lie(const View& v, Float*& first, int64_t& row) const {
    first = rows_at<float>(v, at_);
    row = v.stride[2];
  }
  float* take(const View& v, int64_t& row) {
    row = d_;
    next_ += v.shape[2] * d_;
    return next_ - v.shape[2] * d_;
  }

  Place at_;
  int64_t d_;
  float* next_ = nullptr;
  Output outputs_[3];
  int count_ = 0;
};

constexpr int64_t kLeastAcross = 4;  // queries that are worth lying across the lanes
constexpr int64_t kTogether = 4;     // groups whose wide rows lie in the cache that cores share

using Kernel = void (*)(const AttentionUnit&);

/// The widest kernel that this machine runs, unless most of its lanes, across which `n` numbers lie, would be idle.
Kernel choose(Kernel portable, [[maybe_unused]] Kernel avx2, [[maybe_unused]] Kernel avx512,
              [[maybe_unused]] int64_t n) {
#ifdef MT_X86
  if (isa() == Isa::avx512 && n > 8) return avx512;
  if (isa() >= Isa::avx2) return avx2;
#endif
  return portable;
}

#ifdef MT_X86
#define MT_KERNELS(name) mt::portable::name, mt::avx2::name, mt::avx512::name
#else
#define MT_KERNELS(name) mt::portable::name, nullptr, nullptr
#endif

}  // namespace

void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, int64_t mode,
                       bool causal, ActOut out, Out lse) {
  if (!out.numel()) return;
  Call call(q, k, v, key_mask, masks, alpha, lse, mode, causal);
  const bool across = !mode && !causal && q.shape[2] >= kLeastAcross;
  Kernel run = across ? choose(MT_KERNELS(forward_across), q.shape[2]) : choose(MT_KERNELS(forward), k.shape[2]);
  parallel_for(call.units(), call.cost(), [&](int64_t begin, int64_t end) {
    std::vector<float> bias;
    for (int64_t i = begin; i < end; ++i) {
      AttentionUnit u = call.unit(i, bias);
      UnitRows rows(call, i);
      rows.read(q, u.q, u.q_row);
      rows.read(k, u.k, u.k_row);
      rows.read(v, u.v, u.v_row);
      rows.write(out, u.out, u.out_row);
      run(u);
      rows.finish();
    }
  });
}

void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, int64_t mode, bool causal, const View& lse, MaybeActOut dq, MaybeActOut dk,
                        MaybeActOut dv, MaybeOut dalpha) {
  Call call(q, k, v, key_mask, masks, alpha, lse, mode, causal);
  Kernel run = choose(MT_KERNELS(backward), k.shape[2]);
  int64_t h = call.heads(), b1 = q.shape[1], p = mode ? alpha.shape[2] : 0;
  std::vector<double> shares(dalpha ? size_t(call.units() * p) : 0, 0.0);
  parallel_for(call.units(), 3 * call.cost(), [&](int64_t begin, int64_t end) {
    std::vector<float> bias;
    for (int64_t i = begin; i < end; ++i) {
      AttentionUnit u = call.unit(i, bias);
      u.dalpha = dalpha ? shares.data() + i * p : nullptr;
      UnitRows rows(call, i);
      rows.read(q, u.q, u.q_row);
      rows.read(k, u.k, u.k_row);
      rows.read(v, u.v, u.v_row);
      rows.read(dout, u.dout, u.dout_row);
      rows.write(dq, u.dq, u.dq_row);
      rows.write(dk, u.dk, u.dk_row);
      rows.write(dv, u.dv, u.dv_row);
      run(u);
      rows.finish();
    }
  });
  if (!dalpha) return;
  float* to = dalpha.data<float>();
  for (int64_t b = 0; b < q.shape[0] * b1; ++b)
    for (int64_t j = 0; j < p; ++j) {
      double sum = 0;
      for (int64_t head = 0; head < h; ++head) sum += shares[size_t((b * h + head) * p + j)];
      to[b * p + j] = float(sum);
    }
}

void source_attention(const View& q, const View& source, const View& wk, const View& wv, Maybe bias, Maybe a, Maybe b,
                      double scaling, int64_t heads, Out out) {
  const int64_t n = q.size(-2), width = q.size(-1), d = width / heads, keys = source.size(-2), in = source.size(-1),
                rank = a ? a.size(0) : 0;
  if (!out.numel()) return;
  if (!keys) return void(std::fill_n(out.data<float>(), out.numel(), 0.0f));
  const int64_t groups = q.numel() / (n * width), rows = heads * n, ld = padded(keys);
  const Right into = weight(wk), back = weight_transposed(wv);
  std::vector<float> nothing(size_t(ld), -INFINITY);  // a bias that ends where the keys do
  std::fill_n(nothing.begin(), keys, 0.0f);
  const auto normalise = MT_FOR_ISA(softmax_rows);
  const float scale = float(1 / std::sqrt(double(d)));
  // A head's weights are read once for several groups, as many as keep all threads at work.
  const int64_t together = std::clamp<int64_t>(groups / threads(), 1, kTogether);
  const auto some = [&](int64_t begin, int64_t end) {
    thread_local Scratch wide_scratch, score_scratch, low_scratch;
    float* scores = score_scratch.floats(rows * ld);
    float* wide = wide_scratch.floats(together * rows * in);  // of every group, head by head: q W_k, later P E
    float* low = rank ? low_scratch.floats(together * rows * rank) : nullptr;
    const auto wide_of = [&](int64_t i, int64_t h) { return wide + (i * rows + h * n) * in; };
    for (int64_t g = begin * together, count; g < std::min(groups, end * together); g += count) {
      count = std::min(together, groups - g);
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < count; ++i)
          matmul(n, in, d, {q.data<float>() + (g + i) * n * width + h * d, DType::f32, width, 1},
                 rows_of(into, h * d, width), {wide_of(i, h), DType::f32, in}, {.alpha = scale});
      for (int64_t i = 0; i < count; ++i) {
        const float* e = source.data<float>() + (g + i) * keys * in;
        matmul(rows, keys, in, {wide_of(i, 0), DType::f32, in, 1}, {e, DType::f32, 1, in}, {scores, DType::f32, ld});
        normalise(scores, ld, rows, nothing.data(), keys);
        matmul(rows, in, keys, {scores, DType::f32, ld, 1}, {e, DType::f32, in, 1}, {wide_of(i, 0), DType::f32, in});
      }
      if (rank) matmul(count * rows, rank, in, {wide, DType::f32, in, 1}, right_transposed(a), {low, DType::f32, rank});
      for (int64_t h = 0; h < heads; ++h)
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
  // Fewer groups than threads: their products are shared out instead.
  const int64_t turns = (groups + together - 1) / together;
  if (groups < threads()) some(0, turns);
  else parallel_for(turns, together * rows * in * (keys + d) / 8, some);
}

}  // namespace cpu
}  // namespace mt
