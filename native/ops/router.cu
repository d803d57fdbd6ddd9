#include "ops/router.h"

#include <algorithm>

#include "core/round.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {
namespace {

constexpr int kGroup = 4;  // what is read or computed at once: columns of a thread, units of a warp, rows of a weight
constexpr int kForwardThreads = 512, kForwardWarps = kForwardThreads / 32;
constexpr int64_t kWarps = kThreads / 32;

/// Where the rows of a sequence lie.
struct Rows {
  int64_t m1 = 1, n = 0, width = 0, s0 = 0, s1 = 0, s2 = 0;
  bool whole = false;  // packs of kGroup columns may be read and written
  Rows() = default;
  template <typename T>
  Rows(const View& x, const T* p)
      : m1(x.shape[1]), n(x.shape[2]), width(x.shape[3]), s0(x.stride[0]), s1(x.stride[1]), s2(x.stride[2]) {
    whole = fours(p, width) && s0 % kGroup == 0 && s1 % kGroup == 0 && s2 % kGroup == 0;
  }
  __device__ int64_t first(int64_t b) const { return b / m1 * s0 + b % m1 * s1; }
};
struct Sizes {
  int64_t batch, width, units, choices;
};

// ---- forward ----

/// A block per sequence computes all three layers: it reads back what it wrote for the layer before.
template <typename T>
__global__ void __launch_bounds__(kForwardThreads)
    forward_kernel(const T* x, Rows rows, const float* w1, const float* b1, const float* w2, const float* b2,
                   float* pooled, float* hidden, float* alpha, Sizes z) {
  const int64_t b = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x += rows.first(b), pooled += b * z.width, hidden += b * z.units, alpha += b * z.choices;
  // pooled = mean_n x
  for (int64_t c = threadIdx.x * kGroup; c < z.width; c += kForwardThreads * kGroup) {
    float sum[kGroup] = {};
#pragma unroll 8
    for (int64_t i = 0; i < rows.n; ++i) {
      float v[kGroup];
      load(x + i * rows.s2 + c, z.width - c, rows.whole, v);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) sum[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < kGroup; ++k)
      if (c + k < z.width) pooled[c + k] = sum[k] / float(rows.n);
  }
  __syncthreads();
  // hidden = relu(w1·pooled + b1): a warp computes a group of units at once, so that several loads are in flight
  for (int64_t first = warp * kGroup; first < z.units; first += kForwardWarps * kGroup) {
    float sum[kGroup] = {};
#pragma unroll 4
    for (int64_t c = lane; c < z.width; c += 32) {
      const float mean = pooled[c];
#pragma unroll
      for (int k = 0; k < kGroup; ++k)
        if (first + k < z.units) sum[k] += w1[(first + k) * z.width + c] * mean;
    }
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      const float s = warp_sum(sum[k]);
      if (lane || first + k >= z.units) continue;
      const float h = s + b1[first + k];
      hidden[first + k] = h <= 0 ? 0.0f : h;  // fmaxf would hide a NaN
    }
  }
  __syncthreads();
  // alpha = softmax(w2·hidden + b2)
  for (int64_t j = warp; j < z.choices; j += kForwardWarps) {
    float s = 0;
    for (int64_t i = lane; i < z.units; i += 32) s += w2[j * z.units + i] * hidden[i];
    s = warp_sum(s) + b2[j];
    if (lane == 0) alpha[j] = s;
  }
  __syncthreads();
  if (warp) return;
  float most = -INFINITY, sum = 0;
  for (int64_t j = lane; j < z.choices; j += 32) most = fmaxf(most, alpha[j]);
  most = warp_max(most);
  for (int64_t j = lane; j < z.choices; j += 32) sum += alpha[j] = expf(alpha[j] - most);
  sum = warp_sum(sum);
  for (int64_t j = lane; j < z.choices; j += 32) alpha[j] /= sum;
}

// ---- backward: one kernel. Each block computes what it needs of dz and dh itself: it is little, and no launch waits
// ----

struct Gradients {
  const float *dalpha, *alpha, *pooled, *hidden, *w1, *w2;
  float *dw1, *db1, *dw2, *db2;
  Sizes z;
  Rows rows, more;        // of dx, and of what is added to it
  int64_t count;          // rows that were pooled
  bool whole;             // packs of w1 may be read
  int64_t spread, tiles;  // blocks of dx; tiles of its columns
  int64_t below, across;  // blocks of dw1; tiles of its columns
};

