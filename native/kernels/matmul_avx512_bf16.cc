// Tiles of pairs of bfloat16 by pairs, for processors that multiply and add these in one instruction.
#include "kernels/matmul_kernels.h"

#ifdef MT_X86
#define MT_TARGET __attribute__((target("avx512f,avx512bf16")))
#define MT_INLINE __attribute__((target("avx512f,avx512bf16"), always_inline)) static inline

#include "kernels/matmul_avx512.h"
#include "kernels/matmul_tile.h"

namespace mt::kernels {
namespace {

struct Dots {
  static constexpr int step = 1;
  template <int R, int C>
  MT_TARGET static inline void next(V (&sum)[R][C], const float* const* p, int64_t row, int64_t, const float* b, bool) {
    V right[C];
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = Simd::load(b + v * W);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      V left = Simd::set(p[i / 3][(i % 3) * row]);
#pragma GCC unroll 16
      for (int v = 0; v < C; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)left, (__m512bh)right[v]);
    }
  }
};

}  // namespace

constinit const Tiles bf16_dots = [] {
  Tiles t{};
  fill_tiles<Dots, Simd::rows>(t.tile);
  return t;
}();

}  // namespace mt::kernels
#endif
