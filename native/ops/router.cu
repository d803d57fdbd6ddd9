#include "ops/router.h"

#include <algorithm>

#include "kernels/device.h"

namespace mt::cuda {
namespace {

constexpr int kGroup = 4;  // sequences, or rows of a weight, that a thread takes at once: one number read serves all of them
constexpr int64_t kWarps = kThreads / 32;
constexpr int64_t groups(int64_t n) { return (n + kGroup - 1) / kGroup; }

/// Where a sequence's columns lie.
struct Rows {
  int64_t m1, n, width, s0, s1, s2, s3;
  explicit Rows(const View& x) : m1(x.shape[1]), n(x.shape[2]), width(x.shape[3]), s0(x.stride[0]), s1(x.stride[1]), s2(x.stride[2]), s3(x.stride[3]) {}
  __device__ int64_t at(int64_t b, int64_t c) const { return b / m1 * s0 + b % m1 * s1 + c * s3; }
};

// ---- forward ----

/// pooled = mean_n x: a thread per sequence and column.
template <typename T>
__global__ void __launch_bounds__(kThreads) pool(const T* x, Rows rows, float* pooled, int64_t total) {
  int64_t k = thread_index();
  if (k >= total) return;
  x += rows.at(k / rows.width, k % rows.width);
  float sum = 0;
  for (int64_t i = 0; i < rows.n; ++i) sum += float(x[i * rows.s2]);
  pooled[k] = sum / float(rows.n);
}
/// hidden = relu(w·pooled + bias): a warp per unit and group of sequences.
__global__ void __launch_bounds__(kThreads) hidden_layer(const float* pooled, const float* w, const float* bias, float* hidden, int64_t batch, int64_t units, int64_t width) {
  int64_t k = thread_index() / 32, i = k % units, first = k / units * kGroup;
  if (first >= batch) return;
  float sum[kGroup] = {};
  for (int64_t c = threadIdx.x % 32; c < width; c += 32) {
    float weight = w[i * width + c];
#pragma unroll
    for (int g = 0; g < kGroup; ++g)
      if (first + g < batch) sum[g] += weight * pooled[(first + g) * width + c];
  }
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    float s = warp_sum(sum[g]);
    if (threadIdx.x % 32 == 0 && first + g < batch) hidden[(first + g) * units + i] = fmaxf(s + bias[i], 0.0f);
  }
}
/// alpha = softmax(w·hidden + bias): a warp per sequence.
__global__ void __launch_bounds__(kThreads) choose(const float* hidden, const float* w, const float* bias, float* alpha, int64_t batch, int64_t units, int64_t choices) {
  int64_t b = thread_index() / 32, lane = threadIdx.x % 32;
  if (b >= batch) return;
  float *a = alpha + b * choices, most = -INFINITY, sum = 0;
  for (int64_t j = 0; j < choices; ++j) {
    float z = 0;
    for (int64_t i = lane; i < units; i += 32) z += w[j * units + i] * hidden[b * units + i];
    z = warp_sum(z) + bias[j];
    most = fmaxf(most, z);
    if (j % 32 == lane) a[j] = z;
  }
  for (int64_t j = lane; j < choices; j += 32) sum += a[j] = expf(a[j] - most);
  sum = warp_sum(sum);
  for (int64_t j = lane; j < choices; j += 32) a[j] /= sum;
}

// ---- backward ----

/// dz = alpha∘(dalpha − Σ alpha∘dalpha), and dh = w2ᵀ·dz where hidden > 0: a warp per sequence.
__global__ void __launch_bounds__(kThreads) choose_backward(const float* dalpha, const float* alpha, const float* hidden, const float* w2, float* dz, float* dh, int64_t batch, int64_t units, int64_t choices) {
  int64_t b = thread_index() / 32, lane = threadIdx.x % 32;
  if (b >= batch) return;
  const float *a = alpha + b * choices, *d = dalpha + b * choices;
  // Differences from the first dalpha, and a mean divided by Σ alpha: equal dalpha then give exactly no gradient.
  double mean = 0, sum = 0;
  for (int64_t j = 0; j < choices; ++j) {
    mean += double(a[j]) * (double(d[j]) - d[0]);
    sum += a[j];
  }
  mean /= sum;
  auto slope = [&](int64_t j) { return float(a[j] * (double(d[j]) - d[0] - mean)); };
  for (int64_t j = lane; j < choices; j += 32) dz[b * choices + j] = slope(j);
  for (int64_t i = lane; i < units; i += 32) {
    float g = 0;
    for (int64_t j = 0; j < choices; ++j) g += w2[j * units + i] * slope(j);
    dh[b * units + i] = hidden[b * units + i] > 0 ? g : 0.0f;
  }
}
/// Every row of dx is w1ᵀ·dh / n: a thread per column and group of sequences.
template <typename T>
__global__ void __launch_bounds__(kThreads) spread(const float* dh, const float* w1, T* dx, Rows rows, int64_t total, int64_t batch, int64_t units) {
  int64_t k = thread_index(), c = k % rows.width, first = k / rows.width * kGroup;
  if (k >= total) return;
  float sum[kGroup] = {};
  for (int64_t i = 0; i < units; ++i) {
    float w = w1[i * rows.width + c];
#pragma unroll
    for (int g = 0; g < kGroup; ++g)
      if (first + g < batch) sum[g] += w * dh[(first + g) * units + i];
  }
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
    if (first + g >= batch) return;
    T value = T(sum[g] / float(rows.n));
    T* to = dx + rows.at(first + g, c);
    for (int64_t i = 0; i < rows.n; ++i) to[i * rows.s2] = value;
  }
}
/// dw[i,c] = Σ_b g[b,i] v[b,c] and db[i] = Σ_b g[b,i], i < high, c < wide: a block per 32 columns and group of rows, each of its
/// warps with every eighth sequence.
__global__ void __launch_bounds__(kThreads) weight_sums(const float* g, const float* v, float* dw, float* db, int64_t batch, int64_t high, int64_t wide, int64_t tiles) {
  __shared__ float shared[2 * kGroup][kThreads];
  int64_t first = blockIdx.x / tiles * kGroup, c = blockIdx.x % tiles * 32 + threadIdx.x % 32;
  float sum[2 * kGroup] = {};
  for (int64_t b = threadIdx.x / 32; b < batch; b += kWarps) {
    float x = c < wide ? v[b * wide + c] : 0.0f;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      float y = first + k < high ? g[b * high + first + k] : 0.0f;
      sum[k] += y * x;
      sum[kGroup + k] += y;
    }
  }
