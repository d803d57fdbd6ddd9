// Forward attention on tensor cores. A warp has 16 queries; keys and values lie in shared memory, all of them or a
// segment at a time. Without masks, and with routing score, one pass forms an online softmax. In a mixture a first pass
// over the keys finds the sum of every mask, and a second one forms Σ α_j P_j with one exponential a pair.
#pragma once
#include "kernels/cuda/attention_mma.h"

namespace mt::cuda {

template <int D, bool masked, bool biased>
struct ForwardTile {
  /// Groups of 16 keys whose scores a warp holds at a time: 32 registers a thread, or 16 beside the sums of every mask.
  static constexpr int kSixteens = masked ? 2 : 4;
  using Scores = float[2 * kSixteens][4];             // (16 queries, 16·kSixteens keys)
  using Sets = unsigned[masked ? 2 * kSixteens : 1];  // likewise, a byte each

  const Attention<bf16>& a;
  UnitIndex at;
  Lane l;
  int q0;
  const bf16 *keys, *values;  // (k_rows, D) in shared memory
  const float* key_bias;      // (k_rows)
  const float* alpha;
  uint32_t q[D / 16][4] = {};                              // (16 queries, D)
  float sum[D / 8][4] = {};                                // (16 queries, D): exponentials times values; in the end P v
  float run_max[2] = {kNone, kNone}, run_sum[2] = {0, 0};  // of rows l.row and l.row + 8

  __device__ void load_queries() {
    const bf16* rows = at(a.q);
#pragma unroll
    for (int c = 0; c < D / 16; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int r = q0 + l.row + i % 2 * 8, column = 16 * c + l.column + i / 2 * 8;
        q[c][i] = r < a.nq && column < a.d ? *reinterpret_cast<const uint32_t*>(rows + r * a.q.row + column) : 0u;
      }
  }
  /// Logits of keys c0.. of the segment that begins at key k0, −∞ where a query does not see the key; and the sets of
  /// masks that keep each pair.
  __device__ void logits(Scores& s, Sets& sets, int k0, int c0, int end) {
    int count = (end - c0 + 15) / 16;
#pragma unroll
    for (int n = 0; n < 2 * kSixteens; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = 0;
#pragma unroll
    for (int i = 0; i < kSixteens; ++i) {
      if (i >= count) break;
#pragma unroll
      for (int c = 0; c < D / 16; ++c) {
        uint32_t b[4];
        ldmatrix_x4(b, keys + (c0 + 16 * i + l.index / 16 * 8 + l.index % 8) * kRow<D> + 16 * c + l.index / 8 % 2 * 8);
        mma_m16n8k16(s[2 * i], q[c], {b[0], b[1]});
        mma_m16n8k16(s[2 * i + 1], q[c], {b[2], b[3]});
      }
    }
#pragma unroll
    for (int n = 0; n < 2 * kSixteens; ++n) {
      bool there = n / 2 < count;
      int first = c0 + 8 * n + l.column;
      float bias[2] = {there ? key_bias[first] : kNone, there ? key_bias[first + 1] : kNone};
      const auto query = [&](int e) { return q0 + l.row + e / 2 * 8; };
      const auto key = [&](int e) { return k0 + first + e % 2; };
      if constexpr (masked) sets[n] = there ? mask_sets(a, query, key) : 0u;
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] *= a.scale;
      if constexpr (masked)
        if (a.routing == Routing::score) weigh(a, alpha, sets[n], s[n]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float x = s[n][e] + bias[e % 2];
        if constexpr (biased) x += distance_bias(a, at.head, query(e), key(e));
        s[n][e] = a.causal && key(e) > query(e) + a.nk - a.nq ? kNone : x;
      }
    }
  }
  /// Updates the rows' maxima by these logits; `shrink`: by what earlier exponentials are multiplied.
  __device__ void raise_maxima(const Scores& s, float (&shrink)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float m = kNone;
#pragma unroll
      for (int n = 0; n < 2 * kSixteens; ++n) m = fmaxf(m, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      shrink[half] = raise(run_max[half], m);
    }
  }
  /// sum (16, D) += s (16, keys) · values (keys, D), from key c0 of the segment.
  __device__ void add_values(const Scores& s, int c0, int end) {
#pragma unroll
    for (int i = 0; i < kSixteens; ++i) {
      if (c0 + 16 * i >= end) break;
      uint32_t p[4];
      as_factor(p, s[2 * i], s[2 * i + 1]);
      add_product<D>(sum, p, values + (c0 + 16 * i) * kRow<D>, l);
    }
  }

