// Attention of any size, in float32 arithmetic. A block of G·G threads has a tile of B = G·R queries, or keys, and
// walks over tiles of the other side. A tile's scores (and dP) are formed in registers, R·R a thread, from slices of 32
// columns in shared memory; put into shared memory they are rows, four threads to each, which make probabilities (and
// dS) of them; a product with slices of rows follows. Nothing of the size queries × keys reaches global memory:
// whatever needs a sum over all keys first goes over the keys again, but for a single tile, which is kept.
#pragma once
#include "kernels/cuda/attention_device.h"

namespace mt::cuda {

inline constexpr int kSlice = 32;
inline constexpr int kSlices = 4;
inline constexpr int kColumns =
    kSlice * kSlices;  // of a result that a block keeps in registers; wider heads take several blocks
inline constexpr float kInfinity = INFINITY;

template <typename T, int G, int R>
struct General {
  static constexpr int B = G * R, kBlock = G * G, kWidth = B + 1, kPad = kSlice + 1, kWide = kSlice / G;
  static_assert(kBlock == 4 * B);
  static constexpr size_t kShared = (2 * B * kWidth + 2 * B * kPad + 4 * kMostChoices * B + B + kMostChoices) *
                                    sizeof(float);

  using Sum = float[kSlices][R][kWide];

  const Attention<T>& a;
  Place at;
  int tx = int(threadIdx.x) % G, ty = int(threadIdx.x) / G;     // in a tile of scores
  int lane = int(threadIdx.x) % 4, row = int(threadIdx.x) / 4;  // in rows of it
  float *s, *g;                                                 // scores and dP, [B, kWidth]
  float *x, *y;                                                 // slices, [B, kPad]
  float *lse, *d, *left;  // of the tile's queries, [m, B]; lse is +inf where the softmax ran over nothing
  float *share, *homeless, *alpha;

  __device__ General(const Attention<T>& a, int64_t unit, float* shared) : a(a), at(a, unit) {
    s = shared;
    g = s + B * kWidth;
    x = g + B * kWidth;
    y = x + B * kPad;
    lse = y + B * kPad;
    d = lse + kMostChoices * B;
    left = d + kMostChoices * B;
    share = left + kMostChoices * B;
    homeless = share + kMostChoices * B;
    alpha = homeless + B;
    if (int(threadIdx.x) < kMostChoices)
      alpha[threadIdx.x] = a.mode && int(threadIdx.x) < a.p ? at.alphas(a)[threadIdx.x * a.alpha_j] : 1.0f;
  }

  /// Columns c0.. of rows r0.. into a slice, zeros outside.
  template <typename E>
  __device__ void load(float* to, const E* rows, int64_t stride, int r0, int n, int c0) {
    for (int i = int(threadIdx.x); i < B * kSlice; i += kBlock) {
      int r = i / kSlice, c = i % kSlice;
      to[r * kPad + c] = r0 + r < n && c0 + c < a.d ? float(rows[(r0 + r) * stride + c0 + c]) : 0.0f;
    }
  }

  /// to[i][k] = factor · left[q0+i]·right[k0+k]; −inf where `hide` and the query does not see the key. Begins and ends
  /// with all threads together.
  __device__ void products(float* to, const T* left_rows, int64_t left_row, const T* right_rows, int64_t right_row,
                           int q0, int k0, float factor, bool hide) {
    float sum[R][R] = {};
    for (int c0 = 0; c0 < a.d; c0 += kSlice) {
      __syncthreads();
      load(x, left_rows, left_row, q0, a.nq, c0);
      load(y, right_rows, right_row, k0, a.nk, c0);
      __syncthreads();
#pragma unroll 4
      for (int c = 0; c < kSlice; ++c) {
        float u[R], w[R];
#pragma unroll
        for (int i = 0; i < R; ++i) u[i] = x[(ty + G * i) * kPad + c], w[i] = y[(tx + G * i) * kPad + c];
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
          for (int k = 0; k < R; ++k) sum[i][k] = fmaf(u[i], w[k], sum[i][k]);
      }
    }
    const uint8_t* kept = hide ? at.keys(a) : nullptr;
#pragma unroll
    for (int k = 0; k < R; ++k) {
      int key = k0 + tx + G * k;
      bool token = key < a.nk && (!kept || kept[key * a.key_row]);
#pragma unroll
      for (int i = 0; i < R; ++i) {
        int query = q0 + ty + G * i;
        bool seen = token && query < a.nq && (!a.causal || key <= query + a.nk - a.nq);
        to[(ty + G * i) * kWidth + tx + G * k] = !hide || seen ? factor * sum[i][k] : -kInfinity;
      }
    }
    __syncthreads();
  }
  __device__ void scores(int q0, int k0) { products(s, at(a.q), a.q.row, at(a.k), a.k.row, q0, k0, a.scale, true); }
  __device__ void gradients(int q0, int k0) { products(g, at(a.dout), a.dout.row, at(a.v), a.v.row, q0, k0, 1, false); }

