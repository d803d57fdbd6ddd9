// Matrix products on tensor cores: bfloat16 factors, float32 sums. Tiles of a and b pass through four stages of shared
// memory in the layout of global memory; ldmatrix transposes them where the form needs it. bfloat16 matrices with
// aligned rows are copied asynchronously; all others are prefetched into registers and rounded.
#include <type_traits>

#include "kernels/cuda/matmul_tile.h"

namespace mt::cuda {
namespace {

constexpr int kStages = 4, kPad = 8;  // a pitch that is an odd multiple of 16 bytes has no bank conflicts

/// A tile of `outer` rows (or columns) of a factor. `along`: the inner dimension is contiguous in memory. `halves`: the
/// factor may be float16, as weights may. A narrow tile is one of low-rank factors, which are float32.
template <int outer, bool along, bool halves, int threads>
struct Stage {
  static constexpr int kPitch = (along ? kMmaStep : outer) + kPad, kElements = (along ? outer : kMmaStep) * kPitch;
  static constexpr int kRowChunks = (along ? kMmaStep : outer) / 8, kChunks = outer * kMmaStep / 8,
                       kMine = (kChunks + threads - 1) / threads;
  static constexpr int kApart = threads / kRowChunks;  // rows between the chunks of a thread, all in one column
  static constexpr bool narrow = outer == kNarrow;
  uint4 ahead[kMine * (narrow ? 2 : 1)] = {};

  static __device__ bool idle() { return kChunks < threads && int(threadIdx.x) >= kChunks; }

  /// Starts to fetch the tile at (at, inner) into `to`. end() finishes it, after the sums of another tile.
  __device__ void begin(const Operand& o, int64_t at, int64_t inner, bf16* to) {
    if (idle()) return;
    const int r = int(threadIdx.x) / kRowChunks, c = int(threadIdx.x) % kRowChunks * 8;
    const int64_t row = (along ? at : inner) + r, col = (along ? inner : at) + c, apart = kApart * o.pitch * 2;
    const int64_t left = col < o.cols ? o.rows - row : 0;  // rows from here on
    to += r * kPitch + c;
    if (o.wide && (o.type == DType::bf16 || (halves && o.type == DType::f16))) {
      const char* from = o.data + (row * o.pitch + col) * 2;
      if (!halves || o.type == DType::bf16) {
#pragma unroll
        for (int i = 0; i < kMine; ++i)
          cp_async_16(to + i * kApart * kPitch, i * kApart < left ? from + i * apart : o.data, i * kApart < left);
      } else {
#pragma unroll
        for (int i = 0; i < kMine; ++i)
          ahead[i] = i * kApart < left ? *reinterpret_cast<const uint4*>(from + i * apart) : make_uint4(0, 0, 0, 0);
      }
      return;
    }
    if constexpr (narrow) {
      if (o.wide && o.type == DType::f32) {
        const uint4* from = reinterpret_cast<const uint4*>(o.data + (row * o.pitch + col) * 4);
#pragma unroll
        for (int i = 0; i < kMine; ++i)
          for (int h = 0; h < 2; ++h)
            ahead[2 * i + h] = i * kApart < left ? from[i * (apart / 8) + h] : make_uint4(0, 0, 0, 0);
        return;
      }
    }
    if (o.wide && o.type == DType::f32) {
      // Low-rank factors and weights that are trained: all loads are issued before the first result is used.
      const float4* from = reinterpret_cast<const float4*>(o.data + (row * o.pitch + col) * 4);
      float4 v[2 * kMine];
#pragma unroll
      for (int i = 0; i < 2 * kMine; ++i)
        v[i] = i / 2 * kApart < left ? from[i / 2 * (apart / 8) + i % 2] : make_float4(0, 0, 0, 0);
#pragma unroll
      for (int i = 0; i < 2 * kMine; ++i)
        *reinterpret_cast<uint2*>(to + i / 2 * kApart * kPitch + i % 2 * 4) = make_uint2(
            pack_bf16(o.factor * v[i].x, o.factor * v[i].y), pack_bf16(o.factor * v[i].z, o.factor * v[i].w));
      return;
    }
#pragma unroll 1
    for (int i = 0; i < 2 * kMine; ++i) {  // in halves: fewer registers beside the sums
      float v[4];
      fetch<4>(o, row + i / 2 * kApart, col + i % 2 * 4, v);
      *reinterpret_cast<uint2*>(to + i / 2 * kApart * kPitch + i % 2 * 4) = make_uint2(pack_bf16(v[0], v[1]),
                                                                                       pack_bf16(v[2], v[3]));
    }
  }
  __device__ void end(const Operand& o, bf16* to) {
    if (!o.wide || o.type == DType::bf16 || idle()) return;
    to += int(threadIdx.x) / kRowChunks * kPitch + int(threadIdx.x) % kRowChunks * 8;
    if constexpr (narrow) {
      if (o.type == DType::f32) {
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
          const uint4 x = ahead[2 * i], y = ahead[2 * i + 1];
          *reinterpret_cast<uint4*>(to + i * kApart * kPitch) = make_uint4(rounded(x.x, x.y), rounded(x.z, x.w),
                                                                           rounded(y.x, y.y), rounded(y.z, y.w));
        }
      }
    }
    if constexpr (halves) {
      if (o.type == DType::f16) {
#pragma unroll
        for (int i = 0; i < kMine; ++i)
          *reinterpret_cast<uint4*>(to + i * kApart * kPitch) = make_uint4(rounded(ahead[i].x), rounded(ahead[i].y),
                                                                           rounded(ahead[i].z), rounded(ahead[i].w));
      }
    }
  }
  static __device__ uint32_t rounded(uint32_t x, uint32_t y) {
    return pack_bf16(__uint_as_float(x), __uint_as_float(y));
  }
  static __device__ uint32_t rounded(uint32_t pair) {
    return pack_bf16(widen_f16(pair & 0xffff), widen_f16(pair >> 16));
  }
};

/// The same of a quantised factor: its codes are read ahead, and unpacked on their way into the tile. The tiles of the
/// second pair are plain ones.
template <int outer, bool along, int threads>
struct QuantisedStage : Stage<outer, along, false, threads> {
  using Plain = Stage<outer, along, false, threads>;
  using Plain::kApart, Plain::kMine, Plain::kPitch, Plain::kRowChunks;
  const Quantised& q;
  const float* levels;
  Codes codes[kMine] = {};
  int kept;  // the first column from this thread's on in the last tile