  /// Online softmax: the first `end` keys of one segment.
  __device__ void pass(int k0, int end) {
#pragma unroll 1
    for (int c0 = 0; c0 < end; c0 += 16 * kSixteens) {
      Scores s;
      Sets sets;
      float shrink[2];
      logits(s, sets, k0, c0, end);
      raise_maxima(s, shrink);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float z = 0;
#pragma unroll
        for (int n = 0; n < 2 * kSixteens; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) z += s[n][e] = exp_below(s[n][e], run_max[half]);
        run_sum[half] = run_sum[half] * shrink[half] + z;
      }
#pragma unroll
      for (int c = 0; c < D / 8; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[c][e] *= shrink[e / 2];
      add_values(s, c0, end);
    }
  }
  /// Writes the result and lse; `piece`: of the keys, where they are split.
  __device__ void write(int piece) {
    const int64_t row = (piece * a.units + at.unit) * a.nq;
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float z = quad_sum(run_sum[half]);
      factor[half] = z > 0 ? 1 / z : 0.0f;
      int r = q0 + l.row + 8 * half;
      if (l.column == 0 && r < a.nq) a.lse[row + r] = log_sum_exp(run_max[half], z);
    }
    if (!a.parts) return store_rows<D>(sum, at(a.out), a.out.row, q0, a.nq, a.d, factor[0], factor[1], l);
#pragma unroll
    for (int c = 0; c < D / 8; ++c)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int r = q0 + l.row + 8 * half, column = 8 * c + l.column;
        if (r < a.nq && column < a.d)
          *reinterpret_cast<float2*>(a.parts + (row + r) * a.d + column) = {sum[c][2 * half] * factor[half],
                                                                            sum[c][2 * half + 1] * factor[half]};
      }
  }

  /// The result of a mixture; all keys are in shared memory.
  __device__ void mix(int end) {
    float z[2][kMostChoices] = {};  // sums of exponentials, then α_j over them
    unsigned kept[2] = {};
#pragma unroll 1
    for (int c0 = 0; c0 < end; c0 += 16 * kSixteens) {
      Scores s;
      Sets sets;
      float shrink[2];
      logits(s, sets, 0, c0, end);
      raise_maxima(s, shrink);
#pragma unroll
      for (int n = 0; n < 2 * kSixteens; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (s[n][e] != kNone) kept[e / 2] |= sets[masked ? n : 0] >> (8 * e) & 255;
          s[n][e] = exp_below(s[n][e], run_max[e / 2]);
        }
#pragma unroll
      for (int j = 0; j < kMostChoices; ++j) {
        if (j >= a.p) break;
        z[0][j] *= shrink[0];
        z[1][j] *= shrink[1];
#pragma unroll
        for (int n = 0; n < 2 * kSixteens; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) z[e / 2][j] += keeps(sets[masked ? n : 0], e, j) ? s[n][e] : 0.0f;
      }
    }
    bool far = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      kept[half] |= __shfl_xor_sync(~0u, kept[half], 1);
      kept[half] |= __shfl_xor_sync(~0u, kept[half], 2);
#pragma unroll
      for (int j = 0; j < kMostChoices; ++j) {
        if (j >= a.p) break;
        z[half][j] = quad_sum(z[half][j]);
        bool empty = !(kept[half] >> j & 1);
        save(half, j, empty ? kNone : run_max[half] + logf(z[half][j]));
        far |= !empty && !(z[half][j] > kFarSum);
      }
    }
    far = __any_sync(~0u, far);
    if (far) own_sums(end);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float lent = 0, one = far ? 1.0f : z[half][0];  // an empty mask lends its α to M_0
#pragma unroll
      for (int j = 0; j < kMostChoices; ++j) {
        if (j >= a.p) break;
        float weight = alpha[j * a.alpha_j];
        bool empty = !(kept[half] >> j & 1);
        if (empty) lent += weight;
        z[half][j] = empty ? 0.0f : far ? weight : weight / z[half][j];
      }
      if (kept[half] & 1) z[half][0] += lent / one;
    }
