// Tiles of pairs of bfloat16 by pairs, for processors that multiply and add these in one instruction.
#include "kernels/cpu/matmul_kernels.h"

#ifdef MT_X86
#define MT_TARGET __attribute__((target("avx512f,avx512bf16")))
#define MT_INLINE __attribute__((target("avx512f,avx512bf16"), always_inline)) static inline

#include "kernels/cpu/matmul_avx512.h"
#include "kernels/cpu/matmul_tile.h"

namespace mt::kernels {
namespace {

/// Both products of a pair.
struct Dot {
  MT_TARGET static inline V of(V sum, V left, V right) {
    return _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right);
  }
};

}  // namespace

constinit const Tiles bf16_dots = [] {
  Tiles t{};
  fill_tiles<Words<Dot>, Simd::rows>(t.tile);
  return t;
}();

}  // namespace mt::kernels
#endif
