#include "ops/lora.h"

#include <algorithm>

#include "core/round.h"
#include "kernels/cuda/pieces.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {
namespace {

// ---- gradients of A and B: thin products over all rows of activations, both in one launch ----
//
// A block forms a tile of kRank × kColumns sums of one gradient, over a piece of the rows; the sums of the pieces are
// added up in their order.

constexpr int kRank = 16, kColumns = 64, kStep = 64;  // kStep: rows in shared memory at a time
constexpr int kLoraThreads = 128, kLoraWarps = kLoraThreads / 32;

/// out = factor·leftᵀ·right: left [m,r] float32 or bfloat16, right [m,cols]; out [r,cols], or [cols,r] where `turned`.
template <typename T>
struct Side {
  const void* left;
  DType type;
  bool whole;  // packs of left may be read
  const T* right;
  bool wide;  // packs of right may be read
  int64_t cols;
  float* out;
  bool turned;
  float factor;
};
template <typename T>
struct Gradients {
  Side<T> a, b;
  int64_t m, r, ranks, tiles_a, tiles;  // tiles of r, of a's columns, of both gradients
  int64_t rows;                         // of a piece
  Pieces pieces;                        // of a tile
};

/// What a block computes.
template <typename T>
struct BlockTile {
  Side<T> side;
  int64_t rank, col, begin, end, tile, piece;
  __device__ explicit BlockTile(const Gradients<T>& g) : tile(blockIdx.x % g.tiles), piece(blockIdx.x / g.tiles) {
    const int64_t columns = tile / g.ranks;
    const bool second = columns >= g.tiles_a;
    side = second ? g.b : g.a;
    rank = tile % g.ranks * kRank;
    col = (second ? columns - g.tiles_a : columns) * kColumns;
    begin = piece * g.rows;
    end = min(begin + g.rows, g.m);
  }
  /// Eight elements of left's row from column `rank + c`.
  __device__ void read_left(const Gradients<T>& g, int64_t row, int c, float (&v)[8]) const {
    const int64_t left = row < end ? g.r - rank - c : 0, i = row * g.r + rank + c;
    const bool whole = side.whole && left >= 8;
    if (side.type == DType::bf16) load(static_cast<const bf16*>(side.left) + i, left, whole, v);
    else load(static_cast<const float*>(side.left) + i, left, whole, v);
  }
  __device__ void write(const Gradients<T>& g, int64_t r, int64_t c, float sum) const {
    if (r < g.r && c < side.cols) side.out[side.turned ? c * g.r + r : r * side.cols + c] = side.factor * sum;
  }
};

/// On tensor cores, with three stages of shared memory; a warp has 16 columns.
__global__ void __launch_bounds__(kLoraThreads) gradients_mma(Gradients<bf16> g) {
  constexpr int kStages = 3, kLeftPitch = kRank + 8, kPitch = kColumns + 8, kStage = kStep * (kLeftPitch + kPitch);
  SHARED(bf16, shared);
  static_assert(kStep * kRank / 8 == kLoraThreads && kColumns == 16 * kLoraWarps);
  const BlockTile<bf16> at(g);
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, row = thread / 2, c = thread % 2 * 8;
  const int steps = int(ceil_div(at.end - at.begin, kStep));
  uint4 ahead;  // this thread's eight elements of left
  float sum[2][4] = {};
  auto begin = [&](int t) {
    if (t < steps) {
      bf16* const to = shared + t % kStages * kStage + kStep * kLeftPitch;
      const int64_t first = at.begin + int64_t(t) * kStep;
#pragma unroll
      for (int i = 0; i < kStep * kColumns / 8 / kLoraThreads; ++i) {
        const int q = thread + i * kLoraThreads, r = q / (kColumns / 8), k = q % (kColumns / 8) * 8;
        const int64_t left = first + r < at.end ? at.side.cols - at.col - k : 0;
        const bf16* from = at.side.right + (first + r) * at.side.cols + at.col + k;
        if (at.side.wide) {
          cp_async_16(to + r * kPitch + k, left > 0 ? from : at.side.right, left > 0);
        } else {
          float v[8];
          load(from, left, false, v);
          store(to + r * kPitch + k, 8, true, v);
        }
      }
      float v[8];
      at.read_left(g, first + row, c, v);
      ahead = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    }
    cp_async_commit();
  };
  auto end = [&](int t) {
    if (t < steps) *reinterpret_cast<uint4*>(shared + t % kStages * kStage + row * kLeftPitch + c) = ahead;
  };
  for (int t = 0; t < kStages - 1; ++t) {
    begin(t);
    end(t);
  }
#pragma unroll 1
  for (int t = 0; t < steps; ++t) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    begin(t + kStages - 1);
    const bf16 *left = shared + t % kStages * kStage, *right = left + kStep * kLeftPitch + 16 * warp;
#pragma unroll
    for (int k = 0; k < kStep; k += 16) {  // rows run along the inner dimension on both sides
      uint32_t x[4], y[4];
      ldmatrix_x4_trans(x, left + (k + lane / 16 * 8 + lane % 8) * kLeftPitch + lane / 8 % 2 * 8);
      ldmatrix_x4_trans(y, right + (k + lane / 8 % 2 * 8 + lane % 8) * kPitch + lane / 16 * 8);
      mma_m16n8k16(sum[0], x, {y[0], y[1]});
      mma_m16n8k16(sum[1], x, {y[2], y[3]});
    }
    end(t + kStages - 1);
  }
  if (!collect<kLoraThreads>(g.pieces, at.tile, at.piece, sum)) return;
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      at.write(g, at.rank + lane / 4 + e / 2 * 8, at.col + 16 * warp + 8 * n + lane % 4 * 2 + e % 2, sum[n][e]);
}

