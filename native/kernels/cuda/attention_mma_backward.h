// Backward attention on tensor cores. A warp with 16 queries forms their D and dq, a warp with 16 keys their dk and dv:
// no sum crosses warps. A block that holds all rows of its units does both, one after the other, and reads the rows
// once (mma_backward_unit). Longer sequences take two kernels, which walk over segments of the other side
// (mma_backward_queries, mma_backward_keys).
#pragma once
#include "kernels/cuda/attention_mma.h"

namespace mt::cuda {

template <int D, bool masked, bool biased>
struct BackwardTile {
  using Pairs = float[2][4];  // 16×16: queries × keys where a warp has queries, keys × queries where it has keys
  using Sets = unsigned[2];

  const Attention<bf16>& a;
  const Cut& cut;
  UnitIndex at;
  Lane l;
  unsigned char* memory;  // the unit's shared memory, see BackwardLayout
  const float* alpha;
  int q_first = 0, k_first = 0;    // the query and the key in the first rows of shared memory
  float share[kMostChoices] = {};  // this thread's terms of dα

  __device__ BackwardTile(const Attention<bf16>& a, const Cut& cut, int64_t unit, unsigned char* memory)
      : a(a), cut(cut), at(a, unit), memory(memory), alpha(at.alpha(a)) {}
  /// Computed at each use: as an argument of the kernel it took 8 more registers in mma_backward_unit<64, false>.
  __device__ BackwardLayout layout() const { return backward_layout(D, cut, a.m(), masked); }
  __device__ bf16* rows(size_t offset) const { return reinterpret_cast<bf16*>(memory + offset); }
  __device__ float* numbers(size_t offset) const { return reinterpret_cast<float*>(memory + offset); }
  /// Of query i, and softmax j.
  __device__ float& max_lse(int i) const { return numbers(layout().max_lse)[i]; }
  __device__ float& mean(int i, int j = 0) const { return numbers(layout().mean)[j * cut.q_rows + i]; }
  __device__ float& coef(int i, int j) const { return numbers(layout().coef)[j * cut.q_rows + i]; }

  // ---- rows into shared memory, by all threads of the unit ----

  __device__ void load_keys(int k0, int thread, int threads) {
    k_first = k0;
    load_rows<D>(rows(layout().k), at(a.k), a.k.row, k0, a.nk, cut.k_rows, a.d, thread, threads);
    load_rows<D>(rows(layout().v), at(a.v), a.v.row, k0, a.nk, cut.k_rows, a.d, thread, threads);
    load_key_bias(numbers(layout().key_bias), at.key_mask(a), a.key_row, k0, a.nk, cut.k_rows, thread, threads);
  }
  /// Loads the queries' rows, and what probabilities are formed with: P = exp(x − max_lse) for a logit x, in a mixture
  /// times Σ coef_j over the masks that keep the pair. max_lse is +∞ where the query sees no key. It is −∞ where a mask
  /// lies kFar under the others; coef_j is α_j alone then.
  __device__ void load_queries(int q0, bool centred, int thread, int threads) {
    q_first = q0;
    load_rows<D>(rows(layout().q), at(a.q), a.q.row, q0, a.nq, cut.q_rows, a.d, thread, threads);
    load_rows<D>(rows(layout().dout), at(a.dout), a.dout.row, q0, a.nq, cut.q_rows, a.d, thread, threads);
    for (int i = thread; i < cut.q_rows; i += threads) {
      float top = kNone, lent = 0;
      bool there = q0 + i < a.nq, far = false;
      for (int j = 0; j < a.m() && there; ++j) top = fmaxf(top, lse(i, j));
      for (int j = 0; j < a.m(); ++j) mean(i, j) = centred && there ? a.centre[row(i) * a.m() + j].x : 0.0f;
      max_lse(i) = nothing_visible(top) ? INFINITY : top;
      if constexpr (masked) {
        if (!a.mixes()) continue;
        for (int j = 0; j < a.p && there; ++j) {
          if (nothing_visible(lse(i, j))) lent += alpha[j * a.alpha_j];
          else far |= top - lse(i, j) > kFar;
        }
        for (int j = 0; j < a.p; ++j) {
          bool none = !there || nothing_visible(lse(i, j));
          float weight = weight_with_lent(j, alpha[j * a.alpha_j], lent);
          coef(i, j) = none ? 0.0f : far ? weight : weight * __expf(top - lse(i, j));
        }
        if (far) max_lse(i) = kNone;
      }
    }
  }
  __device__ int64_t row(int i) const { return at.unit * a.nq + q_first + i; }
  __device__ float lse(int i, int j) const { return a.lse[row(i) * a.m() + j]; }
  /// Whether a mask of one of the warp's 16 queries from row q0 on lies kFar under the others.
  __device__ bool any_far(int q0) const {
    return masked && __any_sync(~0u, max_lse(q0 + l.row) == kNone || max_lse(q0 + l.row + 8) == kNone);
  }

