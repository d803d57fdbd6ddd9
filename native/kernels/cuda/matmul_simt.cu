// Matrix products in float32. A block of 128 threads forms 64×64 sums, 4×8 a thread, from tiles in shared memory whose
// rows are steps of the inner dimension. The next tiles are prefetched into registers meanwhile.
#include "kernels/cuda/matmul_tile.h"

namespace mt::cuda {
namespace {

constexpr int kSide = kSimtTile.rows, kSimtThreads = 128, kPitch = kSide + 4,
              kQuads = kSide * kSimtStep / 4 / kSimtThreads;
constexpr int kRun = 16;  // tiles that are summed before they are added to the total, which bounds the rounding error

/// Reads this thread's part of a tile. `along`: the inner dimension is contiguous in memory.
template <bool along>
__device__ void read_tile(const Operand& o, int64_t outer, int64_t inner, float (&v)[kQuads][4]) {
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    int q = int(threadIdx.x) + i * kSimtThreads;
    if (along) fetch<4>(o, outer + q / (kSimtStep / 4), inner + q % (kSimtStep / 4) * 4, v[i]);
    else fetch<4>(o, inner + q / (kSide / 4), outer + q % (kSide / 4) * 4, v[i]);
  }
}
/// The same of a quantised factor. `kept`: the first column that int8 keeps from this thread's on, in the tile before.
template <bool along>
__device__ void read_tile(const Quantised& q, const float* levels, int64_t outer, int64_t inner, int& kept,
                          float (&v)[kQuads][4]) {
  constexpr int in_row = (along ? kSimtStep : kSide) / 4;
  static_assert(kSimtThreads % in_row == 0);  // all quads of a thread are in one column
  const int row = int(threadIdx.x) / in_row, col = int(threadIdx.x) % in_row * 4;
  const int64_t first = (along ? inner : outer) + col;
  kept = kept_from(q, first, kept);
#pragma unroll
  for (int i = 0; i < kQuads; ++i)
    fetch4(q, levels, (along ? outer : inner) + row + i * (kSimtThreads / in_row), first, kept, v[i]);
}
template <bool along>
__device__ void store_tile(const float (&v)[kQuads][4], float* to) {
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    int q = int(threadIdx.x) + i * kSimtThreads;
    if (along) {
#pragma unroll
      for (int e = 0; e < 4; ++e) to[(q % (kSimtStep / 4) * 4 + e) * kPitch + q / (kSimtStep / 4)] = v[i][e];
    } else {
      *reinterpret_cast<float4*>(to + q / (kSide / 4) * kPitch + q % (kSide / 4) * 4) = make_float4(v[i][0], v[i][1],
                                                                                                    v[i][2], v[i][3]);
    }
  }
}

template <Form form, bool quantised>
__global__ void __launch_bounds__(kSimtThreads, 3) simt_kernel(Job j) {
  constexpr bool a_along = form != Form::tn, b_along = form == Form::nt;
  constexpr int kTileFloats = kSimtStep * kPitch;
  static_assert(kSide * kPitch <= 4 * kTileFloats);
  SHARED(float, shared);  // two stages of tiles of a and b; at the end a tile of c
  __shared__ float levels[16];
  if constexpr (quantised) load_levels(j.quantised, levels);
  const BlockTile at = block_tile(j, kSide, kSide);
  const int tm = int(threadIdx.x) / 8 * 4, tn = int(threadIdx.x) % 8 * 4;
  float total[8][4] = {}, sum[4][8] = {}, ra[kQuads][4], rb[kQuads][4];
  int kept = 0;
  if constexpr (quantised) kept = kept_from(j.quantised, b_along ? int64_t(at.begin) * kSimtStep : at.col);
  auto read = [&](int t) {
    bool first = t < j.tiles;
    int64_t inner = int64_t(first ? t : t - j.tiles) * kSimtStep;
    read_tile<a_along>(first ? j.a : j.a2, at.row, inner, ra);
    if (quantised && first) read_tile<b_along>(j.quantised, levels, at.col, inner, kept, rb);
    else read_tile<b_along>(first ? j.b : j.b2, at.col, inner, rb);
  };
  auto store_tiles = [&](int which) {
    store_tile<a_along>(ra, shared + which * 2 * kTileFloats);
    store_tile<b_along>(rb, shared + which * 2 * kTileFloats + kTileFloats);
  };
  if (at.begin < at.end) {
    read(at.begin);
    store_tiles(0);
  }
  __syncthreads();
  for (int t = at.begin; t < at.end; ++t) {
    const int now = (t - at.begin) % 2;
    if (t + 1 < at.end) read(t + 1);
    const float *a = shared + now * 2 * kTileFloats + tm, *b = shared + now * 2 * kTileFloats + kTileFloats + tn;
#pragma unroll
    for (int k = 0; k < kSimtStep; ++k) {
      float4 x = *reinterpret_cast<const float4*>(a + k * kPitch), y = *reinterpret_cast<const float4*>(b + k * kPitch),
             z = *reinterpret_cast<const float4*>(b + k * kPitch + 32);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[8] = {y.x, y.y, y.z, y.w, z.x, z.y, z.z, z.w};
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[r][c] = fmaf(xs[r], ys[c], sum[r][c]);
    }
    if (t + 1 < at.end) store_tiles(1 - now);
    if ((t - at.begin) % kRun == kRun - 1 || t + 1 == at.end) {
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 8; ++c) total[2 * r + c / 4][c % 4] += sum[r][c], sum[r][c] = 0;
    }
    __syncthreads();
  }
  if (!collect<kSimtThreads>(j.splits, at.tile, at.split, total)) return;
  if constexpr (form != Form::tn) {
    if (!plain(j)) {
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          *reinterpret_cast<float4*>(shared + (tm + r) * kPitch + tn + c * 32) = make_float4(
              total[2 * r + c][0], total[2 * r + c][1], total[2 * r + c][2], total[2 * r + c][3]);
      __syncthreads();
      return complete_tile<kSide, kSide, kPitch, kSimtThreads>(j, at, shared);
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 8; ++c)
      store(j, at.row + tm + r, at.col + tn + c % 4 + c / 4 * 32, total[2 * r + c / 4][c % 4]);
}

auto kernel_of(Form form, bool quantised) {
  if (quantised) return form == Form::nt ? simt_kernel<Form::nt, true> : simt_kernel<Form::nn, true>;
  return form == Form::nt   ? simt_kernel<Form::nt, false>
         : form == Form::nn ? simt_kernel<Form::nn, false>
                            : simt_kernel<Form::tn, false>;
}
constexpr size_t kShared = 4 * kSimtStep * kPitch * sizeof(float);

}  // namespace

void simt(Form form, const Job& j, dim3 grid) {
  launch(kernel_of(form, is_quantised(j.b.type)), grid, dim3(kSimtThreads), kShared, j);
}
int simt_blocks(Form form) { return resident_blocks(kernel_of(form, false), kSimtThreads, kShared); }

}  // namespace mt::cuda
