#include "ops/attention.h"

#include <algorithm>
#include <vector>

#include "core/blocks.h"
#include "core/parallel.h"
#include "kernels/cpu/attention_unit.h"

#define MT_EACH_ISA "kernels/cpu/attention_backward.h"
#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

namespace {

void require_head_rows(const View& v, const char* what) {
  require_dtype(v, what, DType::f32);
  require_rank(v, what, 5);
  require(v.stride[4] == 1 || v.shape[4] == 1, what, ": expected stride 1 in the last dimension, but got ", v.stride[4],
          "; call contiguous() first.");
}

/// An output: no two elements may share memory; only strides of 0 are looked for.
void require_writable(const View& v, const char* what) {
  if (!v.numel()) return;
  for (int i = 0; i < v.rank; ++i)
    require(v.stride[i] != 0 || v.shape[i] <= 1, what,
            ": expected an output whose dimensions do not repeat, but dimension ", i, " has stride 0.");
}

/// All arguments but the output.
void check_inputs(const View& q, const View& k, const View& v, const Maybe& key_mask, const Maybe& masks,
                  const Maybe& alpha, const Maybe& bias, Routing routing, const View& lse) {
  require_head_rows(q, "q");
  require_head_rows(k, "k");
  require_head_rows(v, "v");
  int64_t b0 = q.shape[0], b1 = q.shape[1], nq = q.shape[2], h = q.shape[3], d = q.shape[4], nk = k.shape[2];
  require(d >= 1, "q: expected a head width of at least 1, but got shape ", shape_text(q), ".");
  require_shape(k, "k", {b0, b1, nk, h, d});
  require_same_shape(v, "v", k, "k");
  const bool routed = routing != Routing::off;
  if (key_mask) {
    require_dtype(key_mask, "key_mask", DType::u8);
    require_shape(key_mask, "key_mask", {b0, b1, nk});
  }
  for (const auto& [v, what] : {std::pair<const View&, const char*>{masks, "masks"}, {alpha, "alpha"}})
    require(bool(v) == routed, what, ": expected ",
            routed ? "a tensor in this mode, but got none." : "none in mode 0 (off), but got a tensor.");
  if (bias) {
    require(!routed, "bias: expected none with masks, but got a tensor.");
    require_dtype(bias, "bias", DType::f32);
    require_shape(bias, "bias", {h, std::max<int64_t>(0, nq + nk - 1)});
  }
  int64_t p = 1;
  if (routed) {
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
  require_shape(lse, "lse", {b0, b1, h, nq, softmaxes(routing, int(p))});
}

void check_like(const View& v, const char* what, const View& x, const char* whose) {
  require_head_rows(v, what);
  require_same_shape(v, what, x, whose);
}

}  // namespace

void check_attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha,
                             Maybe bias, int64_t mode, bool, double, ActOut out, Out lse) {
  check_inputs(q, k, v, key_mask, masks, alpha, bias, routing_of(mode), lse);
  check_like(out, "out", q, "q");
  require_writable(out, "out");
}

void check_attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                              Maybe alpha, Maybe bias, int64_t mode, bool, double, const View& lse, MaybeActOut dq,
                              MaybeActOut dk, MaybeActOut dv, MaybeOut dalpha) {
  check_inputs(q, k, v, key_mask, masks, alpha, bias, routing_of(mode), lse);
  check_like(dout, "dout", q, "q");
  if (dq) {
    check_like(dq, "dq", q, "q");
    require_writable(dq, "dq");
  }
  if (dk) {
    check_like(dk, "dk", k, "k");
    require_writable(dk, "dk");
  }
  if (dv) {
    check_like(dv, "dv", v, "v");
    require_writable(dv, "dv");
  }
  if (!dalpha) return;
  require(routing_of(mode) != Routing::off, "dalpha: expected none in mode 0 (off), but got a tensor.");
  require_dense(dalpha, "dalpha");
  require_same_shape(dalpha, "dalpha", alpha, "alpha");
}

// ---- CPU ----

