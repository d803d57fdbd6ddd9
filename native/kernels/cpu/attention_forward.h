// Forward attention of one unit; included by each_isa.h. Padding, the keys that causality hides and the
// lanes behind the last key all carry a bias of −inf, so that no loop over keys needs a condition.
#include "kernels/cpu/multiply.h"

constexpr float kNone = -INFINITY;
constexpr int64_t kAcross = 64;  // queries that lie across the lanes together
constexpr int64_t kDown = 128;   // keys below each other: their scores then lie in the first cache
constexpr int64_t kReads = 12;   // tiles of rows read what they multiply: this many rows read it twice
constexpr float kTinySum =
    1e-26f;  // below it a mask's keys lie 60 under the row's maximum: it gets an exponential of its own

/// The row's bias: the unit's, cut off behind the keys that query i sees.
inline const float* row_bias(const AttentionUnit& u, int64_t i, int64_t width, float* room) {
  if (u.visible_all()) return u.bias;
  int64_t n = u.sees(i);
  for (int64_t j = 0; j < width; ++j) room[j] = j < n ? u.bias[j] : kNone;
  return room;
}

MT_INLINE ivec in_mask(ivec bits, int j) { return (bits & isplat(1 << j)) != isplat(0); }

/// Σ_j c_j M_j for a vector of pairs.
template <int P>
MT_INLINE vec weight(ivec bits, const float* c) {
  vec w = splat(0.0f);
#pragma GCC unroll 8
  for (int j = 0; j < P; ++j) w = w + select(in_mask(bits, j), splat(c[j]), splat(0.0f));
  return w;
}

inline void clear(float* row, int64_t width) {
  for (int64_t j = 0; j < width; j += kLanes) store(row + j, splat(0.0f));
}

/// −∞, or NaN where a score that counts is one: max() does not see a NaN among nothing else, and nothing is not NaN.
inline float max_of_none(const float* row, const float* bias, int64_t width) {
  for (int64_t j = 0; j < width; ++j)
    if (bias[j] != kNone && row[j] != row[j]) return row[j];
  return kNone;
}

/// max of row·scale + bias, which replaces row; −∞ where there is nothing.
inline float biased_max(float* row, float scale, const float* bias, int64_t width) {
  vec m = splat(kNone);
  for (int64_t j = 0; j < width; j += kLanes) {
    vec s = fma(load(row + j), splat(scale), load(bias + j));
    store(row + j, s);
    m = max(m, s);
  }
  const float most = max(m);
  return most == kNone ? max_of_none(row, bias, width) : most;
}

/// row = exp(row − m); the sum.
inline float exp_sum(float* row, float m, int64_t width) {
  vec z = splat(0.0f);
  for (int64_t j = 0; j < width; j += kLanes) {
    vec e = exp(load(row + j) - splat(m));
    store(row + j, e);
    z = z + e;
  }
  return sum(z);
}

// What a softmax ran over is kept as its maximum and the sum of exponentials relative to that, `sums` where lse will
// be: lse = most + ln sums, taken for a strip of rows at once. Where there was nothing, the maximum is −∞.

inline void finish_lse(float* sums, const float* most, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(sums + i, load(most + i) + log(load(sums + i)));
  for (; i < n; ++i) sums[i] = most[i] + std::log(sums[i]);
}

/// Scores to exponentials in place; the factor that makes them probabilities.
inline float softmax_row(float* row, float scale, const float* bias, int64_t width, float* sums, float* most) {
  float m = *most = biased_max(row, scale, bias, width);
  if (m == kNone) {
    clear(row, width);
    *sums = 1;
    return 0;
  }
  float z = *sums = exp_sum(row, m, width);
  return 1 / z;
}

/// Scores to probabilities in place, of rows `ld` apart that have room for whole vectors. `bias` is that of one row.
inline void softmax_rows(float* row, int64_t ld, int64_t rows, const float* bias, int64_t keys) {
  const int64_t width = (keys + kLanes - 1) / kLanes * kLanes;
  for (float* end = row + rows * ld; row != end; row += ld) {
    for (int64_t j = keys; j < width; ++j) row[j] = 0;
    float sums, most;
    const vec factor = splat(softmax_row(row, 1, bias, width, &sums, &most));
    for (int64_t j = 0; j < width; j += kLanes) store(row + j, load(row + j) * factor);
  }
}

/// row = row ∘ Σ α_j M_j.
template <int P>
void weigh_row(float* row, const int32_t* bits, const float* alpha, int64_t width) {
  for (int64_t j = 0; j < width; j += kLanes) store(row + j, load(row + j) * weight<P>(load(bits + j), alpha));
}

/// max of the row's scores in mask j.
inline float mask_max(const float* row, const int32_t* bits, int j, int64_t width) {
  vec m = splat(kNone);
  for (int64_t k = 0; k < width; k += kLanes)
    m = max(m, select(in_mask(load(bits + k), j), load(row + k), splat(kNone)));
  return max(m);
}