/// dz = alpha∘(dalpha − Σ alpha∘dalpha) of one sequence.
struct Slope {
  const float *a, *d;
  double mean = 0;
  __device__ Slope(const Gradients& g, int64_t b) : a(g.alpha + b * g.z.choices), d(g.dalpha + b * g.z.choices) {
    // Differences from the first dalpha, and a mean divided by Σ alpha: equal dalpha then give a gradient of exactly 0.
    double sum = 0;
    for (int64_t j = 0; j < g.z.choices; ++j) {
      mean += double(a[j]) * (double(d[j]) - d[0]);
      sum += a[j];
    }
    mean /= sum;
  }
  __device__ float operator()(int64_t j) const { return float(a[j] * (double(d[j]) - d[0] - mean)); }
  /// dh = w2ᵀ·dz where hidden > 0.
  __device__ float unit(const Gradients& g, int64_t b, int64_t i) const {
    float sum = 0;
    for (int64_t j = 0; j < g.z.choices; ++j) sum += g.w2[j * g.z.units + i] * (*this)(j);
    return g.hidden[b * g.z.units + i] > 0 ? sum : 0.0f;
  }
};

constexpr int kQuads = 64,
              kParts = kThreads / kQuads;  // of a block of dx: groups of columns; parts of the units, later of the rows

/// The first `count` rows of dx are w1ᵀ·dh / count, the others 0, and `residual` is added where there is one: a block
/// per sequence and tile of columns.
template <typename T>
__device__ void spread_block(const Gradients& g, const T* residual, T* dx) {
  SHARED(float, dh);  // [units]
  __shared__ float part[kParts][kQuads * kGroup];
  const int64_t b = blockIdx.x / g.tiles, quad = threadIdx.x % kQuads, mine = threadIdx.x / kQuads;
  const int64_t c = (blockIdx.x % g.tiles * kQuads + quad) * kGroup, left = g.z.width - c;
  const Slope slope(g, b);
  for (int64_t i = threadIdx.x; i < g.z.units; i += kThreads) dh[i] = slope.unit(g, b, i);
  __syncthreads();
  float sum[kGroup] = {};
  if (left > 0) {
#pragma unroll 4
    for (int64_t i = mine; i < g.z.units; i += kParts) {
      float w[kGroup];
      load(g.w1 + i * g.z.width + c, left, g.whole, w);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) sum[k] += w[k] * dh[i];
    }
  }
#pragma unroll
  for (int k = 0; k < kGroup; ++k) part[mine][quad * kGroup + k] = sum[k];
  __syncthreads();
  if (left <= 0) return;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    sum[k] = 0;
    for (int p = 0; p < kParts; ++p) sum[k] += part[p][quad * kGroup + k];
    sum[k] /= float(g.count);
  }
  dx += g.rows.first(b) + c;
  for (int64_t i = mine; i < g.rows.n; i += kParts) {
    float v[kGroup] = {};
    if (residual) load(residual + g.more.first(b) + c + i * g.more.s2, left, g.more.whole, v);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) v[k] += i < g.count ? sum[k] : 0.0f;
    store(dx + i * g.rows.s2, left, g.rows.whole, v);
  }
}

/// dw[i,c] = Σ_b s[b,i] v[b,c] and db[i] = Σ_b s[b,i], i < high, c < wide: a block per group of rows and 32 columns,
/// each of its warps with every eighth sequence. `value`(slope, b, i) is s.
template <typename F>
__device__ void weight_block(const Gradients& g, int64_t block, const float* v, float* dw, float* db, int64_t high,
                             int64_t wide, int64_t across, F value) {
  __shared__ float s[kGroup][kThreads], shared[2 * kGroup][kThreads];
  const int64_t first = block / across * kGroup, warp = threadIdx.x / 32, lane = threadIdx.x % 32,
                c = block % across * 32 + lane;
  float sum[2 * kGroup] = {};
  for (int64_t begin = 0; begin < g.z.batch; begin += kThreads) {
    const int64_t b = begin + threadIdx.x, end = min(begin + kThreads, g.z.batch);
    if (begin) __syncthreads();
    if (b < end) {
      const Slope slope(g, b);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) s[k][threadIdx.x] = first + k < high ? value(slope, b, first + k) : 0.0f;
    }
    __syncthreads();
    for (int64_t i = begin + warp; i < end; i += kWarps) {
      const float x = c < wide ? v[i * wide + c] : 0.0f;
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        const float y = s[k][i - begin];
        sum[k] += y * x;
        sum[kGroup + k] += y;
      }
    }
  }
