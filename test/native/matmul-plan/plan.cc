// Prints plans of the CPU's matrix products. A line of input:
//
//   mr nr dots_mr                      rows and columns of a tile; rows of one of pairs, 0: as many
//   pairs                              whether the machine multiplies pairs of bfloat16
//   threads m n k
//   dtypes                             of the left factor, the right factor, the result
//   packed                             whether the right factor is packed
//   row col                            elements between rows and between columns of the left factor
//
// A line of output: the plan, then ok, or the first rule that it breaks.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "core/round.h"
#include "kernels/cpu/matmul_plan.h"

using namespace mt;
using namespace mt::kernels;

namespace {

void tile(int64_t, const float*, int64_t, int64_t, const float*, int64_t, const Target&) {}

/// The rules of every plan: each element of the result once, no tile too high, no block along k too deep.
std::string broken(const Plan& p, int64_t m, int64_t n, int mr, int nr) {
  if (p.few_rows) return "ok";
  if (p.strip < 1 || p.strip > mr) return text("strips of ", p.strip, " rows");
  if (p.panels != ceil_div(n, int64_t(nr))) return text(p.panels, " panels");
  if (p.depth < 1 || p.depth > 320) return text("blocks of ", p.depth, " words");
  if (p.depth % p.words_per_row) return "a pair is cut in two";
  if (mr > 16 && p.depth < p.words && p.depth % 16) return "a row of a tile register is cut in two";
  if (p.group < 1 || p.group > kGroup) return text("groups of ", p.group);
  if (p.block < m && p.block % p.strip) return text("blocks of ", p.block, " rows");
  std::vector<int> seen(size_t(m), 0);
  for (int64_t top = 0; top < m; top += p.block) {
    const int64_t height = std::min(p.block, m - top), strips = p.strips(height), cut = p.strips_of_task(height);
    if (cut < 1 || cut > strips) return text(cut, " of ", strips, " strips in a task");
    if (p.narrow && cut * p.strip > 256 + mr) return text(cut * p.strip, " rows of sums");
    for (int64_t part = 0; part < ceil_div(strips, cut); ++part)
      for (int64_t s = part * cut; s < std::min(strips, (part + 1) * cut); ++s)
        for (int64_t i = s * p.strip; i < std::min(height, (s + 1) * p.strip); ++i) ++seen[size_t(top + i)];
  }
  for (int64_t i = 0; i < m; ++i)
    if (seen[size_t(i)] != 1) return text("row ", i, " is computed ", seen[size_t(i)], " times");
  return "ok";
}

}  // namespace

int main() {
  int mr, nr, dots_mr, threads;
  bool dots, packed;
  int64_t m, n, k, row, col;
  std::string left, right, result;
  while (std::cin >> mr >> nr >> dots_mr >> dots >> threads >> m >> n >> k >> left >> right >> result >> packed >>
         row >> col) {
    Level level{};
    level.mr = mr, level.nr = nr, level.width = nr / 2, level.dots_mr = dots_mr;
    if (dots) level.tile[int(Kind::dots)][0][0] = tile;
    const float word = 0;
    const Left a{&word, dtype_of(left), row, col};
    Right b{&word, dtype_of(right), 1, k, packed ? &word : nullptr};
    if (packed) b.order = Order::packed;
    const Plan p = plan(level, threads, m, n, k, a, b, dtype_of(result), false);
    std::cout << describe(p, m) << "\n"
              << broken(p, m, n, p.kind == Kind::dots && col == 1 ? std::max(mr, dots_mr) : mr, nr) << "\n";
  }
}
