// Attention of any size, in float32 arithmetic. A block of G·G threads has a tile of B = G·R queries, or keys, and
// walks over tiles of the other side. For each pair of tiles:
//
//   1. scores (and dP): formed in registers, R·R a thread, from slices of 32 columns in shared memory
//   2. probabilities (and dS): made of the scores in shared memory, four threads a row
//   3. results: the tile of 2 times slices of rows, added to sums in registers
//
// Nothing of the size queries × keys reaches global memory. What needs a sum over all keys first walks over the keys a
// second time; a single tile of keys stays in shared memory instead.
#pragma once
#include <type_traits>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/softmax.h"

namespace mt::cuda {

inline constexpr int kSlice = 32;
inline constexpr int kSlices = 4;
/// Columns of a result that a block holds in registers: more would not fit beside a tile's scores. Wider heads take
/// several blocks.
inline constexpr int kColumns = kSlice * kSlices;

/// What a block holds in shared memory. Rows are padded by one element, so that a column falls into different banks.
template <int B>
struct GeneralShared {
  float s[B][B + 1];           // (query, key): scores, then P
  float g[B][B + 1];           // (query, key): dP, then dS
  float x[B][kSlice + 1];      // (row, column): slices of rows
  float y[B][kSlice + 1];      // likewise
  float lse[kMostChoices][B];  // (softmax, query): +∞ where it ran over nothing, so that exp(s − lse) is 0
  union {
    float run_max[kMostChoices][B];  // (softmax, query), forward
    float mean[kMostChoices][B];     // (softmax, query), backward: D
  };
  union {
    float run_sum[kMostChoices][B];  // (softmax, query), forward
    float rest[kMostChoices][B];     // (softmax, query), backward: the rounding error of D
  };
  union {
    float p_sum[kMostChoices][B];  // (softmax, query): Σ P_j, 1 but for rounding
    float share[kMostChoices][B];  // (mask, query): the query's term of dα
  };
  float lent[B];              // (query): α of its empty masks
  float alpha[kMostChoices];  // (mask)
};

template <typename T, int G, int R, bool biased>
struct General {
  static constexpr int B = G * R, kBlock = G * G, kWidth = B + 1, kPad = kSlice + 1, kWide = kSlice / G;
  static_assert(kBlock == 4 * B);
  using Shared = GeneralShared<B>;
  using Sum = float[kSlices][R][kWide];  // of a result: this thread's rows ty + G·i, columns tx + G·c of each slice

  const Attention<T>& a;
  UnitIndex at;
  int tx = int(threadIdx.x) % G, ty = int(threadIdx.x) / G;     // in a tile of scores
  int lane = int(threadIdx.x) % 4, row = int(threadIdx.x) / 4;  // in rows of it
  // Pointers into GeneralShared. With references to its arrays nvcc takes up to 34 registers more, and a multiprocessor
  // holds one block less.
  float *s, *g, *x, *y, *lse, *run_max, *run_sum, *mean, *rest, *p_sum, *share, *lent, *alpha;

  __device__ General(const Attention<T>& a, int64_t unit, Shared& shared) : a(a), at(a, unit) {
    s = shared.s[0];
    g = shared.g[0];
    x = shared.x[0];
    y = shared.y[0];
    lse = shared.lse[0];
    run_max = shared.run_max[0];
    run_sum = shared.run_sum[0];
    mean = shared.mean[0];
    rest = shared.rest[0];
    p_sum = shared.p_sum[0];
    share = shared.share[0];
    lent = shared.lent;
    alpha = shared.alpha;
    if (int(threadIdx.x) < kMostChoices)
      alpha[threadIdx.x] = a.routing != Routing::off && int(threadIdx.x) < a.p ? at.alpha(a)[threadIdx.x * a.alpha_j]
                                                                               : 1.0f;
  }

  // ---- products, by all threads ----