#pragma unroll
  for (int k = 0; k < 2 * kGroup; ++k) shared[k][threadIdx.x] = sum[k];
  __syncthreads();
  // A warp per result, which adds up the sums of all warps in their order.
  static_assert(kWarps == 2 * kGroup);
  const int64_t i = first + warp % kGroup;
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared[warp][w * 32 + lane];
  if (i >= high) return;
  if (warp < kGroup && c < wide) dw[i * wide + c] = total;
  if (warp >= kGroup && block % across == 0 && lane == 0) db[i] = total;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 4) backward_kernel(Gradients g, const T* residual, T* dx) {
  if (blockIdx.x < g.spread) return spread_block(g, residual, dx);
  const int64_t block = blockIdx.x - g.spread;
  if (block < g.below)
    weight_block(g, block, g.pooled, g.dw1, g.db1, g.z.units, g.z.width, g.across,
                 [&](const Slope& slope, int64_t b, int64_t i) { return slope.unit(g, b, i); });
  else
    weight_block(g, block - g.below, g.hidden, g.dw2, g.db2, g.z.choices, g.z.units,
                 max(ceil_div(g.z.units, 32), int64_t(1)),
                 [](const Slope& slope, int64_t, int64_t j) { return slope(j); });
}

}  // namespace

// ---- operators ----

void router_forward(const Act& x, const View& w1, const View& b1, const View& w2, const View& b2, Out alpha, Out pooled,
                    Out hidden) {
  const Sizes z{x.shape[0] * x.shape[1], x.shape[3], w1.shape[0], w2.shape[0]};
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    const T* from = x.data<T>();
    launch(forward_kernel<T>, blocks(z.batch, 1), dim3(kForwardThreads), 0, from, Rows(x, from),
           (const float*)w1.data<float>(), (const float*)b1.data<float>(), (const float*)w2.data<float>(),
           (const float*)b2.data<float>(), pooled.data<float>(), hidden.data<float>(), alpha.data<float>(), z);
  });
}

void router_backward(const View& dalpha, const View& alpha, const View& pooled, const View& hidden, const View& w1,
                     const View& w2, int64_t count, const MaybeAct& residual, MaybeActOut dx, Out dw1, Out db1, Out dw2,
                     Out db2) {
  const Sizes z{pooled.shape[0] * pooled.shape[1], pooled.shape[2], w1.shape[0], w2.shape[0]};
  const float* first = w1.data<float>();
  each_activation(dx ? dx.dtype : DType::f32, [&](auto t) {
    using T = decltype(t);
    T* to = dx ? dx.data<T>() : nullptr;
    const T* more = dx && residual ? residual.data<T>() : nullptr;
    // The bias has a gradient even where the weight has no columns.
    const int64_t tiles = ceil_div(z.width, kQuads * kGroup), across = std::max<int64_t>(1, ceil_div(z.width, 32)),
                  below = ceil_div(z.units, kGroup) * across;
    const Gradients g{dalpha.data<float>(),
                      alpha.data<float>(),
                      pooled.data<float>(),
                      hidden.data<float>(),
                      first,
                      w2.data<float>(),
                      dw1.data<float>(),
                      db1.data<float>(),
                      dw2.data<float>(),
                      db2.data<float>(),
                      z,
                      dx ? Rows(dx, to) : Rows(),
                      more ? Rows(residual, more) : Rows(),
                      count,
                      fours(first, z.width),
                      dx ? z.batch * tiles : 0,
                      tiles,
                      below,
                      across};
    const int64_t last = ceil_div(z.choices, kGroup) * std::max<int64_t>(1, ceil_div(z.units, 32));
    launch(backward_kernel<T>, blocks(g.spread + below + last, 1), dim3(kThreads), size_t(z.units) * sizeof(float), g,
           more, to);
  });
}

}  // namespace mt::cuda
