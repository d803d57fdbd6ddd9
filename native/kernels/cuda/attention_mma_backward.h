// Backward attention on tensor cores. A warp that has 16 queries forms their D and dq, one that has 16 keys their dk
// and dv: no sum crosses warps. A block that holds all rows of its units does both, one after the other, and reads them
// once; long sequences take two kernels, which walk over segments of the other side.
#pragma once
#include "kernels/cuda/attention_mma.h"

namespace mt::cuda {

enum class Part { both, queries, keys };

template <int D>
constexpr size_t unit_bytes(const Cut& cut, int m, bool masked) {
  return size_t(cut.q_rows + cut.k_rows) * 2 * kRow<D> * sizeof(bf16) +
         size_t(cut.k_rows + cut.q_rows * (1 + (masked ? 2 * m : 1)) + (masked ? cut.warps * kMostChoices : 0)) *
             sizeof(float);
}

template <int D, bool masked>
struct BackwardTile {
  using Pairs = float[2][4];  // 16×16: queries × keys where a warp has queries, keys × queries where it has keys
  using Sets = unsigned[2];

  const Attention<bf16>& a;
  const Cut& cut;
  Place at;
  Lane l;
  bf16* q;  // [q_rows, kRow<D>], and behind it dout, k and v [k_rows, kRow<D>]; registers are dear, so that places are
            // found anew
  const float* alpha;
  int q_first = 0, k_first = 0;  // what lies in the first row
  float share[kMostChoices] = {};

  __device__ BackwardTile(const Attention<bf16>& a, const Cut& cut, int64_t unit, unsigned char* memory)
      : a(a), cut(cut), at(a, unit), q(reinterpret_cast<bf16*>(memory)), alpha(at.alphas(a)) {}
  __device__ bf16* dout() const { return q + cut.q_rows * kRow<D>; }
  __device__ bf16* k() const { return q + 2 * cut.q_rows * kRow<D>; }
  __device__ bf16* v() const { return k() + cut.k_rows * kRow<D>; }
  __device__ float* bias() const { return reinterpret_cast<float*>(k() + 2 * cut.k_rows * kRow<D>); }  // [k_rows]
  __device__ float* most() const { return bias() + cut.k_rows; }                                       // [q_rows]
  __device__ float* mean() const { return most() + cut.q_rows; }                                       // [m, q_rows]
  __device__ float* coef() const { return mean() + a.m() * cut.q_rows; }                               // [m, q_rows]
  __device__ float* shares() const { return coef() + a.m() * cut.q_rows; }  // [warps, kMostChoices]

  // ---- rows into shared memory, by all threads of the unit ----

  __device__ void load_keys(int k0, int thread, int threads) {
    k_first = k0;
    load_rows<D>(k(), at(a.k), a.k.row, k0, a.nk, cut.k_rows, a.d, thread, threads);
    load_rows<D>(v(), at(a.v), a.v.row, k0, a.nk, cut.k_rows, a.d, thread, threads);
    load_bias(bias(), at.keys(a), a.key_row, k0, a.nk, cut.k_rows, thread, threads);
  }
  /// With the rows, what makes probabilities of logits x: P = exp(x − most), in mode attention times Σ coef_j over the
  /// masks that keep the pair. most is +∞ where no key is seen, and −∞ where a mask lies too far off: coef_j is a mere
  /// α_j then.
  __device__ void load_queries(int q0, bool centred, int thread, int threads) {
    q_first = q0;
    load_rows<D>(q, at(a.q), a.q.row, q0, a.nq, cut.q_rows, a.d, thread, threads);
    load_rows<D>(dout(), at(a.dout), a.dout.row, q0, a.nq, cut.q_rows, a.d, thread, threads);
    for (int i = thread; i < cut.q_rows; i += threads) {
      float top = kNothing, homeless = 0;
      bool there = q0 + i < a.nq, far = false;
      for (int j = 0; j < a.m() && there; ++j) top = fmaxf(top, lse(i, j));
      for (int j = 0; j < a.m(); ++j)
        mean()[j * cut.q_rows + i] = centred && there ? a.centre[row(i) * a.m() + j].x : 0.0f;
      most()[i] = top == kNothing ? INFINITY : top;
      if constexpr (masked) {
        if (a.mode != 2) continue;
        for (int j = 0; j < a.p && there; ++j) {
          if (lse(i, j) == kNothing) homeless += alpha[j * a.alpha_j];
          else far |= top - lse(i, j) > kFar;
        }
        for (int j = 0; j < a.p; ++j) {
          bool none = !there || lse(i, j) == kNothing;
          float weight = alpha[j * a.alpha_j] + (j == 0 ? homeless : 0.0f);
          coef()[j * cut.q_rows + i] = none ? 0.0f : far ? weight : weight * __expf(top - lse(i, j));
        }
        if (far) most()[i] = kNothing;
      }
    }
  }
  __device__ int64_t row(int i) const { return at.unit * a.nq + q_first + i; }
  __device__ float lse(int i, int j) const { return a.lse[row(i) * a.m() + j]; }

