// Twins that are still to be written: each says so. A twin in a file of its own takes the place of the one here.
#include <stdexcept>

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

namespace mt::cuda {
__attribute__((weak)) void attention_forward(const View&, const View&, const View&, Maybe, Maybe, Maybe, int64_t, bool, Out, Out) { throw std::runtime_error("has no CUDA twin yet"); }
__attribute__((weak)) void attention_backward(const View&, const View&, const View&, const View&, Maybe, Maybe, Maybe, int64_t, bool, const View&, MaybeOut, MaybeOut, MaybeOut, MaybeOut) { throw std::runtime_error("has no CUDA twin yet"); }
__attribute__((weak)) void gemm_forward(const View&, const View&, const Maybe&, Out) { throw std::runtime_error("has no CUDA twin yet"); }
__attribute__((weak)) void gemm_backward_input(const View&, const View&, Out) { throw std::runtime_error("has no CUDA twin yet"); }
__attribute__((weak)) void gemm_backward_weight(const View&, const View&, MaybeOut, MaybeOut) { throw std::runtime_error("has no CUDA twin yet"); }
__attribute__((weak)) void lora_forward(const View&, const View&, const Maybe&, const View&, const View&, double, Out, Out) { throw std::runtime_error("has no CUDA twin yet"); }
__attribute__((weak)) void lora_backward(const View&, const View&, const View&, const View&, const View&, const View&, double, MaybeOut, Out, Out) { throw std::runtime_error("has no CUDA twin yet"); }
}