#pragma unroll 1
    for (int c0 = 0; c0 < end; c0 += 16 * kSixteens) {
      Scores s;
      Sets sets;
      logits(s, sets, 0, c0, end);
#pragma unroll
      for (int n = 0; n < 2 * kSixteens; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float w = 0, x = s[n][e];
#pragma unroll
          for (int j = 0; j < kMostChoices; ++j) {
            if (j >= a.p) break;
            if (keeps(sets[masked ? n : 0], e, j) && x != kNone)
              w += z[e / 2][j] * (far ? __expf(x - *lse(e / 2, j)) : 1.0f);
          }
          s[n][e] = far ? w : w * exp_below(x, run_max[e / 2]);
        }
      add_values(s, c0, end);
    }
    store_rows<D>(sum, at(a.out), a.out.row, q0, a.nq, a.d, 1, 1, l);
  }
  __device__ float* lse(int half, int j) const { return a.lse + (at.unit * a.nq + q0 + l.row + 8 * half) * a.p + j; }
  __device__ void save(int half, int j, float value) const {
    if (l.column == 0 && q0 + l.row + 8 * half < a.nq) *lse(half, j) = value;
  }
  /// Saves the log-sum-exp of each mask, relative to a maximum of its own.
  __device__ void own_sums(int end) {
#pragma unroll 1
    for (int j = 0; j < a.p; ++j) {
      float run_max[2] = {kNone, kNone}, z[2] = {};
#pragma unroll 1
      for (int c0 = 0; c0 < end; c0 += 16 * kSixteens) {
        Scores s;
        Sets sets;
        logits(s, sets, 0, c0, end);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float m = kNone;
#pragma unroll
          for (int i = 0; i < 4 * kSixteens; ++i) {
            int n = i / 2, e = 2 * half + i % 2;
            if (!keeps(sets[masked ? n : 0], e, j)) s[n][e] = kNone;
            m = fmaxf(m, s[n][e]);
          }
          const float shrink = raise(run_max[half], m);
          if (run_max[half] == kNone) continue;
          z[half] *= shrink;
#pragma unroll
          for (int i = 0; i < 4 * kSixteens; ++i) z[half] += __expf(s[i / 2][2 * half + i % 2] - run_max[half]);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) { save(half, j, log_sum_exp(run_max[half], quad_sum(z[half]))); }
    }
    __syncwarp();
  }
};

/// Blocks: groups of units × blocks of queries × pieces of the keys. In a mixture one segment holds all keys.
template <int D, bool masked, bool biased>
__global__ void __launch_bounds__(32 * kMostWarps<D>, 1) mma_forward(Attention<bf16> a, Cut cut) {
  SHARED(unsigned char, shared);
  int warp = int(threadIdx.x) / 32, slot = warp / cut.warps, own = warp % cut.warps, threads = 32 * cut.warps,
      thread = int(threadIdx.x) - 32 * slot * cut.warps;
  int piece = int(blockIdx.x) % cut.splits, block = int(blockIdx.x) / cut.splits;
  int64_t unit = int64_t(block) / cut.blocks * cut.units + slot;
  bool there = unit < a.units;
  int first = block % cut.blocks * cut.warps * 16, q0 = first + own * 16;
  // Shared memory: keys and values of all stages and units, then the key biases of all stages and units.
  auto keys = [&](int stage) {
    return reinterpret_cast<bf16*>(shared) + (stage * cut.units + slot) * cut.k_rows * 2 * kRow<D>;
  };
  auto key_bias = [&](int stage) {
    return reinterpret_cast<float*>(reinterpret_cast<bf16*>(shared) +
                                    cut.stages * cut.units * cut.k_rows * 2 * kRow<D>) +
           (stage * cut.units + slot) * cut.k_rows;
  };
  UnitIndex at(a, there ? unit : 0);
  ForwardTile<D, masked, biased> tile{a, at, Lane(), q0, nullptr, nullptr, nullptr, at.alpha(a)};
  bool busy = there && q0 < a.nq;
  int from = piece * cut.span, to = min(a.nk, from + cut.span);  // keys of this block
  int last = min(to, keys_seen(a, min(first + 16 * cut.warps, a.nq))), mine = min(to, keys_seen(a, min(q0 + 16, a.nq)));
  if (busy) tile.load_queries();
  auto fetch = [&](int k0, int stage) {
    if (there) {
      load_rows<D>(keys(stage), tile.at(a.k), a.k.row, k0, to, cut.k_rows, a.d, thread, threads);
      load_rows<D>(keys(stage) + cut.k_rows * kRow<D>, tile.at(a.v), a.v.row, k0, to, cut.k_rows, a.d, thread, threads);
      load_key_bias(key_bias(stage), tile.at.key_mask(a), a.key_row, k0, to, cut.k_rows, thread, threads);
    }
    cp_async_commit();
  };
  const bool ahead = cut.stages == 2;
  if (ahead) fetch(from, 0);
  for (int k0 = from, stage = 0; k0 < max(last, from + 1); k0 += cut.k_rows) {
    const bool more = ahead && k0 + cut.k_rows < last;
    if (k0 > from) __syncthreads();  // the last segment has been read
    if (more) fetch(k0 + cut.k_rows, 1 - stage);
    if (!ahead) fetch(k0, 0);
    if (more) cp_async_wait<1>();
    else cp_async_wait<0>();
    __syncthreads();
    if (busy) {
      tile.keys = keys(stage);
      tile.values = tile.keys + cut.k_rows * kRow<D>;
      tile.key_bias = key_bias(stage);
      if (masked && a.mixes()) tile.mix(mine);
      else tile.pass(k0, min(mine - k0, cut.k_rows));
    }
    if (ahead) stage = 1 - stage;
  }
  if (busy && !(masked && a.mixes())) tile.write(piece);
}

}  // namespace mt::cuda
