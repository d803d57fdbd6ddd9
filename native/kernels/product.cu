// Chooses how a matrix product is computed: by which kernel, in which tiles, and in how many pieces of the inner dimension.
#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/product_tile.h"

namespace mt::cuda {
namespace {

/// c from Σ part, in the order of the splits.
__global__ void __launch_bounds__(kThreads) finish(Job j, int64_t splits) {
  int64_t i = thread_index(), all = j.m * j.n;
  if (i >= all) return;
  float sum = 0;
  for (int64_t s = 0; s < splits; ++s) sum += j.part[s * all + i];
  complete(j, i / j.n, i % j.n, sum);
}

int64_t up(int64_t n, int64_t size) { return (n + size - 1) / size; }

/// Of the device in use; asked once.
int64_t multiprocessors() {
  static std::array<std::atomic<int>, 64> known;
  int device = current().device(), n = known[size_t(device)];
  if (!n) {
    check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
    known[size_t(device)] = n;
  }
  return n;
}

Operand operand(const Matrix& x, float factor = 1) {
  bool wide = x.cols % 8 == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
  return {static_cast<const char*>(x.data), x.type, wide, x.rows, x.cols, factor};
}

struct Plan {
  int tile;
  int64_t splits;
};
/// The tile, and the pieces of the inner dimension, whose slowest multiprocessor is done first. Rates are those of a large
/// GPU, in multiply-adds per microsecond and multiprocessor and in bytes per microsecond; what decides is their ratios.
Plan choose(const Tile* tiles, int count, double rate, int64_t m, int64_t n, int64_t all, int64_t step) {
  constexpr double kBytes = 4e6, kLaunch = 2;
  constexpr int64_t kMost = 32;
  const int64_t processors = multiprocessors(), least = 128 / step;  // tiles of a piece
  Plan best{0, 1};
  double shortest = 1e300;
  for (int i = 0; i < count; ++i) {
    const Tile& t = tiles[i];
    const int64_t places = up(m, t.rows) * up(n, t.cols);
    const int64_t most = std::clamp(std::min(all / least, 2 * processors / places), int64_t(1), kMost);
    for (int64_t s = 1; s <= most; ++s) {
      double time = double(up(places * s, processors) * up(all, s) * step) * (t.rows * t.cols / t.speed) / rate;
      if (s > 1) time += kLaunch + double(s * m * n) * 8 / kBytes;  // sums are written and read once more
      if (time < shortest) shortest = time, best = {i, s};
    }
  }
  return best;
}

}  // namespace

/// By sizes and types alone: where the same numbers lie in memory does not change a bit of the result.
void product(const Product& p) {
  const int64_t m = p.m(), n = p.n();
  if (m == 0 || n == 0 || library_product(p)) return;
  Job j{};
  j.a = operand(p.a);
  j.b = operand(p.b);
  j.a2 = operand(p.a2, p.factor);
  j.b2 = operand(p.b2);
  j.c = p.c;
  j.type = p.type;
  j.pairs = n % 2 == 0 && reinterpret_cast<uintptr_t>(p.c) % (2 * size_of(p.type)) == 0;
  j.bias = p.bias;
  j.alpha = p.alpha;
  j.residual = p.residual;
  j.before = p.before;
  j.gelu = p.gelu;
  j.quads = n % 4 == 0;
  for (const void* like : {static_cast<const void*>(p.c), p.residual, static_cast<const void*>(p.before)}) j.quads &= reinterpret_cast<uintptr_t>(like) % (4 * size_of(p.type)) == 0;
  j.m = m;
  j.n = n;
  const bool few = p.a.rows <= kFewRows;
  if (few && p.form == Form::nt && p.a.cols % 8 == 0) return few_rows(j);
  // So few rows of activations are limited by memory anyway, and need not be rounded further.
  const bool cores = p.narrow && !few;
  const int64_t step = cores ? kMmaStep : kSimtStep;
  j.tiles = int(up(p.inner(p.a), step));
  j.more = int(up(p.inner(p.a2), step));
  const int64_t all = j.tiles + j.more;
  const Plan plan = cores ? choose(kTiles, std::size(kTiles), 1.8e6, m, n, all, step) : choose(&kSimtTile, 1, 0.2e6, m, n, all, step);
  const Tile& tile = cores ? kTiles[plan.tile] : kSimtTile;
  j.tiles_m = up(m, tile.rows);
  j.tiles_n = up(n, tile.cols);
  j.per_split = int(std::max<int64_t>(up(all, plan.splits), 1));
  const int64_t splits = std::max<int64_t>(up(all, j.per_split), 1);
  Scratch part(splits > 1 ? size_t(splits * m * n) * sizeof(float) : 0);
  j.part = part.as<float>();
  const dim3 grid = blocks(j.tiles_m * j.tiles_n * splits, 1);
  if (cores) mma(p.form, plan.tile, j, grid);
  else simt(p.form, j, grid);
  if (splits > 1) launch(finish, blocks(m * n), dim3(kThreads), 0, j, splits);
}

}  // namespace mt::cuda