  /// Loads columns c0.. of rows r0.. into a slice, zeros outside the matrix.
  template <typename E>
  __device__ void load(float* to, const E* rows, int64_t stride, int r0, int n, int c0) {
    for (int i = int(threadIdx.x); i < B * kSlice; i += kBlock) {
      int r = i / kSlice, c = i % kSlice;
      to[r * kPad + c] = r0 + r < n && c0 + c < a.d ? float(rows[(r0 + r) * stride + c0 + c]) : 0.0f;
    }
  }

  /// to (B queries, B keys) = factor · left[q0+i]·right[k0+k]; where `hide`, plus the bias of the distance, and −∞
  /// where the query does not see the key. All threads call it; it begins and ends with a barrier.
  __device__ void products(float* to, const T* left, int64_t left_row, const T* right, int64_t right_row, int q0,
                           int k0, float factor, bool hide) {
    float sum[R][R] = {};
    for (int c0 = 0; c0 < a.d; c0 += kSlice) {
      __syncthreads();
      load(x, left, left_row, q0, a.nq, c0);
      load(y, right, right_row, k0, a.nk, c0);
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
    const uint8_t* key_mask = hide ? at.key_mask(a) : nullptr;
    const float* bias = biased && hide ? a.bias + at.head * a.bias_head : nullptr;
#pragma unroll
    for (int k = 0; k < R; ++k) {
      int key = k0 + tx + G * k;
      bool token = key < a.nk && (!key_mask || key_mask[key * a.key_row]);
#pragma unroll
      for (int i = 0; i < R; ++i) {
        int query = q0 + ty + G * i;
        bool seen = token && query < a.nq && (!a.causal || key <= query + a.nk - a.nq);
        float x = factor * sum[i][k];
        if constexpr (biased)
          if (hide && seen) x += bias[(key - query + a.nq - 1) * a.bias_step];
        to[(ty + G * i) * kWidth + tx + G * k] = !hide || seen ? x : kNone;
      }
    }
    __syncthreads();
  }
  /// s = scale·q kᵀ + b.
  __device__ void form_scores(int q0, int k0) {
    products(s, at(a.q), a.q.row, at(a.k), a.k.row, q0, k0, a.scale, true);
  }
  /// g = dP = dout vᵀ.
  __device__ void form_dP(int q0, int k0) { products(g, at(a.dout), a.dout.row, at(a.v), a.v.row, q0, k0, 1, false); }

  /// sum (B, kColumns) += tile, or its transpose where `columns`, · rows n0.. of a matrix, columns from c0.
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

  /// The masks that keep this row's key k, which it sees.
  __device__ unsigned mask_set(int q0, int k0, int k) const {
    return a.routing != Routing::off ? a.masks[(q0 + row) * a.mask_q + (k0 + k) * a.mask_k] : 1u;
  }
  /// Whether softmax j runs over a key that the masks in `set` keep; what it runs over, the score times its weight with
  /// routing score; and the weight of softmax j in the result.
  __device__ bool takes(unsigned set, int j) const { return !a.mixes() || (set >> j & 1); }
  __device__ float logit(float score, unsigned set) const {
    return a.routing == Routing::score ? score * mask_weight(set, alpha, a.p) : score;
  }
  __device__ float weight(int j) const { return !a.mixes() ? 1.0f : weight_with_lent(j, alpha[j], lent[row]); }
  /// f(i, masks, logit) for this thread's keys that the row sees; i is the pair's index in s and g.
  template <typename F>
  __device__ void each_key(int q0, int k0, F f) const {
    for (int k = lane; k < B; k += 4) {
      float score = s[row * kWidth + k];
      if (score == kNone) continue;
      unsigned set = mask_set(q0, k0, k);
      f(row * kWidth + k, set, logit(score, set));
    }
  }
  __device__ void clear(float* values, int count) {
    if (lane == 0)
      for (int j = 0; j < count; ++j) values[j * B + row] = 0;
  }

  /// Adds a tile of scores to run_max and run_sum of each softmax.
  __device__ void add_keys(int q0, int k0) {
    for (int j = 0; j < a.m(); ++j) {
      float now = kNone, before = run_max[j * B + row], z = run_sum[j * B + row], sum = 0;
      each_key(q0, k0, [&](int, unsigned set, float l) {
        if (takes(set, j)) now = fmaxf(now, l);
      });
      now = fmaxf(quad_max(now), before);
      each_key(q0, k0, [&](int, unsigned set, float l) {
        if (takes(set, j)) sum += expf(l - now);
      });
      sum = quad_sum(sum);
      __syncwarp();  // all four have read what the first one writes next; shuffles alone do not order memory
      if (lane == 0 && now != kNone) run_max[j * B + row] = now, run_sum[j * B + row] = sum + z * expf(before - now);
    }
    __syncwarp();
  }
  /// Stores the log-sum-exp of softmax j; where it ran over nothing, its α is lent to M_0.
  __device__ void set_lse(int j, float value) {
    lse[j * B + row] = nothing_visible(value) ? INFINITY : value;
    if (nothing_visible(value) && a.mixes()) lent[row] += alpha[j];
  }
  /// s = P.
  __device__ void form_probabilities(int q0, int k0) {
    for (int k = lane; k < B; k += 4) {
      float score = s[row * kWidth + k], p = 0;
      if (score != kNone) {
        unsigned set = mask_set(q0, k0, k);
        float l = logit(score, set);
        for (int j = 0; j < a.m(); ++j)
          if (takes(set, j)) p += weight(j) * expf(l - lse[j * B + row]);
      }
      s[row * kWidth + k] = p;
    }
  }
  /// In the first pass adds Σ P_j dP to mean and Σ P_j to p_sum, in the second Σ P_j (dP − D_j) to rest.
  __device__ void add_centres(int q0, int k0, bool second) {
    for (int j = 0; j < a.m(); ++j) {
      float sum = 0, one = 0, centre = second ? mean[j * B + row] : 0.0f;
      each_key(q0, k0, [&](int i, unsigned set, float l) {
        if (!takes(set, j)) return;
        float p = expf(l - lse[j * B + row]);
        one += p;
        sum = fmaf(p, g[i] - centre, sum);
      });
      sum = quad_sum(sum);
      one = quad_sum(one);
      if (lane) continue;
      if (second) rest[j * B + row] += sum;
      else mean[j * B + row] += sum, p_sum[j * B + row] += one;
    }
    __syncwarp();
  }
  /// sums /= p_sum.
  __device__ void divide_by_p_sum(float* sums) {
    if (lane == 0)
      for (int j = 0; j < a.m(); ++j)
        if (float one = p_sum[j * B + row]; one > 0) sums[j * B + row] /= one;
    __syncwarp();
  }
  /// g = dS, and s = P where `probabilities_too`. Where `shares`, adds to the shares of dα (routing score).
  __device__ void form_dS(int q0, int k0, bool probabilities_too, bool shares) {
    if (shares)
      for (int j = 0; j < a.p; ++j) {
        float sum = 0;
        each_key(q0, k0, [&](int i, unsigned set, float l) {
          if (set >> j & 1) sum = fmaf(expf(l - lse[row]) * (g[i] - mean[row] - rest[row]), s[i], sum);
        });
        sum = quad_sum(sum);
        if (lane == 0) share[j * B + row] += sum;
      }
    __syncwarp();
    for (int k = lane; k < B; k += 4) {
      float score = s[row * kWidth + k], p = 0, dS = 0;
      if (score != kNone) {
        unsigned set = mask_set(q0, k0, k);
        float l = logit(score, set);
        for (int j = 0; j < a.m(); ++j)
          if (takes(set, j)) {
            float pj = weight(j) * expf(l - lse[j * B + row]);
            p += pj;
            dS = fmaf(pj, g[row * kWidth + k] - mean[j * B + row] - rest[j * B + row], dS);
          }
        if (a.routing == Routing::score) dS *= mask_weight(set, alpha, a.p);
      }
      if (probabilities_too) s[row * kWidth + k] = p;
      g[row * kWidth + k] = dS;
    }
  }
  /// Loads lse of the tile's queries, and D where `centred`, as kernels before this one saved them.
  __device__ void load_statistics(int q0, bool centred) {
    if (lane == 0) {
      lent[row] = 0;
      for (int j = 0; j < a.m(); ++j) {
        int64_t i = (at.unit * a.nq + q0 + row) * a.m() + j;
        bool there = q0 + row < a.nq;
        set_lse(j, there ? a.lse[i] : kNone);
        if (centred) mean[j * B + row] = there ? a.centre[i].x : 0.0f, rest[j * B + row] = there ? a.centre[i].y : 0.0f;
      }
    }
    __syncwarp();
  }
};

/// f(G, R, biased) of the tiles: 16 rows where both sides are short, else 64.
template <typename T, typename F>
void each_tile(const Attention<T>& a, F f) {
  const auto tiles = [&](auto biased) {
    if (a.nq <= 32 && a.nk <= 32) f(std::integral_constant<int, 8>{}, std::integral_constant<int, 2>{}, biased);
    else f(std::integral_constant<int, 16>{}, std::integral_constant<int, 4>{}, biased);
  };
  a.bias ? tiles(std::true_type{}) : tiles(std::false_type{});
}

/// out and lse. Blocks: units × tiles of queries × chunks of columns.
template <typename T, int G, int R, bool biased>
__global__ void __launch_bounds__(G* G, 1) general_forward(Attention<T> a, int tiles, int chunks) {
  using Form = General<T, G, R, biased>;
  SHARED(typename Form::Shared, shared);
  int64_t block = blockIdx.x;
  Form f(a, block / chunks / tiles, *shared);
  int q0 = int(block / chunks % tiles) * Form::B, c0 = int(block % chunks) * kColumns,
      end = keys_seen(a, min(q0 + Form::B, a.nq));
  if (f.lane == 0)
    for (int j = 0; j < a.m(); ++j) f.run_max[j * Form::B + f.row] = kNone, f.run_sum[j * Form::B + f.row] = 0;
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    f.form_scores(q0, k0);  // (B, B)
    f.add_keys(q0, k0);
  }
  __syncthreads();  // alpha is written, also where the loop had no key
  if (f.lane == 0) {
    f.lent[f.row] = 0;
    for (int j = 0; j < a.m(); ++j) {
      float z = f.run_sum[j * Form::B + f.row], value = z == 0 ? kNone : f.run_max[j * Form::B + f.row] + logf(z);
      f.set_lse(j, value);
      if (c0 == 0 && q0 + f.row < a.nq) a.lse[(f.at.unit * a.nq + q0 + f.row) * a.m() + j] = value;
    }
  }
  __syncwarp();
  typename Form::Sum out = {};  // (B, kColumns)
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    if (end > Form::B) f.form_scores(q0, k0);
    f.form_probabilities(q0, k0);
    f.template accumulate<false>(out, f.s, f.at(a.v), a.v.row, k0, a.nk, c0);  // += P v
  }
  f.write(out, f.at(a.out), a.out.row, q0, a.nq, c0, 1);
}

