// LayerNorm and RMSNorm share their kernels: RMSNorm is LayerNorm with mean 0 and no bias; `Centred` tells them apart.
// `Team` threads, a warp or a block, have a row; a row of up to Team·4·Held elements is read once and stays in
// registers.
#pragma once
#include <algorithm>
#include <type_traits>

#include "core/parted.h"
#include "kernels/cuda/columns.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {

/// f(k, at) for this thread's packs of four of a row of n elements: the k-th begins at element `at`. k is always 0 for
/// a row that does not stay in registers.
template <int Team, int Held, typename F>
__device__ __forceinline__ void each_four(int64_t n, F f) {
  int lane = int(threadIdx.x) % Team;
  if constexpr (Held > 0) {
#pragma unroll
    for (int k = 0; k < Held; ++k)
      if (int64_t at = 4 * (int64_t(k) * Team + lane); at < n) f(k, at);
  } else {
    for (int64_t at = 4 * lane; at < n; at += 4 * Team) f(0, at);
  }
}
/// The sum over the team, in double: gradients of a row nearly cancel.
template <int Team>
__device__ __forceinline__ float team_sum(float x, double* shared) {
  return float(Team == 32 ? warp_sum(double(x)) : block_sum(double(x), shared));
}

/// Rows of a norm's result, or of its gradient: in one tensor, in a slice of one, or split between two (core/parted.h).
template <typename T>
struct PartedRows {
  T *head, *tail;
  Parted parts;
  /// Where row r of n elements begins.
  __device__ T* at(int64_t r, int64_t n) const {
    if (!parts.per) return head + r * n;
    int64_t g = r / parts.per, i = r - g * parts.per;
    return i < parts.first ? head + g * parts.head + i * n : tail + g * parts.tail + (i - parts.first) * n;
  }
  /// fours() of all rows.
  bool fours_of(int64_t n) const {
    return fours(head, n) && fours(tail, n) && parts.head % 4 == 0 && parts.tail % 4 == 0;
  }
};
template <typename T>
PartedRows<T> parted_rows(const View& head, const View& tail) {
  return {head.data<std::remove_const_t<T>>(), tail ? tail.data<std::remove_const_t<T>>() : nullptr,
          Parted(head, tail)};
}

/// y = (x − mean)·rstd∘weight + bias.
template <bool Centred, typename T, int Team, int Held>
__global__ void __launch_bounds__(kThreads)
    norm_rows(const T* x, const float* weight, const float* bias, float eps, PartedRows<T> y, float* mean, float* rstd,
              int64_t rows, int64_t n, bool whole) {
  __shared__ double shared[32];
  int64_t r = thread_index() / Team;
  if (r >= rows) return;
  const T* row = x + r * n;
  float v[Held ? Held : 1][4];
  auto load = [&](int k, int64_t at) { load4(row + at, n - at, whole, v[k]); };
  if constexpr (Held > 0) each_four<Team, Held>(n, load);

  float middle = 0, off = 0;  // the mean in two parts
  if constexpr (Centred) {
    float sum = 0;
    each_four<Team, Held>(n, [&](int k, int64_t at) {
      if constexpr (!Held) load(k, at);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum += v[k][j];
    });
    middle = team_sum<Team>(sum, shared) / float(n);
  }
  float sum = 0, squares = 0;
  each_four<Team, Held>(n, [&](int k, int64_t at) {
    if constexpr (!Held) load(k, at);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float d = at + j < n ? v[k][j] - middle : 0.0f;
      sum += d;
      squares += d * d;
    }
  });
  float variance = team_sum<Team>(squares, shared) / float(n);
  if constexpr (Centred) {
    // The mean's rounding error matters where a row is nearly constant and eps small.
    off = team_sum<Team>(sum, shared) / float(n);
    variance = fmaxf(variance - off * off, 0.0f);
  }
  float s = 1.0f / sqrtf(variance + eps);
  T* to = y.at(r, n);
  if (threadIdx.x % Team == 0) {
    if constexpr (Centred) mean[r] = middle + off;
    rstd[r] = s;
  }
  each_four<Team, Held>(n, [&](int k, int64_t at) {
    if constexpr (!Held) load(k, at);
    float w[4], b[4] = {};
    load4(weight + at, n - at, whole, w);
    if constexpr (Centred) load4(bias + at, n - at, whole, b);
#pragma unroll
    for (int j = 0; j < 4; ++j) w[j] = (v[k][j] - middle - off) * s * w[j] + b[j];
    store4(to + at, n - at, whole, w);
  });
}

