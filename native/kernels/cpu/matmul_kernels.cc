// Compiles the kernels of the matrix product for every instruction set, and chooses a set.
#include "kernels/cpu/matmul_kernels.h"

#include <algorithm>

#define MT_EACH_ISA "kernels/cpu/matmul_micro.h"
#include "kernels/cpu/each_isa.h"

namespace mt::kernels {

const Level& level() {
  static const Level best = [] {
    Level l = MT_FOR_ISA(matmul_level);
#ifdef MT_X86
    const Tiles* dots = nullptr;
    if (has_bfloat16_dots()) {
      dots = &bf16_dots, l.turn[1] = turn_pairs, l.unpack = unpack_pairs;
      for (int v = 0; v < 2; ++v) std::copy_n(dots->dot[v], kDotRows, l.dot_pairs[v]);
    }
#ifdef MT_AMX
    if (has_bfloat16_tiles()) dots = &amx_dots, l.dots_mr = kMaxRows;
#endif
    if (dots) l.one_row[int(Kind::dots)] = dots->one_row;
    for (int v = 0; dots && v < 2; ++v) std::copy_n(dots->tile[v], kMaxRows, l.tile[int(Kind::dots)][v]);
#endif
    return l;
  }();
  return best;
}

}  // namespace mt::kernels
