// The registry, one line per operator: its name in JavaScript, the check, the twins.
#include <algorithm>
#include <cstdlib>
#include <tuple>
#include <vector>

#include "binding/bind.h"
#include "core/overlap.h"
#include "core/quantised.h"
#include "ops/adamw.h"
#include "ops/argmax.h"
#include "ops/attention.h"
#include "ops/cache_append.h"
#include "ops/copy.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/layernorm.h"
#include "ops/lora.h"
#include "ops/lora_pack.h"
#include "ops/patchify.h"
#include "ops/quantize.h"
#include "ops/reduce.h"
#include "ops/rmsnorm.h"
#include "ops/rope.h"
#include "ops/router.h"
#include "ops/silu_mul.h"
#include "ops/source_attention.h"
#include "ops/swap.h"

#ifdef MT_CUDA
#define CUDA(twin) cuda::twin
#else
#define CUDA(twin) nullptr
#endif

namespace mt::binding {

bool waits_for_each() {
  static const bool asked = [] {
    const char* s = std::getenv("MT_CUDA_SYNC");
    return s && *s == '1';
  }();
  return asked;
}

Device common_device(const Role* roles, size_t count) {
  size_t first = count;
  for (size_t i = 0; i < count; ++i) {
    if (!roles[i].view || !*roles[i].view || !roles[i].view->storage->device().decided()) continue;
    if (first == count) first = i;
    Device a = roles[first].view->storage->device(), b = roles[i].view->storage->device();
    require(a == b, "argument ", roles[i].argument + 1, ": expected a tensor on ", a, " like argument ",
            roles[first].argument + 1, ", but got one on ", b, "; move it with to().");
  }
  return first == count ? cpu_device : roles[first].view->storage->device();
}

void assign_device(napi_env env, const Role* roles, size_t count, const std::shared_ptr<cuda::Stream>& stream) {
  for (size_t i = 0; i < count; ++i) {
    if (!roles[i].view || !*roles[i].view || roles[i].view->storage->device().decided()) continue;
    roles[i].view->storage->assign_device(stream);
    report(env, *roles[i].view->storage);
  }
}

void retain(cuda::Stream& stream, const Role* roles, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (roles[i].view && *roles[i].view) stream.retain(roles[i].view->storage->block(), roles[i].view->storage);
}

profile::Bytes traffic(const Role* roles, size_t count) {
  profile::Bytes all;
  for (size_t i = 0; i < count; ++i) {
    if (!roles[i].view || !*roles[i].view) continue;
    const View& v = *roles[i].view;
    int64_t bytes = int64_t(is_quantised(v.dtype) ? bytes_of(v) : size_of(v.dtype));
    for (int d = 0; d < v.rank && !is_quantised(v.dtype); ++d)
      if (v.stride[d] || !v.shape[d]) bytes *= v.shape[d];
    if (roles[i].read) all.read += bytes;
    if (roles[i].written) all.written += bytes;
  }
  return all;
}

namespace {
/// Whether no two of the views overlap between their first and last elements. For lists of all trained tensors one pass
/// replaces hundreds of thousands of comparisons by pairs.
bool all_apart(const Role* roles, size_t count) {
  struct Stretch {
    const Storage* storage;
    int64_t first, last;
    bool operator<(const Stretch& o) const { return std::tie(storage, first) < std::tie(o.storage, o.first); }
  };
  std::vector<Stretch> all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i)
    if (const View* v = roles[i].view; v && *v && v->numel())
      all.push_back({v->storage.get(), v->offset, v->offset + reach(*v)});
  std::sort(all.begin(), all.end());
  return std::adjacent_find(all.begin(), all.end(), [](const Stretch& a, const Stretch& b) {
           return a.storage == b.storage && a.last >= b.first;
         }) == all.end();
}
}  // namespace

void check_outputs(const Role* roles, size_t count) {
  constexpr size_t kFew = 16;  // up to which comparing pairs is faster
  const bool apart = count > kFew && all_apart(roles, count);
  for (size_t i = 0; i < count; ++i) {
    if (!roles[i].written || !*roles[i].view) continue;
    const View& out = *roles[i].view;
    require(!out.storage->read_only(), "argument ", roles[i].argument + 1,
            ": expected an output with memory of its own, but got a frozen tensor, one that lies in a file or was "
            "frozen; copy() it first.");
    require(!repeats(out), "argument ", roles[i].argument + 1,
            ": expected an output that has each element once, but got a view that repeats, of shape ", shape_text(out),
            ".");
    for (size_t j = 0; j < count && !apart; ++j)
      require(i == j || !roles[j].view || roles[j].view->storage != out.storage || !overlap(out, *roles[j].view),
              "argument ", roles[i].argument + 1,
              ": expected an output with memory of its own, but got one that shares elements with argument ",
              roles[j].argument + 1, ".");
  }
}

