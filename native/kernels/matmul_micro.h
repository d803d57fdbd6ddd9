// The innermost loops, written once over an instruction set. A file that includes this defines `Simd` before it
// (vector type V, width, rows, load, store, …) and MT_TARGET, and makes a Level of what is here.
#include <cstring>
#include <type_traits>

#include "kernels/matmul_kernels.h"

namespace mt::kernels {
namespace {

using V = Simd::V;
constexpr int W = Simd::width;

/// Asks for memory that is read soon, though no hardware would guess it: rows lie pages apart.
template <typename T>
inline void ahead([[maybe_unused]] const T* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#endif
}

// ---- tile: R rows times C vectors, all sums in registers ----

template <int R, int C>
MT_TARGET void tile(int64_t k, const float* a, int64_t row, int64_t col, const float* b, int64_t ldb, const Target& out) {
  V sum[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) sum[i][v] = Simd::set(0);
  // Three rows share a pointer: base, base + row, base + 2·row are addresses that an x86 instruction forms by itself.
  const float* p[(R + 2) / 3];
#pragma GCC unroll 16
  for (int i = 0; i < (R + 2) / 3; ++i) p[i] = a + 3 * i * row;
  for (int64_t x = 0; x < k; ++x) {
    V right[C];
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = Simd::load(b + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      V left = Simd::set(p[i / 3][(i % 3) * row]);
#pragma GCC unroll 16
      for (int v = 0; v < C; ++v) sum[i][v] = Simd::fma(left, right[v], sum[i][v]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < (R + 2) / 3; ++i) p[i] += col;
    b += ldb;
  }
  V alpha = Simd::set(out.alpha);
#pragma GCC unroll 16
  for (int v = 0; v < C; ++v) {
    int n = out.columns - v * W;
    if (n >= W) {
      V bias = out.bias ? Simd::load(out.bias + v * W) : Simd::set(0);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        float* c = out.c + i * out.ldc + v * W;
        V base = out.add ? Simd::add(Simd::load(c), bias) : bias;
        Simd::store(c, Simd::fma(alpha, sum[i][v], base));
      }
    } else if (n > 0) {
      V bias = out.bias ? Simd::load_part(out.bias + v * W, n) : Simd::set(0);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        float* c = out.c + i * out.ldc + v * W;
        V base = out.add ? Simd::add(Simd::load_part(c, n), bias) : bias;
        Simd::store_part(c, Simd::fma(alpha, sum[i][v], base), n);
      }
    }
  }
}

// ---- pack ----

/// One vector of a row: the elements from i on, of which `valid` exist.
template <typename T>
MT_TARGET inline V row_part(const T* in, int valid) {
  if (valid == W) return Simd::load(in);
  if constexpr (std::is_same_v<T, float>) {
    return Simd::load_part(in, valid);
  } else {
    T part[W] = {};
    std::memcpy(part, in, size_t(valid) * sizeof(T));
    return Simd::load(part);
  }
}

template <typename T>
MT_TARGET void pack(const void* from, int64_t across, int64_t along, int64_t n, int64_t k, float* out, int64_t ld, int64_t panel) {
  const T* in = static_cast<const T*>(from);
  if (across == 1) {  // row by row, through all panels: long reads
    for (int64_t x = 0; x < k; ++x) {
      const T* later = in + (x + 8 < k ? x + 8 : x) * along;
      for (int64_t i = 0; i < n; i += W) {
        ahead(later + i);
        Simd::store(out + i / ld * panel + x * ld + i % ld, row_part(in + x * along + i, int(n - i < W ? n - i : W)));
      }
    }
    return;
  }
  for (int64_t i = 0; i < n; i += W) {
    int valid = int(n - i < W ? n - i : W);
    float* to = out + i / ld * panel + i % ld;
    int64_t x = 0, later = i + 2 * W <= n ? W : 0;
    if (along == 1) {
      for (; x + W <= k; x += W) {
        V block[W];
        for (int r = 0; r < W; ++r) {
          block[r] = r < valid ? Simd::load(in + (i + r) * across + x) : Simd::set(0);
          ahead(in + (i + (r < valid ? r : 0) + later) * across + x);
        }
        Simd::transpose(block);
        for (int r = 0; r < W; ++r) Simd::store(to + (x + r) * ld, block[r]);
      }
    }
    int64_t fill = ld < W ? ld : W;
    for (; x < k; ++x)
      for (int64_t r = 0; r < fill; ++r) to[x * ld + r] = r < valid ? float(in[(i + r) * across + x * along]) : 0.0f;
  }
}

// ---- dot: few rows against a right factor that is read once, as it lies ----

template <typename T, int R, int C>
MT_TARGET void dot(int64_t k, const float* a, int64_t lda, const void* from, int64_t ldb, const void* next, float* sums) {
  const T *b = static_cast<const T*>(from), *later = static_cast<const T*>(next);
  V sum[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) sum[i][j] = Simd::set(0);
  int64_t x = 0;
  for (; x + W <= k; x += W) {
    V right[C];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) {
      right[j] = Simd::load(b + j * ldb + x);
      ahead(later + j * ldb + x);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      V left = Simd::load(a + i * lda + x);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) sum[i][j] = Simd::fma(left, right[j], sum[i][j]);
    }
  }
  if (x < k) {
    size_t rest = size_t(k - x);
    V right[C];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) {
      T part[W] = {};
      std::memcpy(part, b + j * ldb + x, rest * sizeof(T));
      right[j] = Simd::load(part);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      float part[W] = {};
      std::memcpy(part, a + i * lda + x, rest * sizeof(float));
      V left = Simd::load(part);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) sum[i][j] = Simd::fma(left, right[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) {
      float part[W];
      Simd::store(part, sum[i][j]);
      for (int half = W / 2; half; half /= 2)
        for (int w = 0; w < half; ++w) part[w] += part[w + half];
      sums[i * C + j] = part[0];
    }
}

// ---- the tables ----

template <int R>
constexpr void fill_tiles(Level& l) {
  if constexpr (R > 0) {
    l.tile[0][R - 1] = tile<R, 1>;
    l.tile[1][R - 1] = tile<R, 2>;
    fill_tiles<R - 1>(l);
  }
}
template <typename T, int R>
constexpr void fill_dots(Level& l) {
  if constexpr (R > 0) {
    l.dot[size_t(dtype_for<T>::value)][0][R - 1] = dot<T, R, 1>;
    l.dot[size_t(dtype_for<T>::value)][1][R - 1] = dot<T, R, kDotColumns>;
    fill_dots<T, R - 1>(l);
  }
}
constexpr Level make_level() {
  static_assert(Simd::rows <= kMaxRows && int(DType::f32) == 0 && int(DType::bf16) == 1 && int(DType::f16) == 2);
  Level l{Simd::rows, 2 * W, W, {}, {pack<float>, pack<bf16>, pack<f16>}, {}};
  fill_tiles<Simd::rows>(l);
  fill_dots<float, kDotRows>(l);
  fill_dots<bf16, kDotRows>(l);
  fill_dots<f16, kDotRows>(l);
  return l;
}

}  // namespace
}  // namespace mt::kernels