  /// sum += (rows of `tile`, or its columns where `columns`) · rows n0.. of a matrix, columns from c0.
  template <bool columns>
  __device__ void accumulate(Sum& sum, const float* tile, const T* rows, int64_t stride, int n0, int n, int c0) {
#pragma unroll
    for (int w = 0; w < kSlices; ++w) {
      if (c0 + w * kSlice >= a.d) break;
      __syncthreads();
      load(x, rows, stride, n0, n, c0 + w * kSlice);
      __syncthreads();
#pragma unroll 4
      for (int k = 0; k < B; ++k)
#pragma unroll
        for (int i = 0; i < R; ++i) {
          float p = columns ? tile[k * kWidth + ty + G * i] : tile[(ty + G * i) * kWidth + k];
#pragma unroll
          for (int c = 0; c < kWide; ++c) sum[w][i][c] = fmaf(p, x[k * kPad + tx + G * c], sum[w][i][c]);
        }
    }
  }
  __device__ void write(const Sum& sum, T* rows, int64_t stride, int n0, int n, int c0, float factor) {
#pragma unroll
    for (int w = 0; w < kSlices; ++w)
#pragma unroll
      for (int i = 0; i < R; ++i)
#pragma unroll
        for (int c = 0; c < kWide; ++c) {
          int r = n0 + ty + G * i, column = c0 + w * kSlice + tx + G * c;
          if (r < n && column < a.d) rows[r * stride + column] = T(factor * sum[w][i][c]);
        }
  }

  // ---- rows: four threads each, all in one warp ----

  __device__ float over_row(float v) const {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
  }
  __device__ float most_of_row(float v) const {
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
  }
  /// The masks that keep this row's key k, which it sees.
  __device__ unsigned bits(int q0, int k0, int k) const {
    return a.mode ? a.masks[(q0 + row) * a.mask_q + (k0 + k) * a.mask_k] : 1u;
  }
  /// Whether softmax j runs over a key, and over what: the score, weighted where masks weigh it.
  __device__ bool takes(unsigned set, int j) const { return a.mode != 2 || (set >> j & 1); }
  __device__ float logit(float score, unsigned set) const {
    return a.mode == 1 ? score * mask_weight(set, alpha, a.p) : score;
  }
  __device__ float weight(int j) const { return a.mode != 2 ? 1.0f : alpha[j] + (j == 0 ? homeless[row] : 0.0f); }
  /// f(place in s and g, masks, logit) for this thread's keys that the row sees.
  template <typename F>
  __device__ void each_key(int q0, int k0, F f) const {
    for (int k = lane; k < B; k += 4) {
      float score = s[row * kWidth + k];
      if (score == -kInfinity) continue;
      unsigned set = bits(q0, k0, k);
      f(row * kWidth + k, set, logit(score, set));
    }
  }

