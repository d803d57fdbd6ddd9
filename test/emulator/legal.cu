// What kernels may do: every operation of kernels/cuda/port.h and of the emulator, compared with plain loops.
#include <cmath>
#include <vector>

#include "kernels/cuda/port.h"
#include "kernels.h"
#include "host.h"
#include "kernels/cuda/pieces.h"

namespace mt::cuda {
namespace {

/// d[16,8] = a[16,16]·b[16,8] by one warp. `how`: 0 fragments by hand, 1 ldmatrix with b as [8,16] rows, 2
/// ldmatrix.trans with b as [16,8] rows and x2, 3 the same by x4_trans.
__global__ void product(const bf16* a, const bf16* b, float* d, int how) {
  SHARED(bf16, s);
  bf16 *sa = s, *sb = s + 16 * 24;  // rows of 24: 48 bytes, aligned to 16
  const int lane = threadIdx.x, g = lane / 4, t = 2 * (lane % 4);
  for (int i = lane; i < 256; i += 32) sa[i / 16 * 24 + i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) {
    const int k = i / 8, n = i % 8;
    if (how < 2) sb[n * 24 + k] = b[i];
    else sb[k * 24 + n] = b[i];
  }
  __syncwarp();
  uint32_t fa[4], fb[2];
  float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (how == 0) {
    for (int i = 0; i < 4; ++i)
      fa[i] = *reinterpret_cast<const uint32_t*>(&sa[(g + 8 * (i % 2)) * 24 + t + 8 * (i / 2)]);
    for (int i = 0; i < 2; ++i) fb[i] = *reinterpret_cast<const uint32_t*>(&sb[g * 24 + t + 8 * i]);
  } else {
    ldmatrix_x4(fa, &sa[lane % 16 * 24 + lane / 16 * 8]);
    if (how == 1) ldmatrix_x2(fb, &sb[lane % 8 * 24 + lane / 8 % 2 * 8]);
    if (how == 2) ldmatrix_x2_trans(fb, &sb[lane % 16 * 24]);
    if (how == 3) {
      uint32_t both[4];
      ldmatrix_x4_trans(both, &sb[lane % 16 * 24]);
      fb[0] = both[2], fb[1] = both[3];
    }
  }
  mma_m16n8k16(acc, fa, fb);
  for (int e = 0; e < 4; ++e) d[(g + 8 * (e / 2)) * 8 + t + e % 2] = acc[e];
}

std::string products() {
  std::vector<bf16> a(256), b(128);
  for (int i = 0; i < 256; ++i) a[i] = bf16(std::sin(0.7f * float(i)));
  for (int i = 0; i < 128; ++i) b[i] = bf16(std::cos(1.3f * float(i)));
  Device<bf16> da(a), db(b);
  for (int how = 0; how < 4; ++how) {
    Device<float> dd(128);
    launch(product, 1, 32, (16 * 24 + 16 * 24) * sizeof(bf16), da.p, db.p, dd.p, how);
    if (std::string e = failure(); !e.empty()) return e;
    auto d = dd.read();
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        double want = 0;
        for (int k = 0; k < 16; ++k) want += double(float(a[i * 16 + k])) * double(float(b[k * 8 + j]));
        if (!(std::fabs(d[i * 8 + j] - want) < 1e-5))
          return text("product ", how, " at ", i, ",", j, ": ", d[i * 8 + j], " for ", want);
      }
  }
  return "";
}

/// Results of every lane, 16 a lane.
__global__ void warp(int64_t* out) {
  const int lane = threadIdx.x;
  int64_t* o = out + lane * 16;
  o[0] = __shfl_sync(~0u, lane * 10, 5);
  o[1] = __shfl_sync(~0u, lane, 9, 8);
  o[2] = int64_t(__shfl_xor_sync(~0u, float(lane) + 0.5f, 3) * 2);
  o[3] = __shfl_up_sync(~0u, unsigned(lane), 2);
  o[4] = __shfl_down_sync(~0u, int64_t(lane) << 40, 4);
  o[5] = int64_t(__shfl_down_sync(~0u, double(lane), 3, 16));
  o[6] = __ballot_sync(~0u, lane % 3 == 0);
  o[7] = __any_sync(~0u, lane == 31);
  o[8] = __any_sync(~0u, lane > 31);
  o[9] = __all_sync(~0u, lane < 32);
  o[10] = __all_sync(~0u, lane < 31);
  // The halves diverge, each with its own mask; the first half takes a longer path.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  int v = lane;
  if (lane < 16) v += 100, __syncwarp(half);
  for (int k = 8; k; k /= 2) v += __shfl_xor_sync(half, v, k);
  o[11] = v;
  o[12] = __shfl_xor_sync(~0u, lane, 8, 8);  // beyond the end of the segment: a lane's own value
  o[13] = __shfl_up_sync(~0u, lane, 1, 4);
  o[14] = __popc(0xf0u) + __ffs(8) + __clz(1);
  o[15] = __float_as_uint(1.0f);
}

std::string warps() {
  Device<int64_t> out(512);
  launch(warp, 1, 32, 0, out.p);
  if (std::string e = failure(); !e.empty()) return e;
  auto got = out.read();
  for (int64_t l = 0; l < 32; ++l) {
    const int64_t want[16] = {50,
                              (l & ~7) + 1,
                              2 * (l ^ 3) + 1,
                              l < 2 ? l : l - 2,
                              (l > 27 ? l : l + 4) << 40,
                              l % 16 > 12 ? l : l + 3,
                              0x49249249,
                              1,
                              0,
                              1,
                              0,
                              l<16 ? 1720 : 376, (l ^ 8)>(l | 7) ? l : l ^ 8,
                              l % 4 ? l - 1 : l,
                              4 + 4 + 31,
                              0x3f800000};
    for (int i = 0; i < 16; ++i)
      if (got[l * 16 + i] != want[i]) return text("lane ", l, ", answer ", i, ": ", got[l * 16 + i], " for ", want[i]);
  }
  return "";
}

/// Copies n floats through shared memory, in groups of 16 bytes a thread, one in flight while the other is used; zeros
/// after n.
__global__ void staged(const float* x, float* y, int n) {
  SHARED(float, s);
  float4* mine = reinterpret_cast<float4*>(s) + 2 * threadIdx.x;
  const int at = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
  for (int k = 0; k < 2; ++k) {
    const bool valid = at + 4 * k + 4 <= n;
    cp_async_16(mine + k, valid ? x + at + 4 * k : x, valid);
    cp_async_commit();
  }
  cp_async_wait<1>();
  *reinterpret_cast<float4*>(y + at) = mine[0];
  cp_async_wait<0>();
  *reinterpret_cast<float4*>(y + at + 4) = mine[1];
}

std::string copies() {
  std::vector<float> x(2000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i);
  Device<float> dx(x), dy(2048);
  launch(staged, 8, 32, 32 * 32, dx.p, dy.p, 2000);
  if (std::string e = failure(); !e.empty()) return e;
  auto y = dy.read();
  for (int i = 0; i < 2048; ++i)
    if (y[i] != (i < 2000 ? float(i) : 0.0f)) return text("copy at ", i, ": ", y[i]);
  return "";
}

/// The sum of a block's numbers, where the last threads exit early, before the barrier and before the warp's shuffles.
__global__ void early(const int* x, int* total, unsigned* extremes, int n) {
  __shared__ int part[4];
  if (int(threadIdx.x) >= n) return;
  int v = x[threadIdx.x];
  for (int k = 16; k; k /= 2) {
    const int other = __shfl_down_sync(~0u, v, k);
    if (int(threadIdx.x) + k < n && threadIdx.x % 32 + k < 32) v += other;
  }
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 0; w < (n + 31) / 32; ++w) atomicAdd(total, part[w]);
  atomicMax(&extremes[0], unsigned(x[threadIdx.x]));
  atomicMin(&extremes[1], unsigned(x[threadIdx.x]));
  if (atomicCAS(&extremes[2], 0u, 1u) == 0) atomicExch(&extremes[3], 7u);
  __threadfence();
}