const std::vector<Operator>& registry() {
  static const std::vector<Operator> operators = {
      op<check_add, cpu::add, CUDA(add)>("add"),
      op<check_scale, cpu::scale, CUDA(scale)>("scale"),
      op<check_multiply, cpu::multiply, CUDA(multiply)>("multiply"),
      op<check_gelu_forward, cpu::gelu_forward, CUDA(gelu_forward)>("gelu_forward"),
      op<check_gelu_backward, cpu::gelu_backward, CUDA(gelu_backward)>("gelu_backward"),
      op<check_gelu_tanh_forward, cpu::gelu_tanh_forward, CUDA(gelu_tanh_forward)>("gelu_tanh_forward"),
      op<check_gelu_tanh_backward, cpu::gelu_tanh_backward, CUDA(gelu_tanh_backward)>("gelu_tanh_backward"),
      op<check_relu_forward, cpu::relu_forward, CUDA(relu_forward)>("relu_forward"),
      op<check_relu_backward, cpu::relu_backward, CUDA(relu_backward)>("relu_backward"),
      op<check_silu_mul_forward, cpu::silu_mul_forward, CUDA(silu_mul_forward)>("silu_mul_forward"),
      op<check_silu_mul_backward, cpu::silu_mul_backward, CUDA(silu_mul_backward)>("silu_mul_backward"),
      op<check_gate_forward, cpu::gate_forward, CUDA(gate_forward)>("gate_forward"),
      op<check_gate_backward, cpu::gate_backward, CUDA(gate_backward)>("gate_backward"),
      op<check_linear_forward, cpu::linear_forward, CUDA(linear_forward)>("linear_forward"),
      op<check_linear_gelu_forward, cpu::linear_gelu_forward, CUDA(linear_gelu_forward)>("linear_gelu_forward"),
      op<check_linear_backward_input, cpu::linear_backward_input, CUDA(linear_backward_input)>("linear_backward_input"),
      op<check_linear_backward_weight, cpu::linear_backward_weight, CUDA(linear_backward_weight)>(
          "linear_backward_weight"),
      op<check_lora_forward, cpu::lora_forward, CUDA(lora_forward)>("lora_forward"),
      op<check_lora_backward, cpu::lora_backward, CUDA(lora_backward)>("lora_backward"),
      op<check_lora_pack, cpu::lora_pack, CUDA(lora_pack)>("lora_pack"),
      op<check_lora_unpack, cpu::lora_unpack, CUDA(lora_unpack)>("lora_unpack"),
      op<check_copy, cpu::copy, CUDA(copy)>("copy"),
      op<check_fill, cpu::fill, CUDA(fill)>("fill"),
      op<check_random_uniform, cpu::random_uniform, CUDA(random_uniform)>("random_uniform"),
      op<check_random_normal, cpu::random_normal, CUDA(random_normal)>("random_normal"),
      op<check_swap, cpu::swap, CUDA(swap)>("swap"),
      op<check_layernorm_forward, cpu::layernorm_forward, CUDA(layernorm_forward)>("layernorm_forward"),
      op<check_layernorm_backward, cpu::layernorm_backward, CUDA(layernorm_backward)>("layernorm_backward"),
      op<check_rmsnorm_forward, cpu::rmsnorm_forward, CUDA(rmsnorm_forward)>("rmsnorm_forward"),
      op<check_rmsnorm_backward, cpu::rmsnorm_backward, CUDA(rmsnorm_backward)>("rmsnorm_backward"),
      op<check_embedding_forward, cpu::embedding_forward, CUDA(embedding_forward)>("embedding_forward"),
      op<check_embedding_backward, cpu::embedding_backward, CUDA(embedding_backward)>("embedding_backward"),
      op<check_rope_forward, cpu::rope_forward, CUDA(rope_forward)>("rope_forward"),
      op<check_patchify, cpu::patchify, CUDA(patchify)>("patchify"),
      op<check_quantize, cpu::quantize, nullptr>("quantize"),
      op<check_dequantize, cpu::dequantize, CUDA(dequantize)>("dequantize"),
      op<check_reduce_forward, cpu::reduce_forward, CUDA(reduce_forward)>("reduce_forward"),
      op<check_reduce_backward, cpu::reduce_backward, CUDA(reduce_backward)>("reduce_backward"),
      op<check_cross_entropy_forward, cpu::cross_entropy_forward, CUDA(cross_entropy_forward)>("cross_entropy_forward"),
      op<check_cross_entropy_backward, cpu::cross_entropy_backward, CUDA(cross_entropy_backward)>(
          "cross_entropy_backward"),
      op<check_attention_forward, cpu::attention_forward, CUDA(attention_forward)>("attention_forward"),
      op<check_attention_backward, cpu::attention_backward, CUDA(attention_backward)>("attention_backward"),
      op<check_source_attention, cpu::source_attention, CUDA(source_attention)>("source_attention"),
      op<check_cache_append, cpu::cache_append, CUDA(cache_append)>("cache_append"),
      op<check_argmax, cpu::argmax, CUDA(argmax)>("argmax"),
      op<check_router_forward, cpu::router_forward, CUDA(router_forward)>("router_forward"),
      op<check_router_backward, cpu::router_backward, CUDA(router_backward)>("router_backward"),
      op<check_square_sum, cpu::square_sum, CUDA(square_sum)>("square_sum"),
      op<check_adamw, cpu::adamw, CUDA(adamw)>("adamw"),
      op<check_accumulate, cpu::accumulate, CUDA(accumulate)>("accumulate"),
      op<check_gradient_norm, cpu::gradient_norm, CUDA(gradient_norm)>("gradient_norm"),
      op<check_adamw_schedule, cpu::adamw_schedule, CUDA(adamw_schedule)>("adamw_schedule"),
      op<check_adamw_all, cpu::adamw_all, CUDA(adamw_all)>("adamw_all"),
  };
  return operators;
}

}  // namespace mt::binding