/// Mode attention: scores to Σ_j α_j P_j in place. most[j] is −inf where mask j keeps no key that the row sees.
template <int P>
void mixed_row(float* row, const float* bias, const int32_t* bits, const AttentionUnit& u, int64_t width, float* sums,
               float* most, float* e) {
  float m = biased_max(row, u.scale, bias, width);
  for (int j = 0; j < P; ++j) sums[j] = 1, most[j] = kNone;
  if (m == kNone) return clear(row, width);
  if (m != m) {
    for (int64_t k = 0; k < width; k += kLanes) store(row + k, splat(m));
    for (int j = 0; j < P; ++j) most[j] = m;
    return;
  }
  vec z[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    vec x = exp(load(row + k) - splat(m));
    ivec b = load(bits + k);
    store(e + k, x);
    for (int j = 0; j < P; ++j) z[j] = z[j] + select(in_mask(b, j), x, splat(0.0f));
  }
  float shared[P], own[P], own_max[P], homeless = 0;  // α_j / Z_j, by which maximum Z_j is measured
  bool any_own = false;
  for (int j = 0; j < P; ++j) {
    float sum_j = sum(z[j]);
    shared[j] = own[j] = own_max[j] = 0;
    if (sum_j >= kTinySum) {
      sums[j] = sum_j;
      most[j] = m;
      shared[j] = 1 / sum_j;
      continue;
    }
    float mine = mask_max(row, bits, j, width);
    if (mine == kNone) {
      homeless += u.alpha[j];
      continue;
    }
    vec total = splat(0.0f);
    for (int64_t k = 0; k < width; k += kLanes)
      total = total + select(in_mask(load(bits + k), j), exp(load(row + k) - splat(mine)), splat(0.0f));
    float own_sum = sum(total);
    sums[j] = own_sum;
    most[j] = mine;
    own[j] = 1 / own_sum;
    own_max[j] = mine;
    any_own = true;
  }
  for (int j = 0; j < P; ++j) {
    float a = u.alpha[j] + (j == 0 ? homeless : 0);  // a mask without keys lends its α to M_0
    shared[j] *= a;
    own[j] *= a;
  }
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec x = load(e + k) * weight<P>(b, shared);
    if (any_own)
      for (int j = 0; j < P; ++j)
        if (own[j] != 0)
          x = x + select(in_mask(b, j), exp(load(row + k) - splat(own_max[j])), splat(0.0f)) * splat(own[j]);
    store(row + k, x);
  }
}

inline int64_t whole(int64_t keys) { return (keys + kLanes - 1) / kLanes * kLanes; }

/// The row functions by the number of masks, which they know when they are compiled: sums per mask stay in registers.
inline auto weigh_row_of(int p) {
  static constexpr decltype(&weigh_row<1>) of[] = {weigh_row<1>, weigh_row<2>, weigh_row<3>, weigh_row<4>,
                                                   weigh_row<5>, weigh_row<6>, weigh_row<7>, weigh_row<8>};
  return of[p - 1];
}
inline auto mixed_row_of(int p) {
  static constexpr decltype(&mixed_row<1>) of[] = {mixed_row<1>, mixed_row<2>, mixed_row<3>, mixed_row<4>,
                                                   mixed_row<5>, mixed_row<6>, mixed_row<7>, mixed_row<8>};
  return of[p - 1];
}