  /// d and left hold the maximum and the sum of exponentials of each softmax so far.
  __device__ void running(int q0, int k0) {
    for (int j = 0; j < a.m(); ++j) {
      float most = -kInfinity, before = d[j * B + row], z = left[j * B + row], sum = 0;
      each_key(q0, k0, [&](int, unsigned set, float l) {
        if (takes(set, j)) most = fmaxf(most, l);
      });
      most = fmaxf(most_of_row(most), before);
      each_key(q0, k0, [&](int, unsigned set, float l) {
        if (takes(set, j)) sum += expf(l - most);
      });
      sum = over_row(sum);
      __syncwarp();  // all four have read what the first one writes: shuffles alone order no memory, as racecheck says
      if (lane == 0 && most != -kInfinity) d[j * B + row] = most, left[j * B + row] = sum + z * expf(before - most);
    }
    __syncwarp();
  }
  /// lse, as backward reads it, and what masks without keys lend to M_0.
  __device__ void settle(int j, float value) {
    lse[j * B + row] = value == -kInfinity ? kInfinity : value;
    if (value == -kInfinity && a.mode == 2) homeless[row] += alpha[j];
  }
  /// s = P.
  __device__ void probabilities(int q0, int k0) {
    for (int k = lane; k < B; k += 4) {
      float score = s[row * kWidth + k], p = 0;
      if (score != -kInfinity) {
        unsigned set = bits(q0, k0, k);
        float l = logit(score, set);
        for (int j = 0; j < a.m(); ++j)
          if (takes(set, j)) p += weight(j) * expf(l - lse[j * B + row]);
      }
      s[row * kWidth + k] = p;
    }
  }
  /// First Σ P_j dP and Σ P_j into `d` and `share`, then Σ P_j (dP − D_j) into `left`.
  __device__ void centres(int q0, int k0, bool second) {
    for (int j = 0; j < a.m(); ++j) {
      float sum = 0, one = 0, mean = second ? d[j * B + row] : 0.0f;
      each_key(q0, k0, [&](int i, unsigned set, float l) {
        if (!takes(set, j)) return;
        float p = expf(l - lse[j * B + row]);
        one += p;
        sum = fmaf(p, g[i] - mean, sum);
      });
      sum = over_row(sum);
      one = over_row(one);
      if (lane) continue;
      if (second) left[j * B + row] += sum;
      else d[j * B + row] += sum, share[j * B + row] += one;
    }
    __syncwarp();
  }
  /// g = dS, and s = P where asked for. In mode score the shares of dα grow.
  __device__ void score_gradients(int q0, int k0, bool probabilities_too, bool shares) {
    if (shares)
      for (int j = 0; j < a.p; ++j) {
        float sum = 0;
        each_key(q0, k0, [&](int i, unsigned set, float l) {
          if (set >> j & 1) sum = fmaf(expf(l - lse[row]) * (g[i] - d[row] - left[row]), s[i], sum);
        });
        sum = over_row(sum);
        if (lane == 0) share[j * B + row] += sum;
      }
    __syncwarp();
    for (int k = lane; k < B; k += 4) {
      int i = row * kWidth + k;
      float score = s[i], p = 0, ds = 0;
      if (score != -kInfinity) {
        unsigned set = bits(q0, k0, k);
        float l = logit(score, set);
        for (int j = 0; j < a.m(); ++j)
          if (takes(set, j)) {
            float pj = weight(j) * expf(l - lse[j * B + row]);
            p += pj;
            ds = fmaf(pj, g[i] - d[j * B + row] - left[j * B + row], ds);
          }
        if (a.mode == 1) ds *= mask_weight(set, alpha, a.p);
      }
      if (probabilities_too) s[i] = p;
      g[i] = ds;
    }
  }
  /// The statistics of the tile's queries that kernels before this one saved.
  __device__ void recall(int q0, bool centred) {
    if (lane == 0) {
      homeless[row] = 0;
      for (int j = 0; j < a.m(); ++j) {
        int64_t i = (at.unit * a.nq + q0 + row) * a.m() + j;
        bool there = q0 + row < a.nq;
        settle(j, there ? a.lse[i] : -kInfinity);
        if (centred) d[j * B + row] = there ? a.centre[i].x : 0.0f, left[j * B + row] = there ? a.centre[i].y : 0.0f;
      }
    }
    __syncwarp();
  }
  __device__ void clear(float* values, int count) {
    if (lane == 0)
      for (int j = 0; j < count; ++j) values[j * B + row] = 0;
  }
};

/// Blocks: units × tiles of queries × columns.
template <typename T, int G, int R>
__global__ void __launch_bounds__(G* G, 1) general_forward(Attention<T> a, int tiles, int chunks) {
  using Form = General<T, G, R>;
  SHARED(float, shared);
  int64_t block = blockIdx.x;
  Form f(a, block / chunks / tiles, shared);
  int q0 = int(block / chunks % tiles) * Form::B, c0 = int(block % chunks) * kColumns,
      end = keys_seen(a, min(q0 + Form::B, a.nq));
  if (f.lane == 0)
    for (int j = 0; j < a.m(); ++j) f.d[j * Form::B + f.row] = -kInfinity, f.left[j * Form::B + f.row] = 0;
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    f.scores(q0, k0);
    f.running(q0, k0);
  }
  __syncthreads();  // alpha is there even if no key is
  if (f.lane == 0) {
    f.homeless[f.row] = 0;
    for (int j = 0; j < a.m(); ++j) {
      float value = f.left[j * Form::B + f.row] == 0 ? -kInfinity
                                                     : f.d[j * Form::B + f.row] + logf(f.left[j * Form::B + f.row]);
      f.settle(j, value);
      if (c0 == 0 && q0 + f.row < a.nq) a.lse[(f.at.unit * a.nq + q0 + f.row) * a.m() + j] = value;
    }
  }
  __syncwarp();
  typename Form::Sum sum = {};
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    if (end > Form::B) f.scores(q0, k0);
    f.probabilities(q0, k0);
    f.template accumulate<false>(sum, f.s, f.at(a.v), a.v.row, k0, a.nk, c0);
  }
  f.write(sum, f.at(a.out), a.out.row, q0, a.nq, c0, 1);
}