/// dq, D and the shares of dα. Blocks as in general_forward.
template <typename T, int G, int R, bool biased>
__global__ void __launch_bounds__(G* G, 1) general_backward_queries(Attention<T> a, int tiles, int chunks) {
  using Form = General<T, G, R, biased>;
  SHARED(typename Form::Shared, shared);
  int64_t block = blockIdx.x;
  Form f(a, block / chunks / tiles, *shared);
  int q0 = int(block / chunks % tiles) * Form::B, c0 = int(block % chunks) * kColumns,
      end = keys_seen(a, min(q0 + Form::B, a.nq));
  bool many = end > Form::B, writes = c0 == 0, shares = a.shares && writes;
  __syncthreads();
  f.load_statistics(q0, false);
  f.clear(f.mean, a.m());
  f.clear(f.rest, a.m());
  f.clear(f.p_sum, a.m());
  auto form = [&](int k0) {  // (B, B) each
    f.form_scores(q0, k0);
    f.form_dP(q0, k0);
  };
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    form(k0);
    f.add_centres(q0, k0, false);
  }
  f.divide_by_p_sum(f.mean);
  for (int k0 = 0; k0 < end; k0 += Form::B) {
    if (many) form(k0);
    f.add_centres(q0, k0, true);
  }
  f.divide_by_p_sum(f.rest);
  if (f.lane == 0 && writes && q0 + f.row < a.nq)
    for (int j = 0; j < a.m(); ++j)
      a.centre[(f.at.unit * a.nq + q0 + f.row) * a.m() + j] = make_float2(f.mean[j * Form::B + f.row],
                                                                          f.rest[j * Form::B + f.row]);
  f.clear(f.share, kMostChoices);
  __syncwarp();
  if (a.dq.data || (shares && a.routing == Routing::score)) {
    typename Form::Sum dq = {};  // (B, kColumns)
    for (int k0 = 0; k0 < end; k0 += Form::B) {
      if (many) form(k0);
      f.form_dS(q0, k0, false, shares && a.routing == Routing::score);
      if (a.dq.data) f.template accumulate<false>(dq, f.g, f.at(a.k), a.k.row, k0, a.nk, c0);  // += dS k
    }
    if (a.dq.data) f.write(dq, f.at(a.dq), a.dq.row, q0, a.nq, c0, a.scale);
  }
  if (!shares) return;
  if (f.lane == 0 && a.mixes())
    for (int j = 0; j < a.p; ++j) {
      int from = f.lse[j * Form::B + f.row] == INFINITY ? 0 : j;  // an empty mask has M_0's softmax
      f.share[j * Form::B + f.row] = f.mean[from * Form::B + f.row] + f.rest[from * Form::B + f.row];
    }
  __syncthreads();
  if (int(threadIdx.x) < a.p) {
    float total = 0;
    for (int r = 0; r < Form::B; ++r) total += f.share[int(threadIdx.x) * Form::B + r];
    a.shares[block / chunks * a.p + threadIdx.x] = total;
  }
}