  // ---- pairs ----

  /// Rows in shared memory of the query and the key of element e of half n; rows is true where the warp has queries.
  template <bool rows>
  __device__ int query(int q0, int n, int e) const {
    return q0 + (rows ? l.row + e / 2 * 8 : 8 * n + l.column + e % 2);
  }
  template <bool rows>
  __device__ int key(int k0, int n, int e) const {
    return k0 + (rows ? 8 * n + l.column + e % 2 : l.row + e / 2 * 8);
  }

  /// Products q·k to logits, −∞ where the query does not see the key, and the masks that keep them; s becomes the
  /// score.
  template <bool rows>
  __device__ void logits(Pairs& s, Pairs& x, Sets& sets, int q0, int k0) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if constexpr (masked)
        sets[n] = mask_sets(
            a, [&](int e) { return q_first + query<rows>(q0, n, e); },
            [&](int e) { return k_first + key<rows>(k0, n, e); });
#pragma unroll
      for (int e = 0; e < 4; ++e) x[n][e] = s[n][e] *= a.scale;
      if constexpr (masked)
        if (a.mode == 1) weigh(a, alpha, sets[n], x[n]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float y = x[n][e] + bias()[key<rows>(k0, n, e)];
        x[n][e] = a.causal && k_first + key<rows>(k0, n, e) > q_first + query<rows>(q0, n, e) + a.nk - a.nq ? kNothing
                                                                                                            : y;
      }
    }
  }
  /// x = P and g = dS from logits x and dP g. `with_shares`: their part of dα is wanted. A reference and a
  /// flag, not a pointer that may be null: that would hold the scores in local memory.
  template <bool rows>
  __device__ void gradients(Pairs& x, Pairs& g, const Sets& sets, int q0, const Pairs& scores, bool with_shares) {
    if constexpr (masked)
      if (a.mode == 2) return mixed_gradients<rows>(x, g, sets, q0);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int i = query<rows>(q0, n, e);
        x[n][e] = __expf(x[n][e] - most()[i]);
        g[n][e] = x[n][e] * (g[n][e] - mean()[i]);
      }
    if constexpr (masked) {
      if (with_shares) {
#pragma unroll
        for (int j = 0; j < kMostChoices; ++j) {
          if (j >= a.p) break;
#pragma unroll
          for (int i = 0; i < 8; ++i)
            share[j] += keeps(sets[i / 4], i % 4, j) ? g[i / 4][i % 4] * scores[i / 4][i % 4] : 0.0f;
        }
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) weigh(a, alpha, sets[n], g[n]);
    }
  }
  template <bool rows>
  __device__ void mixed_gradients(Pairs& x, Pairs& g, const Sets& sets, int q0) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float c[4] = {}, d[4] = {};  // Σ coef_j and Σ coef_j D_j
