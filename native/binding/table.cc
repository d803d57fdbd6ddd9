// The registry: one line per operator. JavaScript's name, the check, the CPU twin.
#include "binding/bind.h"
#include "ops/elementwise.h"

namespace mt::binding {

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
  };
  return operators;
}

}  // namespace mt::binding
