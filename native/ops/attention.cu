#include "ops/attention.h"

#include <type_traits>

#include "kernels/cuda/attention.h"

namespace mt::cuda {
namespace {

template <typename E>
Rows<E> rows(const View& v) {
  if (!v) return {nullptr, 0, 0, 0, 0};
  return {v.data<std::remove_const_t<E>>(), v.stride[0], v.stride[1], v.stride[2], v.stride[3]};
}

/// All but the results, and what they are made of in backward.
template <typename T>
Attention<T> arguments(const View& q, const View& k, const View& v, const View& key_mask, const View& masks,
                       const View& alpha, const View& bias, int64_t mode, bool causal, double scale, const View& lse) {
  Attention<T> a{};
  a.q = rows<const T>(q);
  a.k = rows<const T>(k);
  a.v = rows<const T>(v);
  if (key_mask)
    a.key_mask = key_mask.data<uint8_t>(), a.key_b0 = key_mask.stride[0], a.key_b1 = key_mask.stride[1],
    a.key_row = key_mask.stride[2];
  a.routing = routing_of(mode);
  a.p = 1;
  if (a.routing != Routing::off) {
    a.masks = masks.data<uint8_t>(), a.mask_q = masks.stride[0], a.mask_k = masks.stride[1];
    a.alpha = alpha.data<float>(), a.alpha_b0 = alpha.stride[0], a.alpha_b1 = alpha.stride[1],
    a.alpha_j = alpha.stride[2];
    a.p = int(alpha.shape[2]);
  }
  if (bias) a.bias = bias.data<float>(), a.bias_head = bias.stride[0], a.bias_step = bias.stride[1];
  a.lse = lse.data<float>();
  a.units = q.shape[0] * q.shape[1] * q.shape[3];
  a.nq = int(q.shape[2]);
  a.nk = int(k.shape[2]);
  a.d = int(q.shape[4]);
  a.heads = int(q.shape[3]);
  a.b1 = int(q.shape[1]);
  a.causal = causal;
  a.scale = float(scale);
  return a;
}

}  // namespace

void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, Maybe bias,
                       int64_t mode, bool causal, double scale, ActOut out, Out lse) {
  if (!out.numel()) return;
  each_activation(q.dtype, [&](auto t) {
    using T = decltype(t);
    auto a = arguments<T>(q, k, v, key_mask, masks, alpha, bias, mode, causal, scale, lse);
    a.out = rows<T>(out);
    attention_forward(a);
  });
}

void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, Maybe bias, int64_t mode, bool causal, double scale, const View& lse,
                        MaybeActOut dq, MaybeActOut dk, MaybeActOut dv, MaybeOut dalpha) {
  each_activation(q.dtype, [&](auto t) {
    using T = decltype(t);
    auto a = arguments<T>(q, k, v, key_mask, masks, alpha, bias, mode, causal, scale, lse);
    a.dout = rows<const T>(dout);
    a.dq = rows<T>(dq);
    a.dk = rows<T>(dk);
    a.dv = rows<T>(dv);
    attention_backward(a, dalpha);
  });
}

}  // namespace mt::cuda
