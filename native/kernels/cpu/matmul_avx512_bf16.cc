// Tiles and dot products of pairs of bfloat16 by pairs, for processors that multiply and add these in one instruction.
#include <bit>
#include <cstring>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/matmul_kernels.h"

#ifdef MT_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bf16")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own intrinsics' undefined operands
#endif
namespace mt::avx512_bf16 {
#define MT_LANES 16
#include "kernels/cpu/vec.h"
#include "kernels/cpu/matmul_tile.h"
#undef MT_LANES

namespace {
/// Both products of a pair.
struct Dot {
  static inline vec of(vec sum, vec left, vec right) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
  }
};

/// Level::dot_pairs.
template <int R, int C>
void dot(int64_t words, const float* a, int64_t lda, const float* b, int64_t ldb, const float* next, float* sums) {
  vec total[R][C] = {};
  int64_t x = 0;
  const auto step = [&](int rest) {
    vec right[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) right[j] = rest ? load_part(b + j * ldb + x, rest) : load(b + j * ldb + x);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const vec left = rest ? load_part(a + i * lda + x, rest) : load(a + i * lda + x);
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) total[i][j] = Dot::of(total[i][j], left, right[j]);
    }
  };
  for (; x + kLanes <= words; x += kLanes) {
    for (int j = 0; j < C; ++j) prefetch_panel(next + C * x + j * kLanes);
    step(0);
  }
  if (x < words) step(int(words - x));
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) sums[i * C + j] = ::mt::avx512_bf16::sum(total[i][j]);
}
template <int R>
constexpr void fill_dots(kernels::DotPairs (&dots)[2][kernels::kDotRows]) {
  if constexpr (R > 0) {
    dots[0][R - 1] = dot<R, 1>;
    dots[1][R - 1] = dot<R, kernels::kDotColumns>;
    fill_dots<R - 1>(dots);
  }
}
}  // namespace

}  // namespace mt::avx512_bf16
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mt::kernels {
constinit const Tiles bf16_dots = [] {
  using namespace avx512_bf16;
  Tiles t{};
  fill_tiles<Words<Dot>, kTileRows>(t.tile);
  t.one_row = one_row<Words<Dot>>;
  fill_dots<kDotRows>(t.dot);
  return t;
}();
}  // namespace mt::kernels
#endif