  // ---- pairs ----

  /// Rows in shared memory of the query and the key of element e of half n. by_query: the warp has queries.
  template <bool by_query>
  __device__ int query(int q0, int n, int e) const {
    return q0 + (by_query ? l.row + e / 2 * 8 : 8 * n + l.column + e % 2);
  }
  template <bool by_query>
  __device__ int key(int k0, int n, int e) const {
    return k0 + (by_query ? 8 * n + l.column + e % 2 : l.row + e / 2 * 8);
  }

  /// From s = q·k: s becomes the score, x the logit, −∞ where the query does not see the key, and sets the masks that
  /// keep each pair.
  template <bool by_query>
  __device__ void logits(Pairs& s, Pairs& x, Sets& sets, int q0, int k0) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const auto query_at = [&](int e) { return q_first + query<by_query>(q0, n, e); };
      const auto key_at = [&](int e) { return k_first + key<by_query>(k0, n, e); };
      if constexpr (masked) sets[n] = mask_sets(a, query_at, key_at);
#pragma unroll
      for (int e = 0; e < 4; ++e) x[n][e] = s[n][e] *= a.scale;
      if constexpr (masked)
        if (a.routing == Routing::score) weigh(a, alpha, sets[n], x[n]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float y = x[n][e] + numbers(layout().key_bias)[key<by_query>(k0, n, e)];
        if constexpr (biased) y += distance_bias(a, at.head, query_at(e), key_at(e));
        x[n][e] = a.causal && key_at(e) > query_at(e) + a.nk - a.nq ? kNone : y;
      }
    }
  }
  /// From logits x and g = dP: x becomes P, g becomes dS. `with_shares`: adds to the shares of dα. The scores are a
  /// reference beside a flag: a pointer that may be null would put them into local memory.
  template <bool by_query>
  __device__ void form_dS(Pairs& x, Pairs& g, const Sets& sets, int q0, const Pairs& scores, bool with_shares) {
    if constexpr (masked)
      if (a.mixes()) return form_mixed_dS<by_query>(x, g, sets, q0);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int i = query<by_query>(q0, n, e);
        x[n][e] = __expf(x[n][e] - max_lse(i));
        g[n][e] = x[n][e] * (g[n][e] - mean(i));
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
  template <bool by_query>
  __device__ void form_mixed_dS(Pairs& x, Pairs& g, const Sets& sets, int q0) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float c[4] = {}, cD[4] = {};  // Σ coef_j and Σ coef_j D_j
#pragma unroll 1
      for (int j = 0; j < a.p; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int i = query<by_query>(q0, n, e);
          float w = keeps(sets[n], e, j) ? coef(i, j) : 0.0f;
          c[e] += w;
          cD[e] = fmaf(w, mean(i, j), cD[e]);
        }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int i = query<by_query>(q0, n, e);
        float top = max_lse(i), y = x[n][e], p = exp_below(y, top);
        if (top == kNone && y != kNone) {
          p = 1;
          c[e] = cD[e] = 0;
#pragma unroll 1
          for (int j = 0; j < a.p; ++j) {
            if (!keeps(sets[n], e, j)) continue;
            float own = coef(i, j) * __expf(y - lse(i, j));
            c[e] += own;
            cD[e] += own * mean(i, j);
          }
        }
        x[n][e] = p * c[e];
        g[n][e] = p * (c[e] * g[n][e] - cD[e]);
      }
    }
  }

  // ---- 16 queries, from row q0 ----

  /// s = q kᵀ and g = dP = dout vᵀ, (16 queries, 16 keys).
  __device__ void query_products(Pairs& s, Pairs& g, int q0, int k0) {
    row_products<D>(s, rows(layout().q) + q0 * kRow<D>, rows(layout().k) + k0 * kRow<D>, l);
    row_products<D>(g, rows(layout().dout) + q0 * kRow<D>, rows(layout().v) + k0 * kRow<D>, l);
  }
  /// Adds Σ P_j dP over the keys before `end` to mean; in a mixture without a factor, which finish_centre() applies.
  __device__ void add_centre(int q0, int end) {
    bool far = any_far(q0);
#pragma unroll 1
    for (int k0 = 0; k0 < end; k0 += 16) {
      Pairs s = {}, g = {}, x;
      Sets sets;
      query_products(s, g, q0, k0);
      logits<true>(s, x, sets, q0, k0);
#pragma unroll 1
      for (int j = 0; j < (masked ? a.m() : 1); ++j) {
        float sum[2] = {};
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (x[n][e] == kNone || (masked && a.mixes() && !keeps(sets[n], e, j))) continue;
            int i = q0 + l.row + e / 2 * 8;
            sum[e / 2] = fmaf(__expf(x[n][e] - (far ? lse(i, j) : max_lse(i))), g[n][e], sum[e / 2]);
          }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float total = quad_sum(sum[half]);
          if (l.column == 0) mean(q0 + l.row + 8 * half, j) += total;
        }
      }
    }
    __syncwarp();
  }
  /// Finishes D and saves it for later kernels; in a mixture also adds the queries' terms of dα.
  __device__ void finish_centre(int q0) {
    bool far = any_far(q0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int i = q0 + l.row + 8 * half;
      if (l.column || q_first + i >= a.nq) continue;
      if (a.centre)
        for (int j = 0; j < a.m(); ++j) a.centre[row(i) * a.m() + j] = make_float2(mean(i, j), 0.0f);
      if constexpr (masked) {
        if (!a.mixes()) continue;
#pragma unroll
        for (int j = 0; j < kMostChoices; ++j) {
          if (j >= a.p) break;
          float& D_j = mean(i, j);
          bool none = nothing_visible(lse(i, j));
          if (!none && !far) D_j *= __expf(max_lse(i) - lse(i, j));
          share[j] += none ? mean(i, 0) : D_j;
        }
      }
    }
    __syncwarp();
  }
  /// dq (16 queries, D) += dS (16, keys) · k (keys, D), over the keys before `end`.
  __device__ void add_query_gradients(float (&dq)[D / 8][4], int q0, int end) {
#pragma unroll 1
    for (int k0 = 0; k0 < end; k0 += 16) {
      Pairs s = {}, g = {}, x;
      Sets sets;
      uint32_t dS[4];
      query_products(s, g, q0, k0);
      logits<true>(s, x, sets, q0, k0);
      form_dS<true>(x, g, sets, q0, s, a.shares);
      as_factor(dS, g[0], g[1]);
      add_product<D>(dq, dS, rows(layout().k) + k0 * kRow<D>, l);
    }
  }
  __device__ void write_queries(const float (&dq)[D / 8][4], int q0) {
    if (a.dq.data) store_rows<D>(dq, at(a.dq), a.dq.row, q_first + q0, a.nq, a.d, a.scale, a.scale, l);
  }

  /// Stores the warp's sums of dα in shared memory.
  __device__ void save_shares(int warp) {
#pragma unroll
    for (int j = 0; j < kMostChoices; ++j) {
      float sum = warp_sum(share[j]);
      if (l.index == 0) numbers(layout().shares)[warp * kMostChoices + j] = sum;
    }
  }
  /// Adds up the warps' sums of dα and writes them; called by the unit's first p threads.
  __device__ void write_shares(int thread) {
    float sum = 0;
    for (int w = 0; w < cut.warps; ++w) sum += numbers(layout().shares)[w * kMostChoices + thread];
    a.shares[at.unit * a.p + thread] = sum;
  }

  // ---- 16 keys, from row k0 ----

  /// dv (16 keys, D) += Pᵀ (16, queries) · dout (queries, D) and dk += dSᵀ · q, over the first `n` queries' rows.
  __device__ void add_key_gradients(float (&dk)[D / 8][4], float (&dv)[D / 8][4], int k0, int n) {
    int from = max(0, first_query(a, k_first + k0) - q_first) / 16 * 16;
#pragma unroll 1
    for (int q0 = from; q0 < n; q0 += 16) {
      Pairs s = {}, g = {}, x;  // (16 keys, 16 queries)
      Sets sets;
      uint32_t factor[4];
      row_products<D>(s, rows(layout().k) + k0 * kRow<D>, rows(layout().q) + q0 * kRow<D>, l);
      if (a.dk.data) row_products<D>(g, rows(layout().v) + k0 * kRow<D>, rows(layout().dout) + q0 * kRow<D>, l);
      logits<false>(s, x, sets, q0, k0);
      form_dS<false>(x, g, sets, q0, s, false);
      as_factor(factor, x[0], x[1]);
      add_product<D>(dv, factor, rows(layout().dout) + q0 * kRow<D>, l);
      if (!a.dk.data) continue;
      as_factor(factor, g[0], g[1]);
      add_product<D>(dk, factor, rows(layout().q) + q0 * kRow<D>, l);
    }
  }
  __device__ void write_keys(const float (&dk)[D / 8][4], const float (&dv)[D / 8][4], int k0) {
    if (a.dk.data) store_rows<D>(dk, at(a.dk), a.dk.row, k_first + k0, a.nk, a.d, a.scale, a.scale, l);
    if (a.dv.data) store_rows<D>(dv, at(a.dv), a.dv.row, k_first + k0, a.nk, a.d, 1, 1, l);
  }
};