inline void forward(const AttentionUnit& u) {
  auto weigh = weigh_row_of(u.p);
  auto mix = mixed_row_of(u.p);
  int64_t ld = padded(u.nk), dp = padded(u.d), strip = u.strip(), m = u.lse_size();
  Pieces s(u.d * ld + ld * dp + strip * (ld + dp + m + 1) + 2 * ld, 7);
  float *kt = s.take(u.d * ld), *copied = s.take(ld * dp), *scores = s.take(strip * ld), *o = s.take(strip * dp);
  float *room = s.take(ld), *e = s.take(ld), *factor = s.take(strip), *most = s.take(strip * m);
  transpose(kt, ld, u.k, u.k_row, u.keys, whole(u.keys), u.d, u.bias);
  // Rows of v that are read a few times, whole vectors without padding between them, need no place of their own.
  const bool in_place = u.nq <= kReads && u.d % kLanes == 0 && u.dense();
  const float* v = in_place ? u.v : copied;
  const int64_t v_row = in_place ? u.v_row : dp;
  if (!in_place) copy_rows(copied, dp, u.v, u.v_row, u.keys, u.d, 1, u.bias);
  float scaled[kMostChoices] = {};
  if (u.mode == 1)
    for (int j = 0; j < u.p; ++j) scaled[j] = u.alpha[j] * u.scale;
  for (int64_t i0 = 0; i0 < u.nq; i0 += strip) {
    int64_t rows = u.nq - i0 < strip ? u.nq - i0 : strip, keys = u.sees(i0 + rows - 1), width = whole(keys);
    multiply(scores, ld, u.q + i0 * u.q_row, u.q_row, 1, kt, ld, rows, width, u.d, false);
    float* sums = u.lse + i0 * m;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t i = i0 + r;
      float* row = scores + r * ld;
      const float* bias = row_bias(u, i, width, room);
      const int32_t* bits = u.mode ? u.masks + i * ld : nullptr;
      if (u.mode == 1) weigh(row, bits, scaled, width);
      factor[r] = 1;
      if (u.mode == 2) mix(row, bias, bits, u, width, sums + r * m, most + r * m, e);
      else factor[r] = softmax_row(row, u.mode == 1 ? 1 : u.scale, bias, width, sums + r, most + r);
    }
    finish_lse(sums, most, rows * m);
    multiply(o, dp, scores, ld, 1, v, v_row, rows, u.d, keys, false);
    for (int64_t r = 0; r < rows; ++r) {
      float* to = u.out + (i0 + r) * u.out_row;
      for (int64_t c = 0; c < u.d; ++c) to[c] = o[r * dp + c] * factor[r];
    }
  }
}

/// One vector of queries against a block of n keys: scores below each other become exponentials relative to the
/// greatest score so far. The factor for what was summed up before.
inline vec softmax_down(float* scores, int64_t ld, const float* bias, int64_t n, float* most, float* sums) {
  const vec before = load(most);
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
  store(most, now);
  store(sums, fma(load(sums), factor, z[0] + z[1]));
  return factor;
}

/// Without masks that route and without causality: queries lie across the lanes, so that no sum runs within a vector,
/// and keys come in blocks, each followed by its part of the result (Milakov & Gimelshein 2018, online softmax).
inline void forward_across(const AttentionUnit& u) {
  const auto parts = [](int64_t n, int64_t most) { return n > most ? (n + most - 1) / most : 1; };
  const int64_t strips = parts(u.nq, kAcross), strip = whole((u.nq + strips - 1) / strips), dp = padded(u.d);
  const int64_t blocks = parts(u.keys, kDown), block = (u.keys + blocks - 1) / blocks;
  Pieces s(2 * u.keys * dp + strip * (u.d + block + dp + 3), 8);
  float *k = s.take(u.keys * dp), *v = s.take(u.keys * dp), *q = s.take(u.d * strip), *scores = s.take(block * strip),
        *o = s.take(strip * dp);
  float *most = s.take(strip), *sums = s.take(strip), *factor = s.take(strip);
  copy_rows(k, dp, u.k, u.k_row, u.keys, u.d, u.scale, u.bias);
  copy_rows(v, dp, u.v, u.v_row, u.keys, u.d, 1, u.bias);
  for (int64_t i0 = 0; i0 < u.nq; i0 += strip) {
    const int64_t rows = u.nq - i0 < strip ? u.nq - i0 : strip, width = whole(rows);
    transpose(q, strip, u.q + i0 * u.q_row, u.q_row, rows, width, u.d, nullptr);
    for (int64_t j = 0; j < width; ++j) most[j] = kNone, sums[j] = 0;
    if (!u.keys) clear(o, rows * dp);
    for (int64_t k0 = 0, n; k0 < u.keys; k0 += n) {
      n = u.keys - k0 < block ? u.keys - k0 : block;
      multiply(scores, strip, k + k0 * dp, dp, 1, q, strip, n, width, u.d, false);
      for (int64_t j = 0; j < width; j += kLanes)
        store(factor + j, softmax_down(scores + j, strip, u.bias + k0, n, most + j, sums + j));
      for (int64_t r = 0; k0 && r < rows; ++r)
        for (int64_t c = 0; c < dp; c += kLanes) store(o + r * dp + c, load(o + r * dp + c) * splat(factor[r]));
      multiply(o, dp, scores, 1, strip, v + k0 * dp, dp, rows, u.d, n, k0 > 0);
    }
    for (int64_t j = 0; j < width; j += kLanes) {
      vec z = select(load(sums + j) > splat(0.0f), load(sums + j), splat(1.0f));
      store(sums + j, load(most + j) + log(z));
      store(factor + j, splat(1.0f) / z);
    }
    std::memcpy(u.lse + i0, sums, size_t(rows) * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) {
      float* to = u.out + (i0 + r) * u.out_row;
      int64_t c = 0;
      for (; c + kLanes <= u.d; c += kLanes) store(to + c, load(o + r * dp + c) * splat(factor[r]));
      for (; c < u.d; ++c) to[c] = o[r * dp + c] * factor[r];
    }
  }
}
