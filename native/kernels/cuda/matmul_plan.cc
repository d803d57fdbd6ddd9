#include "kernels/cuda/matmul_plan.h"

#include <algorithm>

#include "core/error.h"
#include "core/round.h"

namespace mt::cuda {
namespace {

// Rates of a large GPU, in multiply-adds per microsecond and multiprocessor, and in bytes per microsecond. Only their
// ratios matter.
constexpr double kCores = 1.8e6, kSimt = 0.2e6, kBytes = 4e6;
constexpr double kLibrary = 3e6;  // cuBLASLt's, whose kernels use wgmma: 798 TFLOP/s were measured on an H100
constexpr double kLaunch = 2;     // microseconds from a kernel's end to the end of an empty one after it
/// The rate of a block that is alone on its multiprocessor, relative to several: each scheduler has one warp then, and
/// nothing to run while that warp waits for shared memory or at a barrier.
constexpr double kAlone = 0.65;
constexpr int64_t kMostSplits = 32;
/// Microseconds to count a block, and for the last block of a tile to find that it is the last: two round trips to the
/// L2 cache.
constexpr double kCount = 1.5;
/// Bytes of sums that a multiprocessor reads back in a microsecond, with 32 KiB in flight.
constexpr double kReadBack = 4e4;
constexpr double kWorth = 0.9;  // of the time without splits: a smaller gain is within the model's error

/// The work of the slowest multiprocessor, in blocks that are not alone on it. It runs `resident` blocks at a time; one
/// that is left over runs alone.
double rounds(int64_t blocks, int64_t processors, int64_t resident) {
  const int64_t mine = ceil_div(blocks, processors), alone = resident <= 1 ? mine : mine % resident == 1 ? 1 : 0;
  return double(mine - alone) + double(alone) / kAlone;
}

/// Microseconds to write the sums of the pieces, `bytes` a tile, and to read them back: limited by memory, and by the
/// multiprocessors on which the last blocks of tiles run.
double add_up(int64_t tiles, int64_t bytes, int64_t processors) {
  const double pass = double(tiles * bytes) / kBytes;
  return pass + std::max(pass, double(ceil_div(tiles, processors) * bytes) / kReadBack);
}

}  // namespace

Plan choose(const Machine& machine, bool cores, const Extent& e) {
  const std::span<const Tile> tiles = cores ? std::span<const Tile>(kTiles) : std::span<const Tile>(&kSimtTile, 1);
  const double rate = cores ? kCores : kSimt;
  const int64_t least = 128 / e.step;  // steps of a piece
  Plan best{0, 1, 1e300}, split{0, 1, 1e300};
  for (int i = 0; i < int(tiles.size()); ++i) {
    const Tile& t = tiles[size_t(i)];
    const int64_t c_tiles = ceil_div(e.m, t.rows) * ceil_div(e.n, t.cols),
                  resident = std::max(machine.blocks[size_t(i)], 1);
    const int64_t company = std::max<int64_t>(resident, 2) * machine.processors / c_tiles;
    const int64_t most = c_tiles > kMostCounted
                             ? 1
                             : std::clamp(std::min(e.steps / least, company), int64_t(1), kMostSplits);
    for (int64_t s = 1; s <= most; ++s) {
      const double block = double(ceil_div(e.steps, s) * e.step) * (t.rows * t.cols / t.speed) / rate;
      double time = rounds(c_tiles * s, machine.processors, resident) * block;
      if (s > 1) time += kCount + add_up(c_tiles, s * t.rows * t.cols * 4, machine.processors);
      if (Plan& shortest = s > 1 ? split : best; time < shortest.time) shortest = {i, s, time};
    }
  }
  return split.time < kWorth * best.time ? split : best;
}

bool packing_pays(int64_t elements, int64_t size, const Plan& plan) {
  // Tiles that are rounded as they are read pass through registers and take at least twice the plan's time.
  return kLaunch + double(elements * (size + 2)) / kBytes < plan.time;
}

Way choose_way(int64_t m, int64_t n, const Extras& extras, const Plan& own) {
  // The library's time is the plan's, reduced by the ratio of the rates. What remains for an own kernel costs one more
  // launch, and the bytes that pass through memory between the two.
  const auto pays = [&](int64_t bytes) {
    return own.time * (1 - kCores / kLibrary) > kLaunch + double(m * n * bytes) / kBytes;
  };
  if (extras.gelu) return !extras.low_rank && pays(2 * sizeof(float)) ? Way::sums : Way::own;
  if (extras.low_rank) return pays(2 * extras.size) ? Way::onto : Way::own;
  return !extras.bias || pays(0) ? Way::direct : Way::own;
}

std::string describe(bool cores, const Plan& plan) {
  const Tile& t = cores ? kTiles[plan.tile] : kSimtTile;
  return text(t.rows, "x", t.cols, " in ", plan.splits, plan.splits == 1 ? " piece, " : " pieces, ", plan.time, " us");
}

}  // namespace mt::cuda