#pragma unroll 1
      for (int j = 0; j < a.p; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int i = j * cut.q_rows + query<rows>(q0, n, e);
          float w = keeps(sets[n], e, j) ? coef()[i] : 0.0f;
          c[e] += w;
          d[e] = fmaf(w, mean()[i], d[e]);
        }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int i = query<rows>(q0, n, e);
        float top = most()[i], y = x[n][e], p = y == kNothing ? 0.0f : __expf(y - top);
        if (top == kNothing && y != kNothing) {
          p = 1;
          c[e] = d[e] = 0;
#pragma unroll 1
          for (int j = 0; j < a.p; ++j) {
            if (!keeps(sets[n], e, j)) continue;
            float own = coef()[j * cut.q_rows + i] * __expf(y - lse(i, j));
            c[e] += own;
            d[e] += own * mean()[j * cut.q_rows + i];
          }
        }
        x[n][e] = p * c[e];
        g[n][e] = p * (c[e] * g[n][e] - d[e]);
      }
    }
  }

  // ---- 16 queries ----

  /// Adds Σ P_j dP over the keys before `end` to mean, of the queries from row q0; in mode attention without the factor
  /// that centre() gives it.
  __device__ void add_centre(int q0, int end) {
    bool far = masked && __any_sync(~0u, most()[q0 + l.row] == kNothing || most()[q0 + l.row + 8] == kNothing);
#pragma unroll 1
    for (int k0 = 0; k0 < end; k0 += 16) {
      Pairs s = {}, g = {}, x;
      Sets sets;
      row_products<D>(s, q + q0 * kRow<D>, k() + k0 * kRow<D>, l);
      row_products<D>(g, dout() + q0 * kRow<D>, v() + k0 * kRow<D>, l);
      logits<true>(s, x, sets, q0, k0);
#pragma unroll 1
      for (int j = 0; j < (masked ? a.m() : 1); ++j) {
        float sum[2] = {};
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (x[n][e] == kNothing || (masked && a.mode == 2 && !keeps(sets[n], e, j))) continue;
            int i = q0 + l.row + e / 2 * 8;
            sum[e / 2] = fmaf(__expf(x[n][e] - (far ? lse(i, j) : most()[i])), g[n][e], sum[e / 2]);
          }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float total = quad_sum(sum[half]);
          if (l.column == 0) mean()[j * cut.q_rows + q0 + l.row + 8 * half] += total;
        }
      }
    }
    __syncwarp();
  }
  /// D of the queries from row q0, to where kernels after this one find it, and in mode attention their share of dα.
  __device__ void centre(int q0) {
    bool far = masked && __any_sync(~0u, most()[q0 + l.row] == kNothing || most()[q0 + l.row + 8] == kNothing);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int i = q0 + l.row + 8 * half;
      if (l.column || q_first + i >= a.nq) continue;
      if (a.centre)
        for (int j = 0; j < a.m(); ++j) a.centre[row(i) * a.m() + j] = make_float2(mean()[j * cut.q_rows + i], 0.0f);
      if constexpr (masked) {
        if (a.mode != 2) continue;
#pragma unroll
        for (int j = 0; j < kMostChoices; ++j) {
          if (j >= a.p) break;
          float& d = mean()[j * cut.q_rows + i];
          bool none = lse(i, j) == kNothing;
          if (!none && !far) d *= __expf(most()[i] - lse(i, j));
          share[j] += none ? mean()[i] : d;
        }
      }
    }
    __syncwarp();
  }
  __device__ void add_query_gradients(float (&dq)[D / 8][4], int q0, int end) {
#pragma unroll 1
    for (int k0 = 0; k0 < end; k0 += 16) {
      Pairs s = {}, g = {}, x;
      Sets sets;
      uint32_t ds[4];
      row_products<D>(s, q + q0 * kRow<D>, k() + k0 * kRow<D>, l);
      row_products<D>(g, dout() + q0 * kRow<D>, v() + k0 * kRow<D>, l);
      logits<true>(s, x, sets, q0, k0);
      gradients<true>(x, g, sets, q0, s, a.shares);
      as_factor(ds, g[0], g[1]);
      add_product<D>(dq, ds, k() + k0 * kRow<D>, l);
    }
  }
  __device__ void write_queries(const float (&dq)[D / 8][4], int q0) {
    if (a.dq.data) store_rows<D>(dq, at(a.dq), a.dq.row, q_first + q0, a.nq, a.d, a.scale, a.scale, l);
  }

  /// The warp's shares of dα, to where the unit's warps are added up.
  __device__ void save_shares(int warp) {
#pragma unroll
    for (int j = 0; j < kMostChoices; ++j) {
      float sum = warp_sum(share[j]);
      if (l.index == 0) shares()[warp * kMostChoices + j] = sum;
    }
  }

  // ---- 16 keys ----

  __device__ void add_key_gradients(float (&dk)[D / 8][4], float (&dv)[D / 8][4], int k0, int rows) {
    int from = max(0, first_query(a, k_first + k0) - q_first) / 16 * 16;
#pragma unroll 1
    for (int q0 = from; q0 < rows; q0 += 16) {
      Pairs s = {}, g = {}, x;
      Sets sets;
      uint32_t factor[4];
      row_products<D>(s, k() + k0 * kRow<D>, q + q0 * kRow<D>, l);
      if (a.dk.data) row_products<D>(g, v() + k0 * kRow<D>, dout() + q0 * kRow<D>, l);
      logits<false>(s, x, sets, q0, k0);
      gradients<false>(x, g, sets, q0, s, false);
      as_factor(factor, x[0], x[1]);
      add_product<D>(dv, factor, dout() + q0 * kRow<D>, l);
      if (!a.dk.data) continue;
      as_factor(factor, g[0], g[1]);
      add_product<D>(dk, factor, q + q0 * kRow<D>, l);
    }
  }
  __device__ void write_keys(const float (&dk)[D / 8][4], const float (&dv)[D / 8][4], int k0) {
    if (a.dk.data) store_rows<D>(dk, at(a.dk), a.dk.row, k_first + k0, a.nk, a.d, a.scale, a.scale, l);
    if (a.dv.data) store_rows<D>(dv, at(a.dv), a.dv.row, k_first + k0, a.nk, a.d, 1, 1, l);
  }
};

