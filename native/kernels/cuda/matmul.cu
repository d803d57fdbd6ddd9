// Chooses how a matrix product is computed: the kernel, its tiles, and the number of pieces of the inner dimension.
#include <algorithm>
#include <array>
#include <atomic>

#include "core/round.h"
#include "kernels/cuda/matmul_tile.h"

namespace mt::cuda {
namespace {

static_assert(kMostCounted <= kCounters);

/// c from the sums a·b; a thread has four adjacent elements of a row.
__global__ void __launch_bounds__(kThreads) finish_kernel(Job j, const float* sums) {
  const int64_t quads = (j.n + 3) / 4, i = thread_index();
  if (i >= j.m * quads) return;
  const int64_t row = i / quads, col = i % quads * 4, at = row * j.n + col;
  const int count = j.n - col < 4 ? int(j.n - col) : 4;
  float v[4] = {};
  if (j.n % 4 == 0) {
    const float4 x = *reinterpret_cast<const float4*>(sums + at);
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (e < count) v[e] = sums[at + e];
  }
  complete4(j, row, col, count, v);
}

/// Rounds rows to bfloat16 and pads them with zeros to `pitch`, a multiple of 8; eight elements a thread.
__global__ void __launch_bounds__(kThreads) pack_kernel(Operand from, bf16* to, int64_t pitch) {
  const int64_t i = thread_index(), chunks = pitch / 8, row = i / chunks, col = i % chunks * 8;
  if (row >= from.rows) return;
  float v[8];
  fetch<8>(from, row, col, v);
  *reinterpret_cast<uint4*>(to + row * pitch + col) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                                                 pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

/// A number of the current device, from `ask` at the first call; it is not 0.
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

/// For every tile, how many blocks of its kernel a multiprocessor holds.
std::array<int, kTileCount> blocks_held(Form form, bool cores) {
  static std::array<std::atomic<int>, 64> all[3][kTileCount + 1];
  std::array<int, kTileCount> held{};
  auto& of_form = all[int(form)];
  if (!cores) held[0] = known(of_form[kTileCount], [=] { return simt_blocks(form); });
  else
    for (int tile = 0; tile < kTileCount; ++tile)
      held[size_t(tile)] = known(of_form[tile], [=] { return mma_blocks(form, tile); });
  return held;
}

Operand operand(const Matrix& x, float factor = 1) {
  bool wide = x.pitch() % 8 == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
  return {static_cast<const char*>(x.data), x.type, wide, x.rows, x.cols, x.pitch(), factor};
}

}  // namespace

Packed::Packed(const Matrix& x, bool wanted)
    : scratch_(wanted ? size_t(x.rows * ceil_div(x.cols, 8) * 8) * sizeof(bf16) : 0), matrix_(x) {
  if (!wanted) return;
  const int64_t pitch = ceil_div(x.cols, 8) * 8;
  launch(pack_kernel, blocks(x.rows * (pitch / 8)), dim3(kThreads), 0, operand(x), scratch_.as<bf16>(), pitch);
  matrix_ = {scratch_.as<void>(), DType::bf16, x.rows, x.cols, pitch - x.cols};
}

Job job(const Matmul& p) {
  const int64_t m = p.m(), n = p.n();
  Job j{};
  j.a = operand(p.a);
  j.b = operand(p.b);
  j.a2 = operand(p.a2, p.factor);
  j.b2 = operand(p.b2);
  j.quantised = p.b.quantised;
  j.c = p.c;
  j.type = p.type;
  j.pairs = n % 2 == 0 && reinterpret_cast<uintptr_t>(p.c) % (2 * size_of(p.type)) == 0;
  j.bias = p.bias;
  j.alpha = p.alpha;
  j.residual = p.residual;
  j.before = p.before;
  j.gelu = p.gelu;
  j.quads = n % 4 == 0;
  for (const void* like : {static_cast<const void*>(p.c), p.residual, static_cast<const void*>(p.before)})
    j.quads &= reinterpret_cast<uintptr_t>(like) % (4 * size_of(p.type)) == 0;
  j.m = m;
  j.n = n;
  return j;
}

void finish(const Job& j, const float* sums) {
  launch(finish_kernel, blocks(j.m * ceil_div(j.n, 4)), dim3(kThreads), 0, j, sums);
}

/// Sizes and types alone decide: where a matrix lies in memory does not change a bit of the result.
void matmul(const Matmul& given) {
  const int64_t m = given.m(), n = given.n();
  if (m == 0 || n == 0) return;
  require_choice();
  const bool few = given.a.rows <= kFewRows;
  if (few && given.form == Form::nt && given.a.cols % 8 == 0) return few_rows(job(given));
  // With so few rows the product is limited by memory: float32 arithmetic costs nothing.
  const bool cores = given.narrow && !few;
  const int64_t step = cores ? kMmaStep : kSimtStep;
  const int64_t tiles = ceil_div(given.inner(given.a), step), more = ceil_div(given.inner(given.a2), step),
                all = tiles + more;
  const auto held = blocks_held(given.form, cores);
  const Plan plan = choose({multiprocessors(), held}, cores, {m, n, all, step});
  const Tile& tile = cores ? kTiles[plan.tile] : kSimtTile;
  // Whether to round a matrix first, whose rows the tile's kernel could not copy 16 bytes at a time.
  const auto packs = [&](const Matrix& x, bool float32) {
    return cores && !is_quantised(x.type) && (x.pitch() % 8 || (x.type == DType::f32 && !float32)) &&
           packing_pays(x.rows * x.cols, int64_t(size_of(x.type)), plan);
  };
  const Packed a(given.a, packs(given.a, false)), b(given.b, packs(given.b, tile.cols == kNarrow && n <= kNarrow));
  Matmul p = given;
  p.a = a.matrix();
  p.b = b.matrix();
  if (cores && !is_quantised(p.b.type) && library_matmul(p, plan)) return;
  Job j = job(p);
  j.tiles = int(tiles);
  j.more = int(more);
  j.tiles_m = ceil_div(m, tile.rows);
  j.tiles_n = ceil_div(n, tile.cols);
  j.per_split = int(std::max<int64_t>(ceil_div(all, plan.splits), 1));
  const int64_t splits = std::max<int64_t>(ceil_div(all, j.per_split), 1);
  const PieceMemory memory(j.tiles_m * j.tiles_n, splits, tile.rows * tile.cols);
  j.splits = memory.pieces();
  const dim3 grid = blocks(j.tiles_m * j.tiles_n * splits, 1);
  if (cores) mma(p.form, plan.tile, j, grid);
  else simt(p.form, j, grid);
}

}  // namespace mt::cuda
