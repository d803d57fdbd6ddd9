// Chooses how a matrix product is computed: by which kernel, in which tiles, and in how many pieces of the inner dimension.
#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/product_tile.h"

namespace mt::cuda {
namespace {

/// c from Σ part, in the order of the splits: four neighbours of a row a thread.
__global__ void __launch_bounds__(kThreads) finish_kernel(Job j, int64_t splits) {
  const int64_t quads = (j.n + 3) / 4, i = thread_index(), all = j.m * j.n;
  if (i >= j.m * quads) return;
  const int64_t row = i / quads, col = i % quads * 4, at = row * j.n + col;
  const int count = j.n - col < 4 ? int(j.n - col) : 4;
  float v[4] = {};
  if (j.n % 4 == 0) {
    for (int64_t s = 0; s < splits; ++s) {
      const float4 x = *reinterpret_cast<const float4*>(j.part + s * all + at);
      v[0] += x.x, v[1] += x.y, v[2] += x.z, v[3] += x.w;
    }
  } else {
    for (int64_t s = 0; s < splits; ++s)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (e < count) v[e] += j.part[s * all + at + e];
  }
  complete4(j, row, col, count, v);
}

int64_t up(int64_t n, int64_t size) { return (n + size - 1) / size; }

/// What is asked of the device in use once: `ask` gives a number that is not 0.
template <typename F>
int known(std::array<std::atomic<int>, 64>& all, F ask) {
  std::atomic<int>& n = all[size_t(current().device())];
  if (!n) n = ask();
  return n;
}

int64_t multiprocessors() {
  static std::array<std::atomic<int>, 64> all;
  return known(all, [] {
    int n = 0;
    check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, current().device()), "cudaDeviceGetAttribute");
    return n;
  });
}

/// Of every tile, the blocks that a multiprocessor holds.
std::array<int, kTileCount> blocks_held(Form form, bool cores) {
  static std::array<std::atomic<int>, 64> all[3][kTileCount + 1];
  std::array<int, kTileCount> held{};
  auto& of_form = all[int(form)];
  if (!cores) held[0] = known(of_form[kTileCount], [=] { return simt_blocks(form); });
  else
    for (int tile = 0; tile < kTileCount; ++tile) held[size_t(tile)] = known(of_form[tile], [=] { return mma_blocks(form, tile); });
  return held;
}

Operand operand(const Matrix& x, float factor = 1) {
  bool wide = x.cols % 8 == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
  return {static_cast<const char*>(x.data), x.type, wide, x.rows, x.cols, factor};
}

}  // namespace

Job job(const Product& p) {
  const int64_t m = p.m(), n = p.n();
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
  return j;
}

void finish(const Job& j, int64_t splits) { launch(finish_kernel, blocks(j.m * up(j.n, 4)), dim3(kThreads), 0, j, splits); }

/// By sizes and types alone: where the same numbers lie in memory does not change a bit of the result.
void product(const Product& p) {
  const int64_t m = p.m(), n = p.n();
  if (m == 0 || n == 0) return;
  require_choice();
  Job j = job(p);
  const bool few = p.a.rows <= kFewRows;
  if (few && p.form == Form::nt && p.a.cols % 8 == 0) return few_rows(j);
  // So few rows of activations are limited by memory anyway, and need not be rounded further.
  const bool cores = p.narrow && !few;
  const int64_t step = cores ? kMmaStep : kSimtStep;
  j.tiles = int(up(p.inner(p.a), step));
  j.more = int(up(p.inner(p.a2), step));
  const int64_t all = j.tiles + j.more;
  const auto held = blocks_held(p.form, cores);
  const Plan plan = choose({multiprocessors(), held}, cores, {m, n, all, step});
  if (cores && library_product(p, plan)) return;
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
  if (splits > 1) finish(j, splits);
}

}  // namespace mt::cuda
