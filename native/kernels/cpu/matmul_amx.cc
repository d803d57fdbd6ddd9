// Tiles of pairs of bfloat16 by pairs for processors with AMX: an instruction multiplies 16 rows of 16 pairs by as many
// columns. A panel of the right factor, rows of pairs side by side, is already what it reads.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/matmul_kernels.h"

#ifdef MT_AMX
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw")
#endif
namespace mt::amx {
#define MT_LANES 16
#include "kernels/cpu/vec.h"
#undef MT_LANES

namespace {

using kernels::kMaxRows;
using kernels::Target;
using kernels::Tile;

constexpr int kSide = 16;  // rows of a tile register, and 32-bit words of its row
constexpr int kRowBytes = kSide * 4;
constexpr int kPanel = 2 * kSide;  // columns of a panel

/// Shapes of the tile registers: 0 to 3 hold sums, upper and lower rows by left and right columns; 4 and 5 the left
/// factor's upper and lower rows; 6 and 7 the left and the right half of a panel.
struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(Shapes) == 64);

/// Sets this thread's registers up for tiles of so many rows.
void set_shapes(int rows) {
  thread_local int current = 0;
  if (rows == current) return;
  const uint8_t upper = uint8_t(rows < kSide ? rows : kSide), lower = uint8_t(rows - upper);
  const uint8_t height[8] = {upper, upper, lower, lower, upper, lower, kSide, kSide};
  Shapes shapes;
  for (int i = 0; i < 8; ++i) {
    shapes.rows[i] = height[i];
    shapes.row_bytes[i] = height[i] ? kRowBytes : 0;
  }
  _tile_loadconfig(&shapes);
  current = rows;
}

/// The intrinsics of GCC do not say that they read memory.
inline void written() { asm volatile("" ::: "memory"); }

/// Adds 16 pairs along k.
template <bool Lower, bool Right>
inline void step(const float* a, int64_t row, const float* b, int64_t ldb) {
  _tile_loadd(6, b, ldb * 4);
  if constexpr (Right) _tile_loadd(7, b + kSide, ldb * 4);
  _tile_loadd(4, a, row * 4);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (Right) _tile_dpbf16ps(1, 4, 7);
  if constexpr (Lower) {
    _tile_loadd(5, a + kSide * row, row * 4);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (Right) _tile_dpbf16ps(3, 5, 7);
  }
}

/// The product of `rows` rows, more than 16 where Lower, by one or two vectors of columns; rows of the left factor lie.
template <bool Lower, bool Right>
[[gnu::noinline]] void product(int rows, int64_t k, const float* a, int64_t row, const float* b, int64_t ldb,
                               const Target& out) {
  constexpr int kColumns = Right ? 2 * kSide : kSide;
  set_shapes(rows);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < kColumns; j += kSide) __builtin_prefetch(out.c + i * out.ldc + j, 1, 3);
  written();
  _tile_zero(0);
  if constexpr (Right) _tile_zero(1);
  if constexpr (Lower) {
    _tile_zero(2);
    if constexpr (Right) _tile_zero(3);
  }
  const float* next = out.next;
  int64_t x = 0;
  // Into the second cache: with the panel and the rows at hand, a block more would not stay in the first.
  const int64_t leap = out.every ? out.leap : kSide * out.pace;  // a step is of that many
  for (; x + kSide <= k; x += kSide, next += leap) {
    for (int64_t w = 0; w < kSide * out.pace; w += kSide) __builtin_prefetch(next + w, 0, 2);
    step<Lower, Right>(a + x, row, b + x * ldb, ldb);
  }
  if (x < k) {  // the rest, with zeros behind it
    alignas(64) float left[kMaxRows * kSide] = {}, right[kSide * kColumns] = {};
    for (int i = 0; i < rows; ++i) std::memcpy(left + i * kSide, a + i * row + x, size_t(k - x) * 4);
    for (int64_t i = x; i < k; ++i) std::memcpy(right + (i - x) * kColumns, b + i * ldb, kColumns * 4);
    written();
    step<Lower, Right>(left, kSide, right, kColumns);
  }
  alignas(64) float sums[kMaxRows * kColumns];
  constexpr int kStride = kColumns * 4;
  _tile_stored(0, sums, kStride);
  if constexpr (Right) _tile_stored(1, sums + kSide, kStride);
  if constexpr (Lower) {
    _tile_stored(2, sums + kSide * kColumns, kStride);
    if constexpr (Right) _tile_stored(3, sums + kSide * kColumns + kSide, kStride);
  }
  written();
  const vec alpha = splat(out.alpha);
  for (int j = 0; j < out.columns; j += kSide) {
    const int count = out.columns - j < kSide ? out.columns - j : kSide;
    const vec bias = out.bias ? load_part(out.bias + j, count) : splat(0);
    for (int i = 0; i < rows; ++i) {
      float* c = out.c + i * out.ldc + j;
      store_part(c, fma(alpha, load(sums + i * kColumns + j), out.add ? load_part(c, count) + bias : bias), count);
    }
  }
}

/// Products of registers alone, four sums in turn.
float tile_products(int64_t steps) {
  alignas(64) float words[kSide * kSide];
  for (float& w : words) w = std::bit_cast<float>(0x3f803f80u);  // a pair of ones
  set_shapes(kMaxRows);
  written();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, words, kRowBytes);
  _tile_loadd(5, words, kRowBytes);
  _tile_loadd(6, words, kRowBytes);
  _tile_loadd(7, words, kRowBytes);
  for (int64_t s = 0; s < steps; ++s) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, words, kRowBytes);
  written();
  return words[0];
}

/// A left factor that is packed in strips has its rows side by side, which no tile register reads.
template <int R, int C>
void tile(int64_t k, const float* a, int64_t row, int64_t col, const float* b, int64_t ldb, const Target& out) {
  if (col != 1) {
    if constexpr (R <= kSide) kernels::bf16_dots.tile[C - 1][R - 1](k, a, row, col, b, ldb, out);
    return;
  }
  product<(R > kSide), (C > 1)>(R, k, a, row, b, ldb, out);
}

template <int R>
constexpr void fill(Tile (&tiles)[2][kMaxRows]) {
  if constexpr (R > 0) {
    tiles[0][R - 1] = tile<R, 1>;
    tiles[1][R - 1] = tile<R, 2>;
    fill<R - 1>(tiles);
  }
}

}  // namespace

}  // namespace mt::amx
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mt::kernels {
float tile_products(int64_t steps) { return amx::tile_products(steps); }

constinit const Tiles amx_dots = [] {
  Tiles t{};
  amx::fill<kMaxRows>(t.tile);
  return t;
}();
}  // namespace mt::kernels
#endif