/// dk and dv. Blocks: units × tiles of keys × chunks of columns.
template <typename T, int G, int R, bool biased>
__global__ void __launch_bounds__(G* G, 1) general_backward_keys(Attention<T> a, int tiles, int chunks) {
  using Form = General<T, G, R, biased>;
  SHARED(typename Form::Shared, shared);
  int64_t block = blockIdx.x;
  Form f(a, block / chunks / tiles, *shared);
  int k0 = int(block / chunks % tiles) * Form::B, c0 = int(block % chunks) * kColumns;
  typename Form::Sum dk = {}, dv = {};  // (B, kColumns)
  for (int q0 = first_query(a, k0) / Form::B * Form::B; q0 < a.nq; q0 += Form::B) {
    f.form_scores(q0, k0);  // (B, B)
    if (a.dk.data) f.form_dP(q0, k0);
    f.load_statistics(q0, a.dk.data);
    if (a.dk.data) f.form_dS(q0, k0, true, false);
    else f.form_probabilities(q0, k0);
    if (a.dv.data) f.template accumulate<true>(dv, f.s, f.at(a.dout), a.dout.row, q0, a.nq, c0);  // += Pᵀ dout
    if (a.dk.data) f.template accumulate<true>(dk, f.g, f.at(a.q), a.q.row, q0, a.nq, c0);        // += dSᵀ q
  }
  if (a.dv.data) f.write(dv, f.at(a.dv), a.dv.row, k0, a.nk, c0, 1);
  if (a.dk.data) f.write(dk, f.at(a.dk), a.dk.row, k0, a.nk, c0, a.scale);
}

}  // namespace mt::cuda