__device__ inline void wait_for_rows() {
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
}

/// All gradients, and the shares of dα, of units whose rows all fit into a block. Blocks: groups of units.
template <int D, bool masked, bool biased>
__global__ void __launch_bounds__(32 * kMostWarps<D>, 1) mma_backward_unit(Attention<bf16> a, Cut cut) {
  SHARED(unsigned char, shared);
  int warp = int(threadIdx.x) / 32, slot = warp / cut.warps, own = warp % cut.warps, threads = 32 * cut.warps,
      thread = int(threadIdx.x) - 32 * slot * cut.warps;
  int64_t unit = int64_t(blockIdx.x) * cut.units + slot;
  bool there = unit < a.units, centred = a.dq.data || a.dk.data || a.shares;
  BackwardTile<D, masked, biased> t(a, cut, there ? unit : 0,
                                    shared + slot * backward_layout(D, cut, a.m(), masked).bytes);
  if (there) t.load_queries(0, false, thread, threads), t.load_keys(0, thread, threads);
  wait_for_rows();
  for (int q0 = 16 * own; there && centred && q0 < cut.q_rows; q0 += 16 * cut.warps) {
    int end = keys_seen(a, min(q0 + 16, a.nq));
    t.add_centre(q0, end);
    t.finish_centre(q0);
    if (!a.dq.data && !(a.shares && a.routing == Routing::score)) continue;
    float dq[D / 8][4] = {};
    t.add_query_gradients(dq, q0, end);
    t.write_queries(dq, q0);
  }
  if constexpr (masked)
    if (a.shares) t.save_shares(own);
  __syncthreads();
  if constexpr (masked)
    if (a.shares && there && thread < a.p) t.write_shares(thread);
  for (int k0 = 16 * own; there && (a.dk.data || a.dv.data) && k0 < cut.k_rows; k0 += 16 * cut.warps) {
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    t.add_key_gradients(dk, dv, k0, cut.q_rows);
    t.write_keys(dk, dv, k0);
  }
}