std::string exits() {
  for (int n : {1, 31, 32, 33, 100, 128}) {
    std::vector<int> x(128);
    for (int i = 0; i < 128; ++i) x[i] = i + 1;
    Device<int> dx(x), total(std::vector<int>{0});
    Device<unsigned> extremes(std::vector<unsigned>{0, 1000, 0, 0});
    launch(early, 1, 128, 0, dx.p, total.p, extremes.p, n);
    if (std::string e = failure(); !e.empty()) return e;
    if (int got = total.read()[0]; got != n * (n + 1) / 2) return text("sum of ", n, ": ", got);
    if (auto e = extremes.read(); e != std::vector<unsigned>{unsigned(n), 1, 1, 7}) return text("extremes of ", n);
  }
  return "";
}

__global__ void places(int* out, dim3 grid) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  atomicAdd(&out[block * int(blockDim.x * blockDim.y * blockDim.z) + thread],
            gridDim.x == grid.x && gridDim.z == grid.z ? 1 : 1000);
}
std::string visits() {
  const dim3 grid(5, 3, 2), block(3, 7, 2);
  Device<int> out(std::vector<int>(30 * 42, 0));
  launch(places, grid, block, 0, out.p, grid);
  launch(places, dim3(0, 1, 1), block, 0, out.p, grid);  // an empty grid is no launch
  if (std::string e = failure(); !e.empty()) return e;
  for (int v : out.read())
    if (v != 1) return text("a place was visited ", v, " times");
  return "";
}