  /// A thread's first eight numbers of a tile, and where they go.
  struct Place {
    int64_t row, col;
    int to;
    __device__ Place(int64_t at, int64_t inner) {
      const int r = int(threadIdx.x) / kRowChunks, c = int(threadIdx.x) % kRowChunks * 8;
      row = (along ? at : inner) + r;
      col = (along ? inner : at) + c;
      to = r * kPitch + c;
    }
  };
  /// (at, inner): its first tile.
  __device__ QuantisedStage(const Quantised& q, const float* levels, int64_t at, int64_t inner)
      : q(q), levels(levels), kept(kept_from(q, Place(at, inner).col)) {}

  __device__ void begin_quantised(int64_t at, int64_t inner, bf16* to) {
    if (Plain::idle()) return;
    const Place p(at, inner);
    if (q.width % 8 == 0) {
#pragma unroll
      for (int i = 0; i < kMine; ++i) codes[i] = read_codes(q, p.row + i * kApart, p.col);
      return;
    }
#pragma unroll 1
    for (int i = 0; i < 2 * kMine; ++i) {
      const int64_t col = p.col + i % 2 * 4;
      float v[4];
      fetch4(q, levels, p.row + i / 2 * kApart, col, kept_from(q, col), v);
      *reinterpret_cast<uint2*>(to + p.to + i / 2 * kApart * kPitch + i % 2 * 4) = make_uint2(pack_bf16(v[0], v[1]),
                                                                                              pack_bf16(v[2], v[3]));
    }
  }
  __device__ void end_quantised(int64_t at, int64_t inner, bf16* to) {
    if (Plain::idle() || q.width % 8) return;
    const Place p(at, inner);
    kept = kept_from(q, p.col, kept);
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      float v[8];
      decode(q, levels, codes[i], v);
      put_kept(q, p.row + i * kApart, p.col, kept, v);
      *reinterpret_cast<uint4*>(to + p.to + i * kApart * kPitch) = make_uint4(
          pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    }
  }
};

/// Loads four 8×8 matrices: 16 rows of a factor × 16 elements of the inner dimension. `inner_first`: the second matrix
/// is the next one along the inner dimension (b), not along the rows (a).
template <bool along, bool inner_first>
__device__ void fragment(uint32_t (&r)[4], const bf16* tile, int pitch, int outer, int inner) {
  const int lane = int(threadIdx.x) % 32, one = lane / 8 % 2 * 8, two = lane / 16 * 8, i = lane % 8;
  const int o = outer + (inner_first ? two : one), k = inner + (inner_first ? one : two);
  if (along) ldmatrix_x4(r, tile + (o + i) * pitch + k);
  else ldmatrix_x4_trans(r, tile + (k + i) * pitch + o);
}

/// A block of warps_m × warps_n warps forms rows × cols sums. The larger a warp's part, the less often an element is
/// read from shared memory, whose bandwidth limits large products.
template <Form form, int rows, int cols, int warps_m, int warps_n, bool quantised>
__global__ void __launch_bounds__(warps_m * warps_n * 32, 2) mma_kernel(Job j) {
  constexpr bool a_along = form != Form::tn, b_along = form == Form::nt;
  constexpr int threads = warps_m * warps_n * 32, wm = rows / warps_m, wn = cols / warps_n, fm = wm / 16, fn = wn / 8;
  using A = Stage<rows, a_along, false, threads>;
  using B = std::conditional_t<quantised, QuantisedStage<cols, b_along, threads>,
                               Stage<cols, b_along, form != Form::tn, threads>>;
  SHARED(bf16, shared);
  __shared__ float levels[16];
  if constexpr (quantised) load_levels(j.quantised, levels);
  bf16* const tiles_b = shared + kStages * A::kElements;
  const BlockTile at = block_tile(j, rows, cols);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, row = warp / warps_n * wm,
            col = warp % warps_n * wn;
  float sum[fm * fn][4] = {};
  A a;
  B b = [&] {
    if constexpr (quantised) return B(j.quantised, levels, at.col, int64_t(at.begin) * kMmaStep);
    else return B{};
  }();
  auto begin = [&](int t) {
    if (t < at.end) {
      const bool first = t < j.tiles;
      const int64_t inner = int64_t(first ? t : t - j.tiles) * kMmaStep;
      const int s = (t - at.begin) % kStages;
      a.begin(first ? j.a : j.a2, at.row, inner, shared + s * A::kElements);
      bf16* const to = tiles_b + s * B::kElements;
      if constexpr (quantised) {
        if (first) b.begin_quantised(at.col, inner, to);
        else b.begin(j.b2, at.col, inner, to);
      } else {
        b.begin(first ? j.b : j.b2, at.col, inner, to);
      }
    }
    cp_async_commit();
  };
  auto end = [&](int t) {
    if (t >= at.end) return;
    const int s = (t - at.begin) % kStages;
    const bool first = t < j.tiles;
    bf16* const to = tiles_b + s * B::kElements;
    a.end(first ? j.a : j.a2, shared + s * A::kElements);
    if constexpr (quantised) {
      if (first) b.end_quantised(at.col, int64_t(t) * kMmaStep, to);
      else b.end(j.b2, to);
    } else {
      b.end(first ? j.b : j.b2, to);
    }
  };
#pragma unroll 1
  for (int t = at.begin; t < at.begin + kStages - 1; ++t) {
    begin(t);
    end(t);
  }
#pragma unroll 1
  for (int t = at.begin; t < at.end; ++t) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    begin(t + kStages - 1);
    const int s = (t - at.begin) % kStages;
    const bf16 *ta = shared + s * A::kElements, *tb = tiles_b + s * B::kElements;
#pragma unroll
    for (int k = 0; k < kMmaStep; k += 16) {
      uint32_t x[fm][4], y[fn / 2][4];
#pragma unroll
      for (int i = 0; i < fm; ++i) fragment<a_along, false>(x[i], ta, A::kPitch, row + 16 * i, k);
#pragma unroll
      for (int i = 0; i < fn / 2; ++i) fragment<b_along, true>(y[i], tb, B::kPitch, col + 16 * i, k);
#pragma unroll
      for (int i = 0; i < fm; ++i)
#pragma unroll
        for (int c = 0; c < fn; ++c)
          mma_m16n8k16(sum[i * fn + c], x[i], {y[c / 2][c % 2 * 2], y[c / 2][c % 2 * 2 + 1]});
    }
    end(t + kStages - 1);
  }
  if (!collect<threads>(j.splits, at.tile, at.split, sum)) return;
  if constexpr (form != Form::tn) {
    if (!plain(j)) {
      constexpr int pitch = cols + 8;
      static_assert(rows * pitch * sizeof(float) <= kStages * (A::kElements + B::kElements) * sizeof(bf16));
      float* const sums = reinterpret_cast<float*>(shared);
      __syncthreads();  // the last tiles have been read
#pragma unroll
      for (int i = 0; i < fm; ++i)
#pragma unroll
        for (int c = 0; c < fn; ++c)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            *reinterpret_cast<float2*>(sums + (row + 16 * i + 8 * h + lane / 4) * pitch + col + 8 * c +
                                       lane % 4 * 2) = make_float2(sum[i * fn + c][2 * h], sum[i * fn + c][2 * h + 1]);
      __syncthreads();
      return complete_tile<rows, cols, pitch, threads>(j, at, sums);
    }
  }
#pragma unroll
  for (int i = 0; i < fm; ++i)
#pragma unroll
    for (int c = 0; c < fn; ++c)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        store2(j, at.row + row + 16 * i + 8 * h + lane / 4, at.col + col + 8 * c + lane % 4 * 2, sum[i * fn + c][2 * h],
               sum[i * fn + c][2 * h + 1]);
}

