// The registry: one line per operator. JavaScript's name, the check, the CPU twin.
#include "binding/bind.h"
#include "core/overlap.h"
#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/copy.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gemm.h"
#include "ops/layernorm.h"
#include "ops/lora.h"
#include "ops/patchify.h"
#include "ops/reduce.h"
#include "ops/rmsnorm.h"
#include "ops/rope.h"
#include "ops/router.h"
#include "ops/swap.h"

namespace mt::binding {

void check_outputs(const Role* roles, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (!roles[i].written || !*roles[i].view) continue;
    const View& out = *roles[i].view;
    require(!out.storage->read_only(), "argument ", i + 1, ": expected an output with memory of its own, but got a tensor that lies in a file; copy it first.");
    require(!repeats(out), "argument ", i + 1, ": expected an output that has each element once, but got a view that repeats, of shape ", shape_text(out), ".");
    for (size_t j = 0; j < count; ++j)
      require(i == j || !roles[j].view || !*roles[j].view || !overlap(out, *roles[j].view), "argument ", i + 1,
              ": expected an output with memory of its own, but got one that shares elements with argument ", j + 1, ".");
  }
}

const std::vector<Operator>& table() {
  static const std::vector<Operator> operators = {
      op<check_add, cpu::add>("add"),
      op<check_scale, cpu::scale>("scale"),
      op<check_multiply, cpu::multiply>("multiply"),
      op<check_gelu_forward, cpu::gelu_forward>("gelu_forward"),
      op<check_gelu_backward, cpu::gelu_backward>("gelu_backward"),
      op<check_relu_forward, cpu::relu_forward>("relu_forward"),
      op<check_relu_backward, cpu::relu_backward>("relu_backward"),
      op<check_silu_mul_forward, cpu::silu_mul_forward>("silu_mul_forward"),
      op<check_silu_mul_backward, cpu::silu_mul_backward>("silu_mul_backward"),
      op<check_gate_forward, cpu::gate_forward>("gate_forward"),
      op<check_gate_backward, cpu::gate_backward>("gate_backward"),
      op<check_gemm_forward, cpu::gemm_forward>("gemm_forward"),
      op<check_gemm_backward_input, cpu::gemm_backward_input>("gemm_backward_input"),
      op<check_gemm_backward_weight, cpu::gemm_backward_weight>("gemm_backward_weight"),
      op<check_lora_forward, cpu::lora_forward>("lora_forward"),
      op<check_lora_backward, cpu::lora_backward>("lora_backward"),
      op<check_copy, cpu::copy>("copy"),
      op<check_fill, cpu::fill>("fill"),
      op<check_random_uniform, cpu::random_uniform>("random_uniform"),
      op<check_random_normal, cpu::random_normal>("random_normal"),
      op<check_swap, cpu::swap>("swap"),
      op<check_layernorm_forward, cpu::layernorm_forward>("layernorm_forward"),
      op<check_layernorm_backward, cpu::layernorm_backward>("layernorm_backward"),
      op<check_rmsnorm_forward, cpu::rmsnorm_forward>("rmsnorm_forward"),
      op<check_rmsnorm_backward, cpu::rmsnorm_backward>("rmsnorm_backward"),
      op<check_embedding_forward, cpu::embedding_forward>("embedding_forward"),
      op<check_embedding_backward, cpu::embedding_backward>("embedding_backward"),
      op<check_rope_forward, cpu::rope_forward>("rope_forward"),
      op<check_patchify_forward, cpu::patchify_forward>("patchify_forward"),
      op<check_patchify_backward, cpu::patchify_backward>("patchify_backward"),
      op<check_reduce_forward, cpu::reduce_forward>("reduce_forward"),
      op<check_reduce_backward, cpu::reduce_backward>("reduce_backward"),
      op<check_cross_entropy_forward, cpu::cross_entropy_forward>("cross_entropy_forward"),
      op<check_cross_entropy_backward, cpu::cross_entropy_backward>("cross_entropy_backward"),
      op<check_attention_forward, cpu::attention_forward>("attention_forward"),
      op<check_attention_backward, cpu::attention_backward>("attention_backward"),
      op<check_router_forward, cpu::router_forward>("router_forward"),
      op<check_router_backward, cpu::router_backward>("router_backward"),
      op<check_square_sum, cpu::square_sum>("square_sum"),
      op<check_adamw, cpu::adamw>("adamw"),
  };
  return operators;
}

}  // namespace mt::binding
