#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "kernels/cuda/attention_general.h"
#include "kernels/cuda/attention_mma_backward.h"
#include "kernels/cuda/attention_mma_forward.h"
#include "kernels/cuda/product.h"

namespace mt::cuda {
namespace {

// ---- arguments ----

template <typename E>
Rows<E> rows(const View& v) {
  if (!v) return {nullptr, 0, 0, 0, 0};
  return {v.data<std::remove_const_t<E>>(), v.stride[0], v.stride[1], v.stride[2], v.stride[3]};
}

template <typename T>
Attention<T> arguments(const View& q, const View& k, const View& v, const View& key_mask, const View& masks,
                       const View& alpha, int64_t mode, bool causal, const View& lse) {
  Attention<T> a{};
  a.q = rows<const T>(q);
  a.k = rows<const T>(k);
  a.v = rows<const T>(v);
  if (key_mask)
    a.key_mask = key_mask.data<uint8_t>(), a.key_b0 = key_mask.stride[0], a.key_b1 = key_mask.stride[1],
    a.key_row = key_mask.stride[2];
  if (mode) {
    a.masks = masks.data<uint8_t>(), a.mask_q = masks.stride[0], a.mask_k = masks.stride[1];
    a.alpha = alpha.data<float>(), a.alpha_b0 = alpha.stride[0], a.alpha_b1 = alpha.stride[1],
    a.alpha_j = alpha.stride[2];
  }
  a.lse = lse.data<float>();
  a.units = q.shape[0] * q.shape[1] * q.shape[3];
  a.nq = int(q.shape[2]);
  a.nk = int(k.shape[2]);
  a.d = int(q.shape[4]);
  a.heads = int(q.shape[3]);
  a.b1 = int(q.shape[1]);
  a.mode = int(mode);
  a.p = mode ? int(alpha.shape[2]) : 1;
  a.causal = causal;
  a.scale = float(1 / std::sqrt(double(a.d)));
  return a;
}

// ---- any size ----

/// Tiles of 16 where both sides are short, else of 64: f(tile's G, R).
template <typename T, typename F>
void each_tile(const Attention<T>& a, F f) {
  if (a.nq <= 32 && a.nk <= 32) f(std::integral_constant<int, 8>{}, std::integral_constant<int, 2>{});
  else f(std::integral_constant<int, 16>{}, std::integral_constant<int, 4>{});
}

template <typename T>
void forward(const Attention<T>& a) {
  each_tile(a, [&](auto G, auto R) {
    using Form = General<T, G(), R()>;
    int tiles = pieces(a.nq, Form::B), chunks = pieces(a.d, kColumns);
    launch(general_forward<T, G(), R()>, dim3(unsigned(a.units * tiles * chunks)), dim3(Form::kBlock), Form::kShared, a,
           tiles, chunks);
  });
}

/// dα[b,j] = the shares of its heads and tiles, in order.
__global__ void __launch_bounds__(kThreads)
    sum_shares_kernel(const float* shares, float* dalpha, int64_t n, int64_t terms, int p) {
  int64_t i = thread_index();
  if (i >= n) return;
  double sum = 0;
  for (int64_t t = 0; t < terms; ++t) sum += double(shares[(i / p * terms + t) * p + i % p]);
  dalpha[i] = float(sum);
}

template <typename T>
void sum_shares(const Attention<T>& a, const View& dalpha, int tiles) {
  if (dalpha)
    launch(sum_shares_kernel, blocks(dalpha.numel()), dim3(kThreads), 0, (const float*)a.shares, dalpha.data<float>(),
           dalpha.numel(), int64_t(a.heads) * tiles, a.p);
}

template <typename T>
void backward(Attention<T> a, const View& dalpha) {
  each_tile(a, [&](auto G, auto R) {
    using Form = General<T, G(), R()>;
    int tiles = pieces(a.nq, Form::B), chunks = pieces(a.d, kColumns);
    bool centres = a.dq.data || a.dk.data || dalpha;
    Scratch centre(centres ? size_t(a.units * a.nq * a.m()) * sizeof(float2) : 0),
        shares(dalpha ? size_t(a.units * tiles * a.p) * sizeof(float) : 0);
    a.centre = centre.as<float2>();
    a.shares = shares.as<float>();
    if (centres) {
      int columns = a.dq.data ? chunks : 1;
      launch(general_backward_queries<T, G(), R()>, dim3(unsigned(a.units * tiles * columns)), dim3(Form::kBlock),
             Form::kShared, a, tiles, columns);
    }
    if (a.dk.data || a.dv.data)
      launch(general_backward_keys<T, G(), R()>, dim3(unsigned(a.units * pieces(a.nk, Form::B) * chunks)),
             dim3(Form::kBlock), Form::kShared, a, pieces(a.nk, Form::B), chunks);
    sum_shares(a, dalpha, tiles);
  });
}

// ---- tensor cores ----

Room room() {
  int bytes = 0, processors = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, current().device()), "attention");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, current().device()), "attention");
  return {size_t(bytes), processors};
}
/// Whether 16 bytes can be read at every eighth element of `n` rows. No step is taken along a dimension of one.
template <typename E>
bool aligned(const Rows<E>& r, const Attention<bf16>& a, int n) {
  const auto even = [](int64_t stride, int64_t size) { return size == 1 || stride % 8 == 0; };
  return !r.data || (reinterpret_cast<uintptr_t>(r.data) % 16 == 0 && even(r.b0, a.units / a.heads / a.b1) &&
                     even(r.b1, a.b1) && even(r.row, n) && even(r.head, a.heads));
}
bool suits(const Attention<bf16>& a) {
  bool near = !a.mode || (std::abs(a.mask_q) < (1 << 20) && std::abs(a.mask_k) < (1 << 20) && a.nq < 1024 &&
                          a.nk < 1024);  // places fit an int
  return near && a.d % 8 == 0 && a.d <= (a.mode ? 64 : 128) && a.nq && a.nk && aligned(a.q, a, a.nq) &&
         aligned(a.k, a, a.nk) && aligned(a.v, a, a.nk) && aligned(a.dout, a, a.nq) && aligned(a.out, a, a.nq) &&
         aligned(a.dq, a, a.nq) && aligned(a.dk, a, a.nk) && aligned(a.dv, a, a.nk);
}
/// f(D): the padded width of a head.
template <typename F>
void each_width(const Attention<bf16>& a, F f) {
  a.d <= 64   ? f(std::integral_constant<int, 64>{})
  : a.d <= 96 ? f(std::integral_constant<int, 96>{})
              : f(std::integral_constant<int, 128>{});
}
/// False where it does not fit.
bool forward_mma(Attention<bf16> a) {
  if (!suits(a)) return false;
  const Cut cut = forward_cut({a.units, a.nq, a.nk, a.d, a.mode == 2, a.mode == 0}, room());
  if (!cut.units) return false;
  const int64_t rows = a.units * a.nq;
  const bool split = cut.splits > 1;
  const Scratch parts(split ? size_t(cut.splits * rows * a.d) * sizeof(float) : 0),
      lse(split ? size_t(cut.splits * rows) * sizeof(float) : 0);
  a.parts = parts.as<float>();
  Attention<bf16> pass = a;
  if (split) pass.lse = lse.as<float>();
  each_width(a, [&](auto D) {
    auto kernel = mma_forward<D(), false>;
    if constexpr (D() == 64)
      if (a.mode) kernel = mma_forward<64, true>;
    launch(kernel, dim3(unsigned(forward_blocks(a.units, cut))), dim3(unsigned(32 * cut.units * cut.warps)),
           forward_bytes(D(), cut), pass, cut);
  });
  if (split) launch(merge_pieces, blocks(rows * a.d), dim3(kThreads), 0, a, (const float*)lse.as<float>(), cut.splits);
  return true;
}

