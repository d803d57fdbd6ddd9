// The innermost loops, written once over an instruction set. A file that includes this defines `Simd` before it
// (vector type V, width, rows, load, store, …) and MT_TARGET.
#pragma once
#include "kernels/cpu/matmul_kernels.h"

namespace mt::kernels {
namespace {

using V = Simd::V;
constexpr int W = Simd::width;

/// Prefetches memory that is read soon; hardware does not predict it, since rows lie pages apart.
template <typename T>
inline void ahead([[maybe_unused]] const T* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#endif
}

/// Prefetches a tile's next operands to the first-level cache.
inline void prefetch_panel([[maybe_unused]] const float* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 3);
#endif
}

inline void prefetch_result([[maybe_unused]] const float* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 1, 3);
#endif
}

// ---- tile: R rows times C vectors, all sums in registers ----

/// One product of two vectors, added to a third.
struct Fma {
  MT_TARGET static inline V of(V sum, V left, V right) { return Simd::fma(left, right, sum); }
};

/// sum[i] += left(i)·right for R rows, the word of each `at` words behind where its pointer stands.
template <typename Multiply, int R, int C>
MT_TARGET inline void add_products(V (&sum)[R][C], const float* const* p, int64_t row, int64_t at,
                                   const V (&right)[C]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    V left = Simd::set(p[i / 3][(i % 3) * row + at]);
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) sum[i][v] = Multiply::of(sum[i][v], left, right[v]);
  }
}

/// The steps of a tile by what its panels hold: next() adds the products of one row of the panel, `step` words of the
/// left factor. Words: float32, or as Multiply interprets them.
template <typename Multiply>
struct Words {
  static constexpr int step = 1;
  template <int R, int C>
  MT_TARGET static inline void next(V (&sum)[R][C], const float* const* p, int64_t row, int64_t, const float* b, bool) {
    V right[C];
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = Simd::load(b + v * W);
    add_products<Multiply, R, C>(sum, p, row, 0, right);
  }
};
/// Pairs of 16-bit numbers by float32. First all lower halves, then all upper ones: both at a time would exceed the
/// registers.
template <typename Half>
struct Pairs {
  static constexpr int step = 2;
  template <int R, int C>
  MT_TARGET static inline void next(V (&sum)[R][C], const float* const* p, int64_t row, int64_t col, const float* b,
                                    bool both) {
    const Pair* pairs = reinterpret_cast<const Pair*>(b);
    V right[C];
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = Simd::low(pairs + v * W, Half{});
    add_products<Fma, R, C>(sum, p, row, 0, right);
    if (!both) return;
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = Simd::high(pairs + v * W, Half{});
    add_products<Fma, R, C>(sum, p, row, col, right);
  }
};

template <typename Steps, int R, int C>
MT_TARGET void tile(int64_t k, const float* a, int64_t row, int64_t col, const float* b, int64_t ldb,
                    const Target& out) {
  V sum[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) sum[i][v] = Simd::set(0);
  // Three rows share a pointer: base, base + row, base + 2·row are addresses that an x86 instruction forms by itself.
  const float* p[(R + 2) / 3];
#pragma GCC unroll 16
  for (int i = 0; i < (R + 2) / 3; ++i) p[i] = a + 3 * i * row;
  // Prefetches the result's cache lines while the sums are formed.
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) prefetch_result(out.c + i * out.ldc + v * W);
  const float* next = out.next;
  for (int64_t x = 0; x < k; x += Steps::step) {
    prefetch_panel(next);
    next += out.pace;
    Steps::template next<R, C>(sum, p, row, col, b, x + 1 < k);
#pragma GCC unroll 16
    for (int i = 0; i < (R + 2) / 3; ++i) p[i] += Steps::step * col;
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

template <typename Steps, int R>
constexpr void fill_tiles(Tile (&tiles)[2][kMaxRows]) {
  if constexpr (R > 0) {
    tiles[0][R - 1] = tile<Steps, R, 1>;
    tiles[1][R - 1] = tile<Steps, R, 2>;
    fill_tiles<Steps, R - 1>(tiles);
  }
}

}  // namespace
}  // namespace mt::kernels