__device__ inline void arrive() {
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
}

/// Blocks: groups of units × blocks of queries or keys; masks are used where all of a unit lies in one block.
template <int D, bool masked, Part part>
__global__ void __launch_bounds__(32 * kMostWarps<D>, 1) mma_backward(Attention<bf16> a, Cut cut) {
  SHARED(unsigned char, shared);
  int warp = int(threadIdx.x) / 32, slot = warp / cut.warps, own = warp % cut.warps, threads = 32 * cut.warps,
      thread = int(threadIdx.x) - 32 * slot * cut.warps;
  int64_t unit = int64_t(blockIdx.x) / cut.blocks * cut.units + slot;
  bool there = unit < a.units, centred = a.dq.data || a.dk.data || a.shares;
  BackwardTile<D, masked> t(a, cut, there ? unit : 0, shared + slot * unit_bytes<D>(cut, a.m(), masked));
  int first = int(blockIdx.x) % cut.blocks * cut.warps * 16;
  if constexpr (part == Part::both) {
    if (there) t.load_queries(0, false, thread, threads), t.load_keys(0, thread, threads);
    arrive();
    for (int q0 = 16 * own; there && centred && q0 < cut.q_rows; q0 += 16 * cut.warps) {
      int end = keys_seen(a, min(q0 + 16, a.nq));
      t.add_centre(q0, end);
      t.centre(q0);
      if (!a.dq.data && !(a.shares && a.mode == 1)) continue;
      float dq[D / 8][4] = {};
      t.add_query_gradients(dq, q0, end);
      t.write_queries(dq, q0);
    }
    if constexpr (masked)
      if (a.shares) t.save_shares(own);
    __syncthreads();
    if constexpr (masked)
      if (a.shares && there && thread < a.p) {
        float sum = 0;
        for (int w = 0; w < cut.warps; ++w) sum += t.shares()[w * kMostChoices + thread];
        a.shares[unit * a.p + thread] = sum;
      }
    for (int k0 = 16 * own; there && (a.dk.data || a.dv.data) && k0 < cut.k_rows; k0 += 16 * cut.warps) {
      float dk[D / 8][4] = {}, dv[D / 8][4] = {};
      t.add_key_gradients(dk, dv, k0, cut.q_rows);
      t.write_keys(dk, dv, k0);
    }
  } else if constexpr (part == Part::queries) {
    int q0 = 16 * own, last = keys_seen(a, min(first + cut.q_rows, a.nq)),
        mine = keys_seen(a, min(first + q0 + 16, a.nq));
    bool busy = there && first + q0 < a.nq;
    float dq[D / 8][4] = {};
    if (there) t.load_queries(first, false, thread, threads);
    arrive();
    auto walk = [&](auto f) {
      for (int k0 = 0; k0 < last; k0 += cut.k_rows) {
        __syncthreads();
        if (there) t.load_keys(k0, thread, threads);
        arrive();
        if (busy) f(min(mine - k0, cut.k_rows));
      }
    };
    walk([&](int end) { t.add_centre(q0, end); });
    if (busy) t.centre(q0);
    if (!a.dq.data) return;
    walk([&](int end) { t.add_query_gradients(dq, q0, end); });
    if (busy) t.write_queries(dq, q0);
  } else {
    int k0 = 16 * own;
    bool busy = there && first + k0 < a.nk;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    if (there) t.load_keys(first, thread, threads);
    for (int q0 = first_query(a, first) / 16 * 16; q0 < a.nq; q0 += cut.q_rows) {
      __syncthreads();
      if (there) t.load_queries(q0, a.dk.data != nullptr, thread, threads);
      arrive();
      if (busy) t.add_key_gradients(dk, dv, k0, min(cut.q_rows, a.nq - q0));
    }
    if (busy) t.write_keys(dk, dv, k0);
  }
}

}  // namespace mt::cuda
