// Prints plans of matrix products, for test/cuda/matmul-plan.test.ts. A line of input:
//
//   processors             multiprocessors
//   blocks...              for each tile, how many blocks a multiprocessor holds
//   m n k
//   extra                  bias, low-rank, gelu or plain
#include "kernels/cuda/matmul_plan.h"

#include <array>
#include <iostream>

int main() {
  using namespace mt::cuda;
  int64_t processors, m, n, k;
  std::array<int, kTileCount> held;
  std::string extra;
  while (std::cin >> processors) {
    for (int& h : held) std::cin >> h;
    std::cin >> m >> n >> k >> extra;
    const Plan plan = choose({processors, held}, true, {m, n, (k + kMmaStep - 1) / kMmaStep, kMmaStep});
    const Way way = choose_way(m, n, {extra == "bias", extra == "low-rank", extra == "gelu", 2}, plan);
    constexpr const char* ways[] = {"own", "direct", "onto", "sums"};
    std::cout << describe(true, plan) << ", " << ways[int(way)] << "\n";
  }
}