/// dq, D and the shares of dα. Blocks as forward.
template <typename T, int G, int R>
__global__ void __launch_bounds__(G* G, 1) general_backward_queries(Attention<T> a, int tiles, int chunks) {
  using Form = General<T, G, R>;
  SHARED(float, shared);
  int64_t block = blockIdx.x;
  Form f(a, block / chunks / tiles, shared);
  int q0 = int(block / chunks % tiles) * Form::B, c0 = int(block % chunks) * kColumns,
      end = keys_seen(a, min(q0 + Form::B, a.nq));
  bool many = end > Form::B, writes = c0 == 0, shares = a.shares && writes;
  __syncthreads();
  f.recall(q0, false);
  f.clear(f.d, a.m());
  f.clear(f.left, a.m());
  f.clear(f.share, a.m());
  auto form = [&](int k0) {
    f.scores(q0, k0);
    f.gradients(q0, k0);
  };
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    form(k0);
    f.centres(q0, k0, false);
  }
  auto divide = [&](float* sums) {
    if (f.lane == 0)
      for (int j = 0; j < a.m(); ++j)
        if (float one = f.share[j * Form::B + f.row]; one > 0) sums[j * Form::B + f.row] /= one;
    __syncwarp();
  };
  divide(f.d);
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    if (many) form(k0);
    f.centres(q0, k0, true);
  }
  divide(f.left);
  if (f.lane == 0 && writes && q0 + f.row < a.nq)
    for (int j = 0; j < a.m(); ++j)
      a.centre[(f.at.unit * a.nq + q0 + f.row) * a.m() + j] = make_float2(f.d[j * Form::B + f.row],
                                                                          f.left[j * Form::B + f.row]);
  f.clear(f.share, kMostChoices);
  __syncwarp();
  if (a.dq.data || (shares && a.mode == 1)) {
    typename Form::Sum sum = {};
    for (int k0 = 0; k0 < end; k0 += Form::B) {
      if (many) form(k0);
      f.score_gradients(q0, k0, false, shares && a.mode == 1);
      if (a.dq.data) f.template accumulate<false>(sum, f.g, f.at(a.k), a.k.row, k0, a.nk, c0);
    }
    if (a.dq.data) f.write(sum, f.at(a.dq), a.dq.row, q0, a.nq, c0, a.scale);
  }
  if (!shares) return;
  if (f.lane == 0 && a.mode == 2)
    for (int j = 0; j < a.p; ++j) {  // a mask without keys had M_0's softmax
      int from = (f.lse[j * Form::B + f.row] == kInfinity ? 0 : j) * Form::B + f.row;
      f.share[j * Form::B + f.row] = f.d[from] + f.left[from];
    }
  __syncthreads();
  if (int(threadIdx.x) < a.p) {
    float total = 0;
    for (int r = 0; r < Form::B; ++r) total += f.share[int(threadIdx.x) * Form::B + r];
    a.shares[block / chunks * a.p + threadIdx.x] = total;
  }
}

/// dk and dv. Blocks: units × tiles of keys × columns.
template <typename T, int G, int R>
__global__ void __launch_bounds__(G* G, 1) general_backward_keys(Attention<T> a, int tiles, int chunks) {
  using Form = General<T, G, R>;
  SHARED(float, shared);
  int64_t block = blockIdx.x;
  Form f(a, block / chunks / tiles, shared);
  int k0 = int(block / chunks % tiles) * Form::B, c0 = int(block % chunks) * kColumns;
  typename Form::Sum dk = {}, dv = {};
  for (int q0 = first_query(a, k0) / Form::B * Form::B; q0 < a.nq; q0 += Form::B) {
    f.scores(q0, k0);
    if (a.dk.data) f.gradients(q0, k0);
    f.recall(q0, a.dk.data);
    if (a.dk.data) f.score_gradients(q0, k0, true, false);
    else f.probabilities(q0, k0);
    if (a.dv.data) f.template accumulate<true>(dv, f.s, f.at(a.dout), a.dout.row, q0, a.nq, c0);
    if (a.dk.data) f.template accumulate<true>(dk, f.g, f.at(a.q), a.q.row, q0, a.nq, c0);
  }
  if (a.dv.data) f.write(dv, f.at(a.dv), a.dv.row, k0, a.nk, c0, 1);
  if (a.dk.data) f.write(dk, f.at(a.dk), a.dk.row, k0, a.nk, c0, a.scale);
}

}  // namespace mt::cuda