constexpr size_t kHalfShared = 112 << 10;  // of a multiprocessor's shared memory: two blocks fit
constexpr int kSide = 64;                  // rows of either side that a block of a long sequence holds

template <int D, Part part>
void launch_part(const Attention<bf16>& a, int n) {
  int tiles = pieces(n, 16), blocks = pieces(tiles, kSide / 16), warps = pieces(tiles, blocks), rows = 16 * warps;
  Cut cut{1, warps, part == Part::queries ? rows : std::min(kSide, whole(a.nq)),
          part == Part::keys ? rows : std::min(kSide, whole(a.nk)), blocks};
  launch(mma_backward<D, false, part>, dim3(unsigned(a.units * blocks)), dim3(unsigned(32 * warps)),
         unit_bytes<D>(cut, 1, false), a, cut);
}
/// False where it does not fit.
bool backward_mma(Attention<bf16> a, const View& dalpha) {
  if (!suits(a)) return false;
  auto run = [&](auto D) {
    int tiles = std::max(pieces(a.nq, 16), pieces(a.nk, 16)), warps = pieces(tiles, pieces(tiles, kMostWarps<D()>));
    Cut cut{side_by_side(a.units, warps), warps, whole(a.nq), whole(a.nk), 1};
    size_t bytes = cut.units * unit_bytes<D()>(cut, a.m(), a.mode != 0), most = room().shared;
    if (bytes <= (a.mode ? most : std::min(most, kHalfShared))) {
      Scratch shares(dalpha ? size_t(a.units * a.p) * sizeof(float) : 0);
      a.shares = shares.as<float>();
      auto kernel = mma_backward<D(), false, Part::both>;
      if constexpr (D() == 64)
        if (a.mode) kernel = mma_backward<64, true, Part::both>;
      launch(kernel, dim3(unsigned((a.units + cut.units - 1) / cut.units)), dim3(unsigned(32 * cut.units * warps)),
             bytes, a, cut);
      sum_shares(a, dalpha, 1);
      return true;
    }
    if (a.mode) return false;
    Scratch centre(size_t(a.units * a.nq) * sizeof(float2));
    a.centre = centre.as<float2>();
    if (a.dq.data || a.dk.data) launch_part<D(), Part::queries>(a, a.nq);
    if (a.dk.data || a.dv.data) launch_part<D(), Part::keys>(a, a.nk);
    return true;
  };
  return a.d <= 64 ? run(std::integral_constant<int, 64>{}) : run(std::integral_constant<int, 128>{});
}

