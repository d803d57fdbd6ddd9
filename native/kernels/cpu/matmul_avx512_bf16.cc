// Tiles of pairs of bfloat16 by pairs, for processors that multiply and add these in one instruction.
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
  return t;
}();
}  // namespace mt::kernels
#endif