__global__ void formulas(const float* x, float* y, uint32_t* packed, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const float v = __ldg(x + i), p = fabsf(v) + 0.25f;
  y[i] = expf(v) + exp2f(v) + logf(p) + log2f(p) + erff(v) + tanhf(v) + rsqrtf(p) + sqrtf(p) + fmaf(v, v, p) +
         fmaxf(v, p) + fminf(v, p) + __expf(v) + __logf(p) + float(max(i, 3) - min(i, 3));
  packed[i] = pack_bf16(v, float(bf16(p))) ^ __float_as_uint(__uint_as_float(0u));
}
std::string numbers() {
  std::vector<float> x(300);
  for (int i = 0; i < 300; ++i) x[i] = float(i - 150) / 40;
  Device<float> dx(x), dy(300);
  Device<uint32_t> dp(300);
  launch(formulas, 3, 100, 0, dx.p, dy.p, dp.p, 300);
  if (std::string e = failure(); !e.empty()) return e;
  auto y = dy.read();
  auto packed = dp.read();
  for (int i = 0; i < 300; ++i) {
    const double v = x[i], p = std::fabs(v) + 0.25;
    const double want = 2 * std::exp(v) + std::exp2(v) + 2 * std::log(p) + std::log2(p) + std::erf(v) + std::tanh(v) +
                        1 / std::sqrt(p) + std::sqrt(p) + v * v + p + std::fmax(v, p) + std::fmin(v, p) +
                        std::abs(i - 3);
    if (!(std::fabs(y[i] - want) < 1e-4 * (1 + std::fabs(want))))
      return text("formulas at ", x[i], ": ", y[i], " for ", want);
    if (packed[i] != (bf16(x[i]).bits | uint32_t(bf16(float(p)).bits) << 16)) return text("pack_bf16 of ", x[i]);
  }
  return "";
}

/// Thread 0 votes twice in a row; threads from n on have exited.
__global__ void asked(int* out, int yes, int n) {
  if (int(threadIdx.x) >= n) return;
  const bool some = __syncthreads_or(int(threadIdx.x) == yes), none = __syncthreads_or(0);
  atomicAdd(out, some && !none ? 1 : 0);
}
std::string questions() {
  for (int n : {1, 33, 96})
    for (int yes : {0, n - 1, n}) {
      Device<int> out(std::vector<int>{0});
      launch(asked, 1, 96, 0, out.p, yes, n);
      if (std::string e = failure(); !e.empty()) return e;
      if (int got = out.read()[0]; got != (yes < n ? n : 0)) return text(got, " of ", n, " threads heard ", yes);
    }
  return "";
}

/// A term whose sums depend on their order.
__device__ float summand(int64_t piece, int64_t at) {
  return float((piece * 7919 + at * 104729) % 2003 - 1000) * (piece % 3 ? 1.0f : 1e-5f);
}
template <int n>
__global__ void pieced(Pieces p, int tiles, float* y) {
  const int tile = int(blockIdx.x) % tiles, piece = int(blockIdx.x) / tiles;
  const auto at = [&](int i, int e) { return ((int64_t(tile) * n + i) * 64 + threadIdx.x) * 4 + e; };
  float sum[n][4];
  for (int i = 0; i < n; ++i)
    for (int e = 0; e < 4; ++e) sum[i][e] = summand(piece, at(i, e));
  if (!collect<64>(p, tile, piece, sum)) return;
  for (int i = 0; i < n; ++i)
    for (int e = 0; e < 4; ++e) y[at(i, e)] += sum[i][e];
}
/// The pieces of every tile are added once, in their order, and the counters are 0 afterwards.
template <int n>
std::string pieces_of() {
  constexpr int tiles = 5;
  Device<unsigned> counters(std::vector<unsigned>(tiles + 1, 0));
  for (int count : {1, 2, 7, 32}) {
    const int64_t each = int64_t(n) * 64 * 4;
    Device<float> sums(size_t(tiles * count * each)), y(std::vector<float>(size_t(tiles * each), 0.0f));
    launch(pieced<n>, dim3(unsigned(tiles * count)), 64, 0, Pieces{count, sums.p, counters.p}, tiles, y.p);
    if (std::string e = failure(); !e.empty()) return e;
    const auto got = y.read();
    for (size_t i = 0; i < got.size(); ++i) {
      float want = 0;
      for (int piece = 0; piece < count; ++piece) want += summand(piece, int64_t(i));
      if (got[i] != want) return text("sum ", i, " of ", count, " pieces: ", got[i], " for ", want);
    }
    if (counters.read() != std::vector<unsigned>(tiles + 1, 0)) return text("counters after ", count, " pieces");
  }
  return "";
}
std::string pieces() {
  std::string e = pieces_of<1>();
  return e.empty() ? pieces_of<32>() : e;
}

}  // namespace
}  // namespace mt::cuda

const std::vector<Case> legal_cases = {
    {"mma and ldmatrix against a plain product", mt::cuda::products},
    {"shuffles and votes", mt::cuda::warps},
    {"cp.async groups", mt::cuda::copies},
    {"early exit, atomics", mt::cuda::exits},
    {"every place once", mt::cuda::visits},
    {"numbers", mt::cuda::numbers},
    {"__syncthreads_or", mt::cuda::questions},
    {"pieces of a sum", mt::cuda::pieces},
};
