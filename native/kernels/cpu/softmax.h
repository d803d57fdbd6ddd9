// Softmax of rows, and of columns as keys pass by, for one instruction set; included like vec.h.
//
// A softmax is kept as the maximum of its scores and the sum of exponentials relative to that,
//   run_max = max_k s_k      run_sum = Σ_k exp(s_k − run_max)      lse = run_max + ln run_sum
// With a further block of keys both go on (online softmax, Milakov & Gimelshein 2018): the sum, and whatever was summed
// up with it, is first multiplied by exp(run_max before − run_max now). Where nothing is visible, run_max is −∞ and
// run_sum 1, so that lse is −∞.
#include "kernels/cpu/mask.h"

inline void clear(float* row, int64_t width) {
  for (int64_t k = 0; k < width; k += kLanes) store(row + k, splat(0.0f));
}

/// −∞, or NaN where a visible score is one: max() returns its second operand beside a NaN.
inline float max_of_none(const float* row, const float* bias, int64_t width) {
  for (int64_t k = 0; k < width; ++k)
    if (bias[k] != kNone && row[k] != row[k]) return row[k];
  return kNone;
}

/// row [width] = row·scale + bias; its maximum, −∞ where nothing is visible.
inline float biased_max(float* row, float scale, const float* bias, int64_t width) {
  vec m = splat(kNone);
  for (int64_t k = 0; k < width; k += kLanes) {
    vec s = fma(load(row + k), splat(scale), load(bias + k));
    store(row + k, s);
    m = max(m, s);
  }
  const float run_max = max(m);
  return run_max == kNone ? max_of_none(row, bias, width) : run_max;
}

/// row [width] = exp(row − run_max); the sum.
inline float exp_sum(float* row, float run_max, int64_t width) {
  vec z = splat(0.0f);
  for (int64_t k = 0; k < width; k += kLanes) {
    vec e = exp(load(row + k) - splat(run_max));
    store(row + k, e);
    z = z + e;
  }
  return sum(z);
}

/// Scores [width] to exponentials in place; the factor that makes them probabilities, 0 where nothing is visible.
inline float softmax_row(float* row, float scale, const float* bias, int64_t width, float* run_max, float* run_sum) {
  float m = *run_max = biased_max(row, scale, bias, width);
  if (m == kNone) {
    clear(row, width);
    *run_sum = 1;
    return 0;
  }
  float z = *run_sum = exp_sum(row, m, width);
  return 1 / z;
}

/// Scores to probabilities in place, [rows, ld] with room for whole vectors. `bias` [ld] is that of every row.
inline void softmax_rows(float* row, int64_t ld, int64_t rows, const float* bias, int64_t keys) {
  const int64_t width = round_up(keys);
  for (float* end = row + rows * ld; row != end; row += ld) {
    for (int64_t k = keys; k < width; ++k) row[k] = 0;
    float run_max, run_sum;
    const vec factor = splat(softmax_row(row, 1, bias, width, &run_max, &run_sum));
    for (int64_t k = 0; k < width; k += kLanes) store(row + k, load(row + k) * factor);
  }
}

/// sums [n] becomes the log-sum-exp: taken for a strip of rows at once.
inline void finish_lse(float* sums, const float* maxima, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(sums + i, load(maxima + i) + log(load(sums + i)));
  for (; i < n; ++i) sums[i] = maxima[i] + std::log(sums[i]);
}

/// Online, queries across the lanes: one vector of them against a block of n keys, scores [n, ld], of which this is a
/// column of vectors. Scores become exponentials relative to the greatest score so far. Returns the factor of the
/// earlier sums.
inline vec softmax_down(float* scores, int64_t ld, const float* bias, int64_t n, float* run_max, float* run_sum) {
  const vec before = load(run_max);
  vec top[4] = {before, before, before, before};
  const auto score = [&](int64_t r) { return load(scores + r * ld) + splat(bias[r]); };
  int64_t r = 0;
  for (; r + 4 <= n; r += 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) top[i] = max(top[i], score(r + i));
  for (; r < n; ++r) top[0] = max(top[0], score(r));
  const vec now = max(max(top[0], top[1]), max(top[2], top[3])), base = select(now > splat(kNone), now, splat(0.0f));
  vec z[2] = {splat(0.0f), splat(0.0f)};
  for (r = 0; r < n; ++r) {
    vec e = exp(score(r) - base);
    store(scores + r * ld, e);
    z[r % 2] = z[r % 2] + e;
  }
  const vec factor = exp(before - base);
  store(run_max, now);
  store(run_sum, fma(load(run_sum), factor, z[0] + z[1]));
  return factor;
}

