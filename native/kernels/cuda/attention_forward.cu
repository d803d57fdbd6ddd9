#include <type_traits>

#include "kernels/cuda/attention_general.h"
#include "kernels/cuda/attention_mma_forward.h"

namespace mt::cuda {
namespace {

/// Merges the results of the pieces of the keys, in their order: out = Σ w_s part_s, w the softmax of the pieces' lse.
/// A thread per element of out; the first one of a row saves the row's lse.
__global__ void __launch_bounds__(kThreads) merge_pieces(Attention<bf16> a, const float* lse, int splits) {
  int64_t i = thread_index(), rows = a.units * a.nq;
  if (i >= rows * a.d) return;
  int64_t row = i / a.d;
  float run_max = kNone, sum = 0, x = 0;
  for (int s = 0; s < splits; ++s) run_max = fmaxf(run_max, lse[s * rows + row]);
  for (int s = 0; s < splits && run_max != kNone; ++s) {
    float w = __expf(lse[s * rows + row] - run_max);
    sum += w;
    x += w * a.parts[s * rows * a.d + i];
  }
  UnitIndex at(a, row / a.nq);
  at(a.out)[row % a.nq * a.out.row + i % a.d] = bf16(sum > 0 ? x / sum : 0.0f);
  if (i % a.d == 0) a.lse[row] = log_sum_exp(run_max, sum);
}

template <typename T>
void general(const Attention<T>& a) {
  each_tile(a, [&](auto G, auto R, auto biased) {
    using Form = General<T, G(), R(), biased()>;
    int tiles = pieces(a.nq, Form::B), chunks = pieces(a.d, kColumns);
    launch(general_forward<T, G(), R(), biased()>, dim3(unsigned(a.units * tiles * chunks)), dim3(Form::kBlock),
           sizeof(typename Form::Shared), a, tiles, chunks);
  });
}

/// f(D): the padded width of a head.
template <typename F>
void each_width(const Attention<bf16>& a, F f) {
  const int width = padded_width(a.d);
  width == 64   ? f(std::integral_constant<int, 64>{})
  : width == 96 ? f(std::integral_constant<int, 96>{})
                : f(std::integral_constant<int, 128>{});
}

/// False where the keys do not fit into shared memory.
bool on_tensor_cores(Attention<bf16> a) {
  if (!suits_tensor_cores(a)) return false;
  const Cut cut = forward_cut({a.units, a.nq, a.nk, a.d, a.mixes(), a.routing == Routing::off}, room());
  if (!cut.units) return false;
  const int64_t rows = a.units * a.nq;
  const bool split = cut.splits > 1;
  const Scratch parts(split ? size_t(cut.splits * rows * a.d) * sizeof(float) : 0),
      lse(split ? size_t(cut.splits * rows) * sizeof(float) : 0);
  a.parts = parts.as<float>();
  Attention<bf16> pass = a;
  if (split) pass.lse = lse.as<float>();
  each_width(a, [&](auto D) {
    auto kernel = mma_forward<D(), false, false>;
    if constexpr (D() == 64) {
      if (a.routing != Routing::off) kernel = mma_forward<64, true, false>;
      else if (a.bias) kernel = mma_forward<64, false, true>;
    }
    launch(kernel, dim3(unsigned(forward_blocks(a.units, cut))), dim3(unsigned(32 * cut.units * cut.warps)),
           forward_bytes(D(), cut), pass, cut);
  });
  if (split) launch(merge_pieces, blocks(rows * a.d), dim3(kThreads), 0, a, (const float*)lse.as<float>(), cut.splits);
  return true;
}

}  // namespace

void attention_forward(const Attention<float>& a) { general(a); }
void attention_forward(const Attention<bf16>& a) {
  if (!on_tensor_cores(a)) general(a);
}

}  // namespace mt::cuda