/// In float32; a lane has two columns, a warp every fourth row.
template <typename T>
__global__ void __launch_bounds__(kLoraThreads) gradients_plain(Gradients<T> g) {
  __shared__ float left[kStep][kRank], sums[kLoraWarps][kRank][kColumns];
  const BlockTile<T> at(g);
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int64_t col = at.col + 2 * lane, there = at.side.cols - col;
  constexpr int kMine = kRank * kColumns / kLoraThreads;
  struct Sum {
    int r, c;
  };
  auto mine = [&](int k) {  // adjacent threads write adjacent elements
    const int i = thread + k * kLoraThreads;
    return at.side.turned ? Sum{i % kRank, i / kRank} : Sum{i / kColumns, i % kColumns};
  };
  float sum[kRank][2] = {};
  for (int64_t first = at.begin; first < at.end; first += kStep) {
    float v[8];
    at.read_left(g, first + thread / 2, thread % 2 * 8, v);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 8; ++k) left[thread / 2][thread % 2 * 8 + k] = v[k];
    __syncthreads();
    const int count = int(min(at.end - first, int64_t(kStep)));
#pragma unroll 4
    for (int i = warp; i < count; i += kLoraWarps) {
      float x[2];
      load(at.side.right + (first + i) * at.side.cols + col, there, at.side.wide && there >= 2, x);
#pragma unroll
      for (int r = 0; r < kRank; ++r)
#pragma unroll
        for (int e = 0; e < 2; ++e) sum[r][e] = fmaf(left[i][r], x[e], sum[r][e]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRank; ++r)
#pragma unroll
    for (int e = 0; e < 2; ++e) sums[warp][r][2 * lane + e] = sum[r][e];
  __syncthreads();
  float total[kMine / 4][4] = {};
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const auto [r, c] = mine(k);
    for (int w = 0; w < kLoraWarps; ++w) total[k / 4][k % 4] += sums[w][r][c];
  }
  if (!collect<kLoraThreads>(g.pieces, at.tile, at.piece, total)) return;
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const auto [r, c] = mine(k);
    at.write(g, at.rank + r, at.col + c, total[k / 4][k % 4]);
  }
}

/// Into how many pieces the rows are cut: enough blocks for a large GPU, pieces of 128 rows at least.
int64_t pieces_of(int64_t m, int64_t tiles) {
  constexpr int64_t kBlocks = 384;
  static_assert(kBlocks <= kCounters);
  return std::clamp<int64_t>(kBlocks / tiles, 1, std::max<int64_t>(1, m / (2 * kStep)));
}

}  // namespace

void lora_forward(const Act& x, const View& w, const Maybe& bias, const View& a, const View& b, double scaling,
                  ActOut y, Out shrunk) {
  matmul(activations(Form::nt, x, a, shrunk));
  Matmul p = activations(Form::nt, x, w, y);
  p.bias = numbers(bias);
  p.a2 = matrix(shrunk);
  p.b2 = matrix(b);
  p.factor = float(scaling);
  matmul(p);
}

void lora_backward(const Act& dy, const Act& x, const View& shrunk, const View& w, const View& a, const View& b,
                   double scaling, const MaybeAct& residual, MaybeActOut dx, Out da, Out db) {
  const int64_t m = x.rows(), r = a.size(0), in = a.size(1), out = b.size(0);
  const bool narrow = x.dtype == DType::bf16, cores = narrow && m > kFewRows;
  const int64_t ranks = ceil_div(r, kRank), tiles_a = ceil_div(in, kColumns),
                tiles = ranks * (tiles_a + ceil_div(out, kColumns));
  const int64_t rows = tiles ? ceil_div(ceil_div(m, pieces_of(m, tiles)), kStep) * kStep : 0,
                pieces = std::max<int64_t>(1, rows ? ceil_div(m, rows) : 1);
  // u = scaling·dy B. Tensor cores would round it where it is used, so that it is stored as bfloat16 for them.
  const DType type = cores ? DType::bf16 : DType::f32;
  const Scratch scratch(size_t(m * r) * size_of(type));
  const PieceMemory memory(tiles, pieces, kRank * kColumns);
  const Matrix u{scratch.as<void>(), type, m, r};
  matmul({.form = Form::nn,
          .a = matrix(dy),
          .b = matrix(b),
          .c = scratch.as<void>(),
          .type = type,
          .narrow = narrow,
          .alpha = float(scaling)});
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    auto side = [&](const Matrix& left, const View& right, float* to, bool turned, double factor) {
      const T* from = right.data<T>();
      const bool whole = r % 8 == 0 && reinterpret_cast<uintptr_t>(left.data) % 16 == 0;
      return Side<T>{
          left.data,      left.type, whole,  from,         right.size(-1) % 8 == 0 && aligned<kWidth<T>>(from),
          right.size(-1), to,        turned, float(factor)};
    };
    const Gradients<T> g{side(u, x, da.data<float>(), false, 1),
                         side(matrix(shrunk), dy, db.data<float>(), true, scaling),
                         m,
                         r,
                         ranks,
                         tiles_a,
                         tiles,
                         rows,
                         memory.pieces()};
    const dim3 grid = blocks(tiles * pieces, 1);
    if constexpr (std::is_same_v<T, bf16>)
      if (cores) launch(gradients_mma, grid, dim3(kLoraThreads), 3 * kStep * (kRank + kColumns + 16) * sizeof(bf16), g);
    if (!cores) launch(gradients_plain<T>, grid, dim3(kLoraThreads), 0, g);
  });
  if (!dx) return;
  Matmul p = activations(Form::nn, dy, w, dx);
  p.a2 = u;
  p.b2 = matrix(a);
  p.residual = address(residual);
  matmul(p);
}

}  // namespace mt::cuda