/// The end of it, for n queries: lse [n], which may be where the sums are, and 1/run_sum into `factor` [n].
inline void finish_down(const float* run_max, const float* run_sum, int64_t n, float* lse, float* factor) {
  for (int64_t j = 0; j < n; j += kLanes) {
    vec z = select(load(run_sum + j) > splat(0.0f), load(run_sum + j), splat(1.0f));
    store(lse + j, load(run_max + j) + log(z));
    store(factor + j, splat(1.0f) / z);
  }
}

// ---- a mixture of softmaxes, one for each mask ----

/// max of the row's scores in mask j.
inline float mask_max(const float* row, const int32_t* bits, int j, int64_t width) {
  vec m = splat(kNone);
  for (int64_t k = 0; k < width; k += kLanes)
    m = max(m, select(in_mask(load(bits + k), j), load(row + k), splat(kNone)));
  return max(m);
}

/// Σ over mask j of exp(s − its maximum).
inline float mask_exp_sum(const float* row, const int32_t* bits, int j, float its_max, int64_t width) {
  vec z = splat(0.0f);
  for (int64_t k = 0; k < width; k += kLanes)
    z = z + select(in_mask(load(bits + k), j), exp(load(row + k) - splat(its_max)), splat(0.0f));
  return sum(z);
}

/// Scores [width] to Σ_j α_j P_j in place; maxima and sums [P] of each mask's softmax, −∞ where the mask is empty. All
/// masks share one exponential, relative to the row's maximum, but for those that lie far under it. `e` [width]: room.
template <int P>
void mixture_row(float* row, const float* bias, const int32_t* bits, const float* alpha, float scale, int64_t width,
                 float* maxima, float* sums, float* e) {
  const float row_max = biased_max(row, scale, bias, width);
  for (int j = 0; j < P; ++j) sums[j] = 1, maxima[j] = kNone;
  if (row_max == kNone) return clear(row, width);
  if (row_max != row_max) {  // NaN in, NaN out
    for (int64_t k = 0; k < width; k += kLanes) store(row + k, splat(row_max));
    for (int j = 0; j < P; ++j) maxima[j] = row_max;
    return;
  }
  vec z[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    vec x = exp(load(row + k) - splat(row_max));
    ivec b = load(bits + k);
    store(e + k, x);
    for (int j = 0; j < P; ++j) z[j] = z[j] + select(in_mask(b, j), x, splat(0.0f));
  }
  float shared[P], own[P], own_max[P], lent = 0;  // α_j / sum_j, by which of the two maxima sum_j is measured
  bool any_own = false;
  for (int j = 0; j < P; ++j) {
    const float shared_sum = sum(z[j]);
    shared[j] = own[j] = own_max[j] = 0;
    if (shared_sum >= kFarSum) {
      maxima[j] = row_max;
      sums[j] = shared_sum;
      shared[j] = 1 / shared_sum;
      continue;
    }
    const float mine = mask_max(row, bits, j, width);
    if (mine == kNone) {
      lent += alpha[j];
      continue;
    }
    maxima[j] = own_max[j] = mine;
    sums[j] = mask_exp_sum(row, bits, j, mine, width);
    own[j] = 1 / sums[j];
    any_own = true;
  }
  for (int j = 0; j < P; ++j) {
    const float weight = weight_with_lent(j, alpha[j], lent);
    shared[j] *= weight;
    own[j] *= weight;
  }
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec x = load(e + k) * mask_weight<P>(b, shared);
    if (any_own)
      for (int j = 0; j < P; ++j)
        if (own[j] != 0)
          x = x + select(in_mask(b, j), exp(load(row + k) - splat(own_max[j])), splat(0.0f)) * splat(own[j]);
    store(row + k, x);
  }
}
