// Chooses how a matrix product is computed: by which kernel, in which tiles, and in how many pieces of the inner dimension.
#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/product_tile.h"

namespace mt::cuda {
namespace {

/// c = alpha·Σ part + bias, in the order of the splits.
__global__ void __launch_bounds__(kThreads) finish(Job j, int64_t splits) {
  int64_t i = thread_index(), all = j.m * j.n;
  if (i >= all) return;
  float sum = 0;
  for (int64_t s = 0; s < splits; ++s) sum += j.part[s * all + i];
  write(j, i / j.n, i % j.n, sum);
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

/// The tile that keeps the busiest multiprocessor for the shortest time; of few rows or columns no more are formed than needed.
int choose_tile(int64_t m, int64_t n) {
  if (m <= 16) return 2;
  if (n <= 32) return 3;
  auto time = [&](int i) {
    const Tile& t = kTiles[i];
    return float(up(up(m, t.rows) * up(n, t.cols), multiprocessors())) * float(t.rows * t.cols) / t.speed;
  };
  return time(0) <= time(1) ? 0 : 1;
}

}  // namespace

/// By sizes and types alone: where the same numbers lie in memory does not change a bit of the result.
void product(const Product& p) {
  const int64_t m = p.m(), n = p.n();
  if (m == 0 || n == 0) return;
  Job j{};
  j.a = operand(p.a);
  j.b = operand(p.b);
  j.a2 = operand(p.a2, p.factor);
  j.b2 = operand(p.b2);
  j.c = p.c;
  j.type = p.type;
  j.bias = p.bias;
  j.alpha = p.alpha;
  j.m = m;
  j.n = n;
  const bool few = p.a.rows <= kFewRows;
  if (few && p.form == Form::nt && p.a.cols % 8 == 0) return few_rows(j);
  // So few rows of activations are limited by memory anyway, and need not be rounded further.
  const bool cores = p.narrow && !few;
  const int tile = cores ? choose_tile(m, n) : 0;
  const int64_t step = cores ? kMmaStep : kSimtStep;
  j.tiles_m = up(m, cores ? kTiles[tile].rows : kSimtTile);
  j.tiles_n = up(n, cores ? kTiles[tile].cols : kSimtTile);
  j.tiles = int(up(p.inner(p.a), step));
  j.more = int(up(p.inner(p.a2), step));
  // Where tiles of c alone would leave multiprocessors idle, the inner dimension is cut up, into pieces of at least 256.
  const int64_t places = j.tiles_m * j.tiles_n, all = j.tiles + j.more, least = 256 / step;
  const int64_t wanted = std::clamp<int64_t>(2 * multiprocessors() / places, 1, std::max<int64_t>(all / least, 1));
  j.per_split = int(std::max<int64_t>(up(all, wanted), 1));
  const int64_t splits = std::max<int64_t>(up(all, j.per_split), 1);
  Scratch part(splits > 1 ? size_t(splits * m * n) * sizeof(float) : 0);
  j.part = part.as<float>();
  const dim3 grid = blocks(places * splits, 1);
  if (cores) mma(p.form, tile, j, grid);
  else simt(p.form, j, grid);
  if (splits > 1) launch(finish, blocks(m * n), dim3(kThreads), 0, j, splits);
}

}  // namespace mt::cuda
