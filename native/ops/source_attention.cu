#include "ops/source_attention.h"

#include "ops/attention.h"
#include "ops/gemm.h"
#include "ops/lora.h"

namespace mt::cuda {
namespace {

/// A tensor of the current queue for as long as the operator needs it.
Out temporary(const View& like, std::initializer_list<int64_t> shape, DType dtype) {
  Out v;
  v.dtype = dtype;
  v.rank = int(shape.size());
  std::copy(shape.begin(), shape.end(), v.shape);
  for (int64_t i = v.rank - 1, step = 1; i >= 0; step *= v.shape[i--]) v.stride[i] = step;
  v.storage = std::make_shared<Storage>(size_t(v.numel()) * size_of(dtype));
  v.storage->settle(like.storage->queue());
  v.storage->ensure();
  return v;
}

/// v [...,n,h·d] as [groups,1,n,h,d].
View per_head(const View& v, int64_t groups, int64_t heads) {
  const int64_t n = v.size(-2), width = v.size(-1), d = width / heads;
  View out = v;
  out.rank = 5;
  const int64_t shape[] = {groups, 1, n, heads, d}, stride[] = {n * width, n * width, width, d, 1};
  std::copy_n(shape, 5, out.shape);
  std::copy_n(stride, 5, out.stride);
  return out;
}

}  // namespace

void source_attention(const View& q, const View& source, const View& wk, const View& wv, Maybe bias, Maybe a, Maybe b, double scaling, int64_t heads, Out out) {
  const int64_t n = q.size(-2), width = q.size(-1), keys = source.size(-2);
  if (!out.numel()) return;
  const int64_t groups = q.numel() / (n * width);
  Out result;
  static_cast<View&>(result) = per_head(out, groups, heads);
  const Out lse = temporary(q, {groups, 1, heads, n, 1}, DType::f32);
  View flat = source;  // [groups,K,in], as keys and values will be
  flat.rank = 3;
  const int64_t shape[] = {groups, keys, source.size(-1)}, stride[] = {keys * source.size(-1), source.size(-1), 1};
  std::copy_n(shape, 3, flat.shape);
  std::copy_n(stride, 3, flat.stride);
  const Out k = temporary(q, {groups, keys, width}, q.dtype), v = temporary(q, {groups, keys, width}, q.dtype);
  if (keys) {
    gemm_forward(flat, wk, {}, {}, k);
    if (a) lora_forward(flat, wv, bias, a, b, scaling, v, temporary(q, {groups, keys, a.size(0)}, DType::f32));
    else gemm_forward(flat, wv, bias, {}, v);
  }
  attention_forward(per_head(q, groups, heads), per_head(k, groups, heads), per_head(v, groups, heads), {}, {}, {}, 0, false, result, lse);
}

}  // namespace mt::cuda