/// The kernel of a tile, with its launch parameters.
struct Kernel {
  void (*kernel)(Job);
  int threads;
  size_t shared_bytes;
};
template <Form form, bool quantised, int tile, int warps_m, int warps_n>
Kernel kernel_of() {
  constexpr int rows = kTiles[tile].rows, cols = kTiles[tile].cols, threads = warps_m * warps_n * 32;
  constexpr size_t elements = Stage<rows, form != Form::tn, false, threads>::kElements +
                              Stage<cols, form == Form::nt, form != Form::tn, threads>::kElements;
  return {mma_kernel<form, rows, cols, warps_m, warps_n, quantised>, threads, kStages * elements * sizeof(bf16)};
}
template <Form form, bool quantised>
Kernel kernel_of(int tile) {
  switch (tile) {
    case 0: return kernel_of<form, quantised, 0, 2, 2>();
    case 1: return kernel_of<form, quantised, 1, 2, 2>();
    case 2: return kernel_of<form, quantised, 2, 1, 4>();
    default: return kernel_of<form, quantised, 3, 4, 1>();
  }
}
Kernel kernel_of(Form form, int tile, bool quantised) {
  if (quantised) return form == Form::nt ? kernel_of<Form::nt, true>(tile) : kernel_of<Form::nn, true>(tile);
  return form == Form::nt   ? kernel_of<Form::nt, false>(tile)
         : form == Form::nn ? kernel_of<Form::nn, false>(tile)
                            : kernel_of<Form::tn, false>(tile);
}

}  // namespace

void mma(Form form, int tile, const Job& j, dim3 grid) {
  const Kernel k = kernel_of(form, tile, is_quantised(j.b.type));
  launch(k.kernel, grid, dim3(unsigned(k.threads)), k.shared_bytes, j);
}
int mma_blocks(Form form, int tile) {
  const Kernel k = kernel_of(form, tile, false);
  return resident_blocks(k.kernel, k.threads, k.shared_bytes);
}

}  // namespace mt::cuda