namespace cpu {
namespace {

/// A unit's batch and head.
struct UnitIndex {
  int64_t i0, i1, head;
};

template <typename T>
T* rows_at(const View& v, const UnitIndex& at) {
  return v.data<T>() + at.i0 * v.stride[0] + at.i1 * v.stride[1] + at.head * v.stride[3];
}

/// What the units of a call have in common.
struct Call {
  const View &q, &k, &v, &key_mask, &masks, &alpha, &bias, &lse;
  Routing routing;
  bool causal;
  float scale;
  std::vector<int32_t> bits = {};  // [nq, padded(nk)]: masks, as wide as floats

  int64_t heads() const { return q.shape[3]; }
  int64_t units() const { return q.shape[0] * q.shape[1] * q.shape[3]; }
  /// A unit's work, for parallel_for().
  int64_t cost() const {
    return q.shape[2] * k.shape[2] * (q.shape[4] / 4 + 4) + (q.shape[2] + k.shape[2]) * q.shape[4];
  }

  void widen_masks() {
    if (routing == Routing::off) return;
    int64_t nq = masks.shape[0], nk = masks.shape[1], ld = padded(nk);
    bits.resize(size_t(nq * ld));
    for (int64_t i = 0; i < nq; ++i)
      for (int64_t j = 0; j < nk; ++j)
        bits[size_t(i * ld + j)] = masks.data<uint8_t>()[i * masks.stride[0] + j * masks.stride[1]];
  }

  UnitIndex at(int64_t unit) const {
    return {unit / heads() / q.shape[1], unit / heads() % q.shape[1], unit % heads()};
  }

  /// A kernel's argument without its rows. `key_bias` lives as long as the unit.
  AttentionUnit unit(int64_t index, std::vector<float>& key_bias) const {
    const auto [i0, i1, head] = at(index);
    AttentionUnit u{};
    u.nq = q.shape[2];
    u.nk = u.keys = k.shape[2];
    u.d = q.shape[4];
    u.shift = causal ? u.nk - u.nq : u.nk;
    u.routing = routing;
    u.p = routing == Routing::off ? 1 : int(alpha.shape[2]);
    u.scale = scale;
    key_bias.assign(size_t(padded(u.nk)), -INFINITY);
    const uint8_t* is_token = key_mask ? key_mask.data<uint8_t>() + i0 * key_mask.stride[0] + i1 * key_mask.stride[1]
                                       : nullptr;
    for (int64_t j = 0; j < u.nk; ++j)
      if (!is_token || is_token[j * key_mask.stride[2]]) key_bias[size_t(j)] = 0;
    while (u.keys > 0 && key_bias[size_t(u.keys - 1)] != 0) --u.keys;
    u.key_bias = key_bias.data();
    u.masks = bits.data();
    if (bias) {
      u.bias = bias.data<float>() + head * bias.stride[0];
      u.bias_stride = bias.stride[1];
    }
    if (routing != Routing::off)
      for (int j = 0; j < u.p; ++j)
        u.alpha[j] = alpha.data<float>()[i0 * alpha.stride[0] + i1 * alpha.stride[1] + j * alpha.stride[2]];
    u.lse = lse.data<float>() + index * u.nq * u.m();
    return u;
  }
};

/// A unit's rows as float32. float32 rows are used in place; bfloat16 ones are copied to the thread's memory, and
/// finish() rounds the results back.
class UnitRows {
 public:
  UnitRows(const Call& call, int64_t unit) : at_(call.at(unit)), d_(call.q.shape[4]) {
    thread_local Scratch mine;
    if (call.q.dtype == DType::bf16)
      next_ = mine.floats((3 * call.q.shape[2] + 4 * call.k.shape[2]) * d_);  // enough for backward
  }
  HeadRows<const float> read(const View& v) {
    if (!next_) return {rows_at<float>(v, at_), v.stride[2]};
    float* copies = take(v);
    for (int64_t r = 0; r < v.shape[2]; ++r)
      MT_FOR_ISA(widen_row)(rows_at<bf16>(v, at_) + r * v.stride[2], copies + r * d_, d_);
    return {copies, d_};
  }
  /// Null where no result is wanted.
  HeadRows<float> write(const View& v) {
    if (!v) return {};
    if (!next_) return {rows_at<float>(v, at_), v.stride[2]};
    float* copies = take(v);
    results_[count_++] = {&v, copies};
    return {copies, d_};
  }
  void finish() const {
    for (int i = 0; i < count_; ++i) {
      const auto [v, from] = results_[i];
      for (int64_t r = 0; r < v->shape[2]; ++r)
        MT_FOR_ISA(narrow_row)(from + r * d_, rows_at<bf16>(*v, at_) + r * v->stride[2], d_);
    }
  }