/// D and dq, without masks. Blocks: units × blocks of queries.
template <int D, bool biased>
__global__ void __launch_bounds__(32 * kMostWarps<D>, 1) mma_backward_queries(Attention<bf16> a, Cut cut) {
  SHARED(unsigned char, shared);
  int thread = int(threadIdx.x), threads = 32 * cut.warps, first = int(blockIdx.x) % cut.blocks * cut.q_rows,
      q0 = thread / 32 * 16;
  BackwardTile<D, false, biased> t(a, cut, int64_t(blockIdx.x) / cut.blocks, shared);
  int last = keys_seen(a, min(first + cut.q_rows, a.nq)), mine = keys_seen(a, min(first + q0 + 16, a.nq));
  bool busy = first + q0 < a.nq;
  float dq[D / 8][4] = {};
  t.load_queries(first, false, thread, threads);
  wait_for_rows();
  auto walk = [&](auto f) {
    for (int k0 = 0; k0 < last; k0 += cut.k_rows) {
      __syncthreads();
      t.load_keys(k0, thread, threads);
      wait_for_rows();
      if (busy) f(min(mine - k0, cut.k_rows));
    }
  };
  walk([&](int end) { t.add_centre(q0, end); });
  if (busy) t.finish_centre(q0);
  if (!a.dq.data) return;
  walk([&](int end) { t.add_query_gradients(dq, q0, end); });
  if (busy) t.write_queries(dq, q0);
}

/// dk and dv, without masks, from D as mma_backward_queries left it. Blocks: units × blocks of keys.
template <int D, bool biased>
__global__ void __launch_bounds__(32 * kMostWarps<D>, 1) mma_backward_keys(Attention<bf16> a, Cut cut) {
  SHARED(unsigned char, shared);
  int thread = int(threadIdx.x), threads = 32 * cut.warps, first = int(blockIdx.x) % cut.blocks * cut.k_rows,
      k0 = thread / 32 * 16;
  BackwardTile<D, false, biased> t(a, cut, int64_t(blockIdx.x) / cut.blocks, shared);
  bool busy = first + k0 < a.nk;
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  t.load_keys(first, thread, threads);
  for (int q0 = first_query(a, first) / 16 * 16; q0 < a.nq; q0 += cut.q_rows) {
    __syncthreads();
    t.load_queries(q0, a.dk.data != nullptr, thread, threads);
    wait_for_rows();
    if (busy) t.add_key_gradients(dk, dv, k0, min(cut.q_rows, a.nq - q0));
  }
  if (busy) t.write_keys(dk, dv, k0);
}

}  // namespace mt::cuda