/// With g = dy∘weight and n = (x − mean)·rstd: dx = rstd (g − mean(g) − n mean(g∘n)) + more; RMSNorm has no mean(g).
/// more may be null.
template <bool Centred, typename T, int Team, int Held>
__global__ void __launch_bounds__(kThreads)
    norm_rows_backward(PartedRows<const T> dy, const T* x, const float* weight, const float* mean, const float* rstd,
                       const T* more, T* dx, int64_t rows, int64_t n, bool whole) {
  __shared__ double shared[32];
  int64_t r = thread_index() / Team;
  if (r >= rows) return;
  float m = Centred ? mean[r] : 0.0f, s = rstd[r];
  const T* slope = dy.at(r, n);
  float g[Held ? Held : 1][4], u[Held ? Held : 1][4];
  auto load = [&](int k, int64_t at) {
    float w[4];
    load4(slope + at, n - at, whole, g[k]);
    load4(x + r * n + at, n - at, whole, u[k]);
    load4(weight + at, n - at, whole, w);
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // past the row's end g is 0 and adds nothing to the sums
      g[k][j] *= w[j];
      u[k][j] = (u[k][j] - m) * s;
    }
  };
  float sum = 0, dot = 0;
  each_four<Team, Held>(n, [&](int k, int64_t at) {
    load(k, at);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sum += g[k][j];
      dot += g[k][j] * u[k][j];
    }
  });
  float a = Centred ? team_sum<Team>(sum, shared) / float(n) : 0.0f, c = team_sum<Team>(dot, shared) / float(n);
  each_four<Team, Held>(n, [&](int k, int64_t at) {
    if constexpr (!Held) load(k, at);
#pragma unroll
    for (int j = 0; j < 4; ++j) g[k][j] = s * (g[k][j] - a - u[k][j] * c);
    if (more) {
      float e[4];
      load4(more + r * n + at, n - at, whole, e);
#pragma unroll
      for (int j = 0; j < 4; ++j) g[k][j] += e[j];
    }
    store4(dx + r * n + at, n - at, whole, g[k]);
  });
}

/// Over chunks of `per` rows: dweight[chunk,:] = Σ dy∘n and dbias[chunk,:] = Σ dy; either may be null.
template <bool Centred, typename T>
__global__ void __launch_bounds__(kThreads)
    norm_columns(PartedRows<const T> dy, const T* x, const float* mean, const float* rstd, float* dweight, float* dbias,
                 int64_t rows, int64_t per, int64_t n, int64_t tiles) {
  __shared__ float shared[kThreads];
  int64_t chunk = blockIdx.x / tiles, c = blockIdx.x % tiles * kColumns + threadIdx.x % kColumns,
          end = min(rows, chunk * per + per);
  float weight = 0, bias = 0;
  if (c < n)
    for (int64_t r = chunk * per + threadIdx.x / kColumns; r < end; r += kStrips) {
      float d = float(dy.at(r, n)[c]);
      weight += d * ((float(x[r * n + c]) - (Centred ? mean[r] : 0.0f)) * rstd[r]);
      bias += d;
    }
  weight = column_sum(weight, shared);
  bias = column_sum(bias, shared);
  if (threadIdx.x >= kColumns || c >= n) return;
  if (dweight) dweight[chunk * n + c] = weight;
  if (dbias) dbias[chunk * n + c] = bias;
}
// ---- launches ----

/// f(Team, Held) with the numbers for rows of n elements.
template <typename F>
void norm_plan(int64_t n, F f) {
  using Warp = std::integral_constant<int, 32>;
  using Block = std::integral_constant<int, kThreads>;
  if (n <= 768) f(Warp{}, std::integral_constant<int, 6>{});
  else if (n <= 5120) f(Block{}, std::integral_constant<int, 5>{});
  else f(Block{}, std::integral_constant<int, 0>{});
}

template <bool Centred>
void norm_forward(const View& x, const View& weight, const float* bias, double eps, const View& y, const View& rest,
                  float* mean, float* rstd) {
  int64_t n = x.size(-1), rows = x.rows();
  const float* w = weight.data<float>();
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    const T* from = x.data<T>();
    const auto to = parted_rows<T>(y, rest);
    bool whole = fours(from, n) && to.fours_of(n) && fours(w, n) && fours(bias, n);
    norm_plan(n, [&](auto team, auto held) {
      launch(norm_rows<Centred, T, team(), held()>, blocks(rows * team()), dim3(kThreads), 0, from, w, bias, float(eps),
             to, mean, rstd, rows, n, whole);
    });
  });
}

template <bool Centred>
void norm_backward(const View& dy, const View& drest, const View& x, const View& weight, const float* mean,
                   const float* rstd, const View& residual, const View& dx, const View& dweight, const View& dbias) {
  int64_t n = x.size(-1), rows = x.rows();
  const float* w = weight.data<float>();
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    const auto d = parted_rows<const T>(dy, drest);
    const T* from = x.data<T>();
    if (dx) {
      const T* more = residual ? residual.data<T>() : nullptr;
      T* to = dx.data<T>();
      bool whole = d.fours_of(n) && fours(from, n) && fours(more, n) && fours(to, n) && fours(w, n);
      norm_plan(n, [&](auto team, auto held) {
        launch(norm_rows_backward<Centred, T, team(), held()>, blocks(rows * team()), dim3(kThreads), 0, d, from, w,
               mean, rstd, more, to, rows, n, whole);
      });
    }
    if (!dweight && !dbias) return;
    int64_t per = std::max<int64_t>(32, ceil_div(rows, 64)), chunks = std::max<int64_t>(1, ceil_div(rows, per)),
            tiles = ceil_div(n, kColumns);
    Scratch part(chunks > 1 ? size_t(2 * chunks * n) * sizeof(float) : 0);
    const View* results[] = {&dweight, &dbias};
    float* sums[2];
    for (int i = 0; i < 2; ++i)
      sums[i] = !*results[i] ? nullptr : chunks > 1 ? part.as<float>() + i * chunks * n : results[i]->data<float>();
    launch(norm_columns<Centred, T>, dim3(unsigned(chunks * tiles)), dim3(kThreads), 0, d, from, mean, rstd, sums[0],
           sums[1], rows, per, n, tiles);
    for (int i = 0; i < 2; ++i)
      if (chunks > 1 && sums[i]) sum_columns((const float*)sums[i], results[i]->data<float>(), chunks, n);
  });
}

}  // namespace mt::cuda
