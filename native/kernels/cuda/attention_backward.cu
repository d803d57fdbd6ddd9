#include <type_traits>

#include "kernels/cuda/attention_general.h"
#include "kernels/cuda/attention_mma_backward.h"

namespace mt::cuda {
namespace {

/// dα[b,j] = the sum of its shares over heads and tiles, in order. A thread per dα[b,j]; n = batch · p.
__global__ void __launch_bounds__(kThreads)
    sum_shares(const float* shares, float* dalpha, int64_t n, int64_t terms, int p) {
  int64_t i = thread_index();
  if (i >= n) return;
  double sum = 0;
  for (int64_t t = 0; t < terms; ++t) sum += double(shares[(i / p * terms + t) * p + i % p]);
  dalpha[i] = float(sum);
}

template <typename T>
void add_shares(const Attention<T>& a, const View& dalpha, int tiles) {
  if (dalpha)
    launch(sum_shares, blocks(dalpha.numel()), dim3(kThreads), 0, (const float*)a.shares, dalpha.data<float>(),
           dalpha.numel(), int64_t(a.heads) * tiles, a.p);
}

template <typename T>
void general(Attention<T> a, const View& dalpha) {
  each_tile(a, [&](auto G, auto R, auto biased) {
    using Form = General<T, G(), R(), biased()>;
    int tiles = pieces(a.nq, Form::B), key_tiles = pieces(a.nk, Form::B), chunks = pieces(a.d, kColumns);
    bool centres = a.dq.data || a.dk.data || dalpha;
    Scratch centre(centres ? size_t(a.units * a.nq * a.m()) * sizeof(float2) : 0),
        shares(dalpha ? size_t(a.units * tiles * a.p) * sizeof(float) : 0);
    a.centre = centre.as<float2>();
    a.shares = shares.as<float>();
    if (centres) {
      int columns = a.dq.data ? chunks : 1;
      launch(general_backward_queries<T, G(), R(), biased()>, dim3(unsigned(a.units * tiles * columns)),
             dim3(Form::kBlock), sizeof(typename Form::Shared), a, tiles, columns);
    }
    if (a.dk.data || a.dv.data)
      launch(general_backward_keys<T, G(), R(), biased()>, dim3(unsigned(a.units * key_tiles * chunks)),
             dim3(Form::kBlock), sizeof(typename Form::Shared), a, key_tiles, chunks);
    add_shares(a, dalpha, tiles);
  });
}

template <typename Kernel>
void launch_side(Kernel kernel, const Attention<bf16>& a, const Cut& cut, int width) {
  const BackwardLayout layout = backward_layout(width, cut, 1, false);
  launch(kernel, dim3(unsigned(a.units * cut.blocks)), dim3(unsigned(32 * cut.warps)), layout.bytes, a, cut);
}

/// On heads padded to D columns. False where the rows do not fit into shared memory.
template <int D, bool biased>
bool on_tensor_cores(Attention<bf16> a, const View& dalpha) {
  const bool masked = a.routing != Routing::off;
  const Cut cut = backward_cut(a.units, a.nq, a.nk, D);
  const BackwardLayout layout = backward_layout(D, cut, a.m(), masked);
  const size_t bytes = size_t(cut.units) * layout.bytes, shared = room().shared;
  if (bytes <= (masked ? shared : std::min(shared, kHalfShared))) {
    Scratch shares(dalpha ? size_t(a.units * a.p) * sizeof(float) : 0);
    a.shares = shares.as<float>();
    auto kernel = mma_backward_unit<D, false, biased>;
    if constexpr (D == 64 && !biased)
      if (masked) kernel = mma_backward_unit<64, true, false>;
    launch(kernel, dim3(unsigned((a.units + cut.units - 1) / cut.units)), dim3(unsigned(32 * cut.units * cut.warps)),
           bytes, a, cut);
    add_shares(a, dalpha, 1);
    return true;
  }
  if (masked) return false;
  Scratch centre(size_t(a.units * a.nq) * sizeof(float2));
  a.centre = centre.as<float2>();
  if (a.dq.data || a.dk.data) launch_side(mma_backward_queries<D, biased>, a, backward_queries_cut(a.nq, a.nk), D);
  if (a.dk.data || a.dv.data) launch_side(mma_backward_keys<D, biased>, a, backward_keys_cut(a.nq, a.nk), D);
  return true;
}

}  // namespace

void attention_backward(const Attention<float>& a, const View& dalpha) { general(a, dalpha); }
void attention_backward(const Attention<bf16>& a, const View& dalpha) {
  const bool done = suits_tensor_cores(a) && (a.bias      ? on_tensor_cores<64, true>(a, dalpha)
                                              : a.d <= 64 ? on_tensor_cores<64, false>(a, dalpha)
                                                          : on_tensor_cores<128, false>(a, dalpha));
  if (!done) general(a, dalpha);
}

}  // namespace mt::cuda