 private:
  struct Result {
    const View* view;
    const float* copies;
  };
  float* take(const View& v) {
    next_ += v.shape[2] * d_;
    return next_ - v.shape[2] * d_;
  }

  UnitIndex at_;
  int64_t d_;
  float* next_ = nullptr;
  Result results_[3];
  int count_ = 0;
};

/// The fewest queries that lie across the lanes: with fewer, most lanes of the narrowest vector would be idle.
constexpr int64_t kLeastAcross = 4;

using Kernel = void (*)(const AttentionUnit&);

#ifdef MT_X86
#define MT_KERNELS(name) mt::portable::name, mt::avx2::name, mt::avx512::name
/// The widest kernel that this machine runs, unless `n` numbers across its lanes would leave most of them idle.
Kernel choose(Kernel portable, Kernel avx2, Kernel avx512, int64_t n) {
  if (isa() == Isa::avx512 && n > 8) return avx512;
  return isa() >= Isa::avx2 ? avx2 : portable;
}
#else
#define MT_KERNELS(name) MT_FOR_ISA(name)
Kernel choose(Kernel only, int64_t) { return only; }
#endif

}  // namespace

void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, Maybe bias,
                       int64_t mode, bool causal, double scale, ActOut out, Out lse) {
  if (!out.numel()) return;
  Call call{q, k, v, key_mask, masks, alpha, bias, lse, routing_of(mode), causal, float(scale)};
  call.widen_masks();
  const bool across = call.routing == Routing::off && !causal && !bias && q.shape[2] >= kLeastAcross;
  Kernel run = across ? choose(MT_KERNELS(forward_across), q.shape[2]) : choose(MT_KERNELS(forward), k.shape[2]);
  parallel_for(call.units(), call.cost(), [&](int64_t begin, int64_t end) {
    std::vector<float> key_bias;
    for (int64_t i = begin; i < end; ++i) {
      AttentionUnit u = call.unit(i, key_bias);
      UnitRows rows(call, i);
      u.q = rows.read(q);
      u.k = rows.read(k);
      u.v = rows.read(v);
      u.out = rows.write(out);
      run(u);
      rows.finish();
    }
  });
}

void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, Maybe bias, int64_t mode, bool causal, double scale, const View& lse,
                        MaybeActOut dq, MaybeActOut dk, MaybeActOut dv, MaybeOut dalpha) {
  Call call{q, k, v, key_mask, masks, alpha, bias, lse, routing_of(mode), causal, float(scale)};
  call.widen_masks();
  Kernel run = choose(MT_KERNELS(backward), k.shape[2]);
  const int64_t heads = call.heads(), p = dalpha ? dalpha.shape[2] : 0;
  std::vector<double> shares(size_t(call.units() * p), 0.0);  // [units, p]
  parallel_for(call.units(), 3 * call.cost(), [&](int64_t begin, int64_t end) {
    std::vector<float> key_bias;
    for (int64_t i = begin; i < end; ++i) {
      AttentionUnit u = call.unit(i, key_bias);
      u.dalpha = dalpha ? shares.data() + i * p : nullptr;
      UnitRows rows(call, i);
      u.q = rows.read(q);
      u.k = rows.read(k);
      u.v = rows.read(v);
      u.dout = rows.read(dout);
      u.dq = rows.write(dq);
      u.dk = rows.write(dk);
      u.dv = rows.write(dv);
      run(u);
      rows.finish();
    }
  });
  if (!dalpha) return;
  float* to = dalpha.data<float>();
  for (int64_t b = 0; b < q.shape[0] * q.shape[1]; ++b)
    for (int64_t j = 0; j < p; ++j) {
      double sum = 0;  // over heads, in their order
      for (int64_t head = 0; head < heads; ++head) sum += shares[size_t((b * heads + head) * p + j)];
      to[b * p + j] = float(sum);
    }
}

}  // namespace cpu
}  // namespace mt
