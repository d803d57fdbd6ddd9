// What the kernels of a matrix product share: reading matrices, tiles of c and of the inner dimension, storing results.
#pragma once
#include "kernels/cuda/pieces.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/quantised.h"

namespace mt::cuda {

// ---- reading ----

struct Operand {
  const char* data;
  DType type;
  bool wide;  // rows begin at multiples of 16 bytes and have a multiple of 8 elements, padded with zeros
  int64_t rows, cols, pitch;
  float factor;
};

__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/// One element, widened.
__device__ inline float element(const Operand& o, int64_t i) {
  if (o.type == DType::f32) return reinterpret_cast<const float*>(o.data)[i];
  uint32_t bits = reinterpret_cast<const uint16_t*>(o.data)[i];
  return o.type == DType::bf16 ? low_bf16(bits) : widen_f16(bits);
}
/// N = 4 or 8 elements of a row from column `col`, a multiple of N; zeros beyond the matrix.
template <int N>
__device__ inline void fetch(const Operand& o, int64_t row, int64_t col, float (&v)[N]) {
  if (row >= o.rows || col >= o.cols) {
    for (int e = 0; e < N; ++e) v[e] = 0;
    return;
  }
  int64_t at = row * o.pitch + col;
  if (!o.wide) {
#pragma unroll
    for (int e = 0; e < N; ++e) v[e] = col + e < o.cols ? o.factor * element(o, at + e) : 0.0f;
    return;
  }
  if (o.type == DType::f32) {
#pragma unroll
    for (int e = 0; e < N; e += 4) {
      float4 x = *reinterpret_cast<const float4*>(o.data + (at + e) * 4);
      v[e] = x.x, v[e + 1] = x.y, v[e + 2] = x.z, v[e + 3] = x.w;
    }
  } else {
#pragma unroll
    for (int e = 0; e < N; e += 4) {
      uint2 x = *reinterpret_cast<const uint2*>(o.data + (at + e) * 2);
      if (o.type == DType::bf16)
        v[e] = low_bf16(x.x), v[e + 1] = high_bf16(x.x), v[e + 2] = low_bf16(x.y), v[e + 3] = high_bf16(x.y);
      else
        v[e] = widen_f16(x.x & 0xffff), v[e + 1] = widen_f16(x.x >> 16), v[e + 2] = widen_f16(x.y & 0xffff),
        v[e + 3] = widen_f16(x.y >> 16);
    }
  }
#pragma unroll
  for (int e = 0; e < N; ++e) v[e] *= o.factor;
}

// ---- how a product is divided among blocks ----

/// A product for the kernels. Tiles of the inner dimension are numbered through the first pair, then the second. A
/// split is `per_split` consecutive ones; several splits are the pieces of a tile of c.
struct Job {
  Operand a, b, a2, b2;
  Quantised quantised;  // b where it is
  void* c;
  DType type;
  bool pairs;  // two adjacent elements of c, the first in an even column, may be stored at once
  const float* bias;
  float alpha;
  const void* residual;
  void* before;
  bool gelu;
  bool quads;  // likewise four of c, residual and before, the first in a column that is a multiple of 4
  Pieces splits;
  int64_t m, n;
  int tiles, more;  // tiles of the inner dimension: of the first pair, of the second
  int per_split;
  int64_t tiles_m, tiles_n;
};

/// What a block computes: the first row and column of a tile of c, its number, and a run of inner tiles. Consecutive
/// blocks share columns of b, the weight.
struct BlockTile {
  int64_t row, col, tile;
  int split, begin, end;
};
__device__ inline BlockTile block_tile(const Job& j, int rows, int cols) {
  const int64_t tiles = j.tiles_m * j.tiles_n, tile = blockIdx.x % tiles;
  const int split = int(blockIdx.x / tiles), begin = split * j.per_split, all = j.tiles + j.more;
  return {tile % j.tiles_m * rows,
          tile / j.tiles_m * cols,
          tile,
          split,
          begin,
          all - begin > j.per_split ? begin + j.per_split : all};
}

/// Element i of a matrix of the shape and type of c.
__device__ inline float read(const Job& j, const void* from, int64_t i) {
  return j.type == DType::bf16 ? float(static_cast<const bf16*>(from)[i]) : static_cast<const float*>(from)[i];
}
__device__ inline void write(const Job& j, void* to, int64_t i, float y) {
  if (j.type == DType::bf16) static_cast<bf16*>(to)[i] = bf16(y);
  else static_cast<float*>(to)[i] = y;
}
__device__ inline float value(const Job& j, int64_t col, float sum) {
  return j.alpha * sum + (j.bias ? j.bias[col] : 0.0f);
}
__device__ inline void store(const Job& j, int64_t row, int64_t col, float sum) {
  if (row < j.m && col < j.n) write(j, j.c, row * j.n + col, value(j, col, sum));
}
/// Two adjacent elements of a row, the first in an even column.
__device__ inline void store2(const Job& j, int64_t row, int64_t col, float x, float y) {
  if (!j.pairs || row >= j.m || col >= j.n) {
    store(j, row, col, x);
    return store(j, row, col + 1, y);
  }
  x = value(j, col, x);
  y = value(j, col + 1, y);
  if (j.type == DType::bf16) static_cast<uint32_t*>(j.c)[(row * j.n + col) / 2] = pack_bf16(x, y);
  else *reinterpret_cast<float2*>(static_cast<float*>(j.c) + row * j.n + col) = make_float2(x, y);
}

// ---- storing c with a residual or GELU ----

/// Whether c has neither, so that kernels store value() from their registers.
__device__ inline bool plain(const Job& j) { return !j.residual && !j.gelu; }
/// An element of c, plain or not.
__device__ inline void complete(const Job& j, int64_t row, int64_t col, float sum) {
  const int64_t i = row * j.n + col;
  float y = value(j, col, sum);
  if (j.residual) y += read(j, j.residual, i);
  if (j.before) write(j, j.before, i, y);
  write(j, j.c, i, j.gelu ? gelu(y) : y);
}
/// The first `count` of four adjacent elements from i on, of a matrix like c.
__device__ inline void read4(const Job& j, const void* from, int64_t i, int count, float (&v)[4]) {
  if (!j.quads) {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = e < count ? read(j, from, i + e) : 0.0f;
  } else if (j.type == DType::bf16) {
    const uint2 x = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(from) + i);
    v[0] = low_bf16(x.x), v[1] = high_bf16(x.x), v[2] = low_bf16(x.y), v[3] = high_bf16(x.y);
  } else {
    const float4 x = *reinterpret_cast<const float4*>(static_cast<const float*>(from) + i);
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
  }
}
__device__ inline void write4(const Job& j, void* to, int64_t i, int count, const float (&v)[4]) {
  if (!j.quads) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (e < count) write(j, to, i + e, v[e]);
  } else if (j.type == DType::bf16) {
    *reinterpret_cast<uint2*>(static_cast<bf16*>(to) + i) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  } else {
    *reinterpret_cast<float4*>(static_cast<float*>(to) + i) = make_float4(v[0], v[1], v[2], v[3]);
  }
}
/// complete() for the first `count` of four adjacent elements of a row, the first in a column that is a multiple of 4.
__device__ inline void complete4(const Job& j, int64_t row, int64_t col, int count, float (&v)[4]) {
  const int64_t i = row * j.n + col;
#pragma unroll
  for (int e = 0; e < 4; ++e) v[e] = value(j, e < count ? col + e : col, v[e]);
  if (j.residual) {
    float x[4];
    read4(j, j.residual, i, count, x);
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] += x[e];
  }
  if (j.before) write4(j, j.before, i, count, v);
  if (j.gelu) {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = gelu(v[e]);
  }
  write4(j, j.c, i, count, v);
}
/// complete() for a block whose sums lie in shared memory, rows `pitch` apart: adjacent threads then read and write
/// adjacent elements, and the sums' registers are free.
template <int rows, int cols, int pitch, int threads>
__device__ inline void complete_tile(const Job& j, const BlockTile& at, const float* sums) {
#pragma unroll 1
  for (int q = int(threadIdx.x); q < rows * cols / 4; q += threads) {
    const int r = q / (cols / 4), c = q % (cols / 4) * 4;
    const int64_t row = at.row + r, col = at.col + c;
    if (row >= j.m || col >= j.n) continue;
    const float4 sum = *reinterpret_cast<const float4*>(sums + r * pitch + c);
    float v[4] = {sum.x, sum.y, sum.z, sum.w};
    complete4(j, row, col, j.n - col < 4 ? int(j.n - col) : 4, v);
  }
}

