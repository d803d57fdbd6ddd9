// Prints how forward attention is cut on a device of 132 multiprocessors, for attention-plan.test.ts.
#include <cstdio>

#include "kernels/cuda/attention_plan.h"

int main() {
  using namespace mt::cuda;
  for (int units : {1, 32, 128, 1536})
    for (int nq : {1, 16, 40, 200})
      for (int nk : {1, 16, 32, 64, 96, 97, 128, 160, 161, 192, 193, 257, 1000, 4096})
        for (int d : {64, 80, 96, 128})
          for (int masks : {0, 1}) {
            const Room room{227 << 10, 132};
            const Cut c = forward_cut({units, nq, nk, d, masks == 1, masks == 0}, room);
            std::printf("%d %d %d %d %d %d %d %d %d %d %d %zu %lld %d\n", units, nq, nk, d, masks, c.units, c.warps,
                        c.k_rows, c.blocks, c.splits, c.span, c.units ? forward_bytes(padded_width(d), c) : 0,
                        c.units ? (long long)forward_blocks(units, c) : 0, c.stages);
          }
}