template <typename T>
void forward_any(const Attention<T>& a) {
  if constexpr (std::is_same_v<T, bf16>)
    if (forward_mma(a)) return;
  forward(a);
}

template <typename T>
void backward_any(const Attention<T>& a, const View& dalpha) {
  if constexpr (std::is_same_v<T, bf16>)
    if (backward_mma(a, dalpha)) return;
  backward(a, dalpha);
}

}  // namespace

void attention_forward(const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks, Maybe alpha, int64_t mode,
                       bool causal, ActOut out, Out lse) {
  if (!out.numel()) return;
  each_activation(q.dtype, [&](auto t) {
    using T = decltype(t);
    auto a = arguments<T>(q, k, v, key_mask, masks, alpha, mode, causal, lse);
    a.out = rows<T>(out);
    forward_any(a);
  });
}

void attention_backward(const Act& dout, const Act& q, const Act& k, const Act& v, Maybe key_mask, Maybe masks,
                        Maybe alpha, int64_t mode, bool causal, const View& lse, MaybeActOut dq, MaybeActOut dk,
                        MaybeActOut dv, MaybeOut dalpha) {
  each_activation(q.dtype, [&](auto t) {
    using T = decltype(t);
    auto a = arguments<T>(q, k, v, key_mask, masks, alpha, mode, causal, lse);
    a.dout = rows<const T>(dout);
    a.dq = rows<T>(dq);
    a.dk = rows<T>(dk);
    a.dv = rows<T>(dv);
    backward_any(a, dalpha);
  });
}

void source_attention(const Act& q, const Act& source, const View& wk, const View& wv, Maybe bias, Maybe a, Maybe b,
                      double scaling, int64_t heads, ActOut out) {
  const int64_t n = q.size(-2), width = q.size(-1), keys = source.size(-2), rank = a ? a.size(0) : 0;
  if (!out.numel()) return;
  const int64_t groups = q.numel() / (n * width), d = width / heads;
  each_activation(q.dtype, [&](auto t) {
    using T = decltype(t);
    const bool narrow = q.dtype == DType::bf16;
    const Scratch k(size_t(groups * keys * width) * sizeof(T)), v(size_t(groups * keys * width) * sizeof(T));
    const Scratch shrunk(size_t(groups * keys * rank) * sizeof(float)), lse(size_t(groups * heads * n) * sizeof(float));
    if (keys) {
      const Matrix e = matrix(source), low{shrunk.as<void>(), DType::f32, groups * keys, rank};
      product({.form = Form::nt, .a = e, .b = matrix(wk), .c = k.as<void>(), .type = q.dtype, .narrow = narrow});
      if (rank)
        product(
            {.form = Form::nt, .a = e, .b = matrix(a), .c = shrunk.as<void>(), .type = DType::f32, .narrow = narrow});
      product({.form = Form::nt,
               .a = e,
               .b = matrix(wv),
               .c = v.as<void>(),
               .type = q.dtype,
               .narrow = narrow,
               .bias = bias ? bias.data<float>() : nullptr,
               .a2 = rank ? low : Matrix{},
               .b2 = rank ? matrix(b) : Matrix{},
               .factor = rank ? float(scaling) : 1});
    }
    Attention<T> x{};
    x.q = {q.data<const T>(), n * width, 0, width, d};
    x.k = {k.as<const T>(), keys * width, 0, width, d};
    x.v = {v.as<const T>(), keys * width, 0, width, d};
    x.out = {out.data<T>(), n * width, 0, width, d};
    x.lse = lse.as<float>();
    x.units = groups * heads;
    x.nq = int(n);
    x.nk = int(keys);
    x.d = int(d);
    x.heads = int(heads);
    x.b1 = x.p = 1;
    x.scale = float(1 / std::sqrt(double(d)));
    forward_any(x);
  });
}

}  // namespace mt::cuda