#pragma unroll
  for (int k = 0; k < 2 * kGroup; ++k) shared[k][threadIdx.x] = sum[k];
  __syncthreads();
  // A warp per sum, which adds those of the warps in their order.
  int64_t k = threadIdx.x / 32, lane = threadIdx.x % 32, i = first + k % kGroup;
  static_assert(kWarps == 2 * kGroup);
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared[k][w * 32 + lane];
  if (i >= high) return;
  if (k < kGroup && c < wide) dw[i * wide + c] = total;
  if (k >= kGroup && blockIdx.x % tiles == 0 && lane == 0) db[i] = total;
}

void add_weights(const float* g, const float* v, const View& dw, const View& db, int64_t batch) {
  int64_t high = dw.shape[0], wide = dw.shape[1], tiles = std::max<int64_t>(1, (wide + 31) / 32);
  launch(weight_sums, blocks(groups(high) * tiles, 1), dim3(kThreads), 0, g, v, dw.data<float>(), db.data<float>(), batch, high, wide, tiles);
}

}  // namespace

// ---- operators ----

void router_forward(const View& x, const View& w1, const View& b1, const View& w2, const View& b2, Out alpha, Out pooled, Out hidden) {
  int64_t batch = x.shape[0] * x.shape[1], width = x.shape[3], units = w1.shape[0], choices = w2.shape[0];
  float *mean = pooled.data<float>(), *hid = hidden.data<float>();
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    launch(pool<T>, blocks(batch * width), dim3(kThreads), 0, (const T*)x.data<T>(), Rows(x), mean, batch * width);
  });
  launch(hidden_layer, blocks(groups(batch) * units, kWarps), dim3(kThreads), 0, (const float*)mean, (const float*)w1.data<float>(), (const float*)b1.data<float>(), hid, batch, units, width);
  launch(choose, blocks(batch, kWarps), dim3(kThreads), 0, (const float*)hid, (const float*)w2.data<float>(), (const float*)b2.data<float>(), alpha.data<float>(), batch, units, choices);
}

void router_backward(const View& dalpha, const View& alpha, const View& pooled, const View& hidden, const View& w1, const View& w2, MaybeOut dx,
                     Out dw1, Out db1, Out dw2, Out db2) {
  int64_t batch = pooled.shape[0] * pooled.shape[1], width = pooled.shape[2], units = w1.shape[0], choices = w2.shape[0];
  const float* hid = hidden.data<float>();
  Scratch slopes(size_t(batch * (choices + units)) * sizeof(float));
  float *dz = slopes.as<float>(), *dh = dz + batch * choices;
  launch(choose_backward, blocks(batch, kWarps), dim3(kThreads), 0, (const float*)dalpha.data<float>(), (const float*)alpha.data<float>(), hid, (const float*)w2.data<float>(), dz, dh, batch, units, choices);
  if (dx)
    each_activation(dx.dtype, [&](auto t) {
      using T = decltype(t);
      int64_t total = groups(batch) * width;
      launch(spread<T>, blocks(total), dim3(kThreads), 0, (const float*)dh, (const float*)w1.data<float>(), dx.data<T>(), Rows(dx), total, batch, units);
    });
  add_weights(dh, pooled.data<float>(), dw1, db1, batch);
  add_weights(dz, hid, dw2, db2, batch);
}

}  // namespace mt::cuda