// ---- kernels, by file ----

/// matmul_simt.cu and matmul_mma.cu: c by tiles of kSimtTile, and of kTiles[tile].
void simt(Form form, const Job& j, dim3 grid);
void mma(Form form, int tile, const Job& j, dim3 grid);
/// How many blocks of such a kernel a multiprocessor of the current device holds at a time.
int simt_blocks(Form form);
int mma_blocks(Form form, int tile);
/// matmul_rows.cu: form nt with few rows, of a multiple of 8 elements; reads b once.
void few_rows(const Job& j);
/// matmul.cu: c from `sums` = a·b [m,n], which another kernel has formed.
void finish(const Job& j, const float* sums);
Job job(const Matmul& p);
/// A matrix; where `wanted`, a copy whose rows are rounded to bfloat16 and padded to a multiple of 8 elements.
class Packed {
 public:
  Packed(const Matrix& x, bool wanted);
  const Matrix& matrix() const { return matrix_; }

 private:
  Scratch scratch_;
  Matrix matrix_;
};
/// matmul_library.cu: throws where cuBLASLt is required by a variable and was not found.
void require_choice();
/// Computes a product by cuBLASLt, where that is faster than `own`, the plan without it; else returns false. The
/// factors may be rounded, and a has more than a few rows.
bool library_matmul(const Matmul& p, const Plan& own);

}  // namespace mt::cuda
