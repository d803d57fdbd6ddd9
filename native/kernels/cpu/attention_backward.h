// Backward attention of one unit; included by each_isa.h. Probabilities come from the saved
// log-sum-exp; per row, scores become P and dP becomes dS, both in place.
#include "kernels/cpu/attention_forward.h"

/// row = P = exp(row + bias − lse), dp = P ∘ (dP − D). D is rowsum(P ∘ dP), not dO·O, and centred twice: where the
/// softmax is saturated, a row of one key above all, dP − D cancels, and what is left must be right.
inline void probabilities(float* row, float* dp, const float* bias, int64_t width, float lse) {
  vec d = splat(0.0f), z = splat(0.0f), rest = splat(0.0f);
  for (int64_t k = 0; k < width; k += kLanes) {
    vec p = exp(load(row + k) + load(bias + k) - splat(lse));
    store(row + k, p);
    d = fma(p, load(dp + k), d);
    z = z + p;
  }
  float one = sum(z);
  vec mean = splat(sum(d) / one);
  for (int64_t k = 0; k < width; k += kLanes) {
    vec g = load(dp + k) - mean;
    store(dp + k, g);
    rest = fma(load(row + k), g, rest);
  }
  vec left = splat(sum(rest) / one);  // what rounding left of Σ P (dP − D), which is 0
  for (int64_t k = 0; k < width; k += kLanes) store(dp + k, load(row + k) * (load(dp + k) - left));
}

/// Mode score: dS = P ∘ (dP − D) ∘ w, dα_j += Σ P (dP − D) S M_j. `s` has room for the scores.
template <int P>
void score_row_backward(float* row, float* dp, const float* bias, const int32_t* bits, const AttentionUnit& u,
                        int64_t width, float lse, float* s) {
  for (int64_t k = 0; k < width; k += kLanes) store(s + k, load(row + k));
  weigh_row<P>(row, bits, u.alpha, width);
  probabilities(row, dp, bias, width, lse);
  vec a[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec g = load(dp + k), gs = g * load(s + k);
    store(dp + k, g * weight<P>(b, u.alpha));
    if (u.dalpha)
      for (int j = 0; j < P; ++j) a[j] = a[j] + select(in_mask(b, j), gs, splat(0.0f));
  }
  if (u.dalpha)
    for (int j = 0; j < P; ++j) u.dalpha[j] += sum(a[j]);
}

/// Σ P_j (dP − centre) of a mask with an exponential of its own.
inline float own_mean(const float* row, const float* dp, const int32_t* bits, int j, int64_t width, float lse,
                      float centre) {
  vec d = splat(0.0f);
  for (int64_t k = 0; k < width; k += kLanes)
    d = fma(select(in_mask(load(bits + k), j), exp(load(row + k) - splat(lse)), splat(0.0f)),
            load(dp + k) - splat(centre), d);
  return sum(d);
}

/// Mode attention: P = Σ α_j P_j, dS = Σ α_j P_j (dP − D_j), D_j = rowsum(P_j ∘ dP), dα_j += D_j.
template <int P>
void mixed_row_backward(float* row, float* dp, const float* bias, const int32_t* bits, const AttentionUnit& u,
                        int64_t width, const float* lse, float* e) {
  float m = kNone, homeless = 0;
  for (int j = 0; j < P; ++j) {
    m = lse[j] > m ? lse[j] : m;
    if (lse[j] == kNone) homeless += u.alpha[j];
  }
  if (m == kNone) {
    clear(row, width);
    return clear(dp, width);
  }
  // P_j = exp(s − m)·lift_j where m − lse_j is small, else exp(s − lse_j).
  float lift[P], d[P], left[P], a[P], own[P];
  bool any_own = false;
  for (int j = 0; j < P; ++j) {
    bool shared = m - lse[j] < 60;
    lift[j] = shared ? std::exp(m - lse[j]) : 0;
    own[j] = !shared && lse[j] != kNone ? 1.0f : 0.0f;
    any_own |= own[j] != 0;
  }
  vec t[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec s = load(row + k) + load(bias + k), x = exp(s - splat(m)), xd = x * load(dp + k);
    store(row + k, s);
    store(e + k, x);
    for (int j = 0; j < P; ++j) t[j] = t[j] + select(in_mask(b, j), xd, splat(0.0f));
  }
  for (int j = 0; j < P; ++j) d[j] = own[j] != 0 ? own_mean(row, dp, bits, j, width, lse[j], 0) : sum(t[j]) * lift[j];
  // Centred twice, as in probabilities().
  vec r[P] = {};
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec x = load(e + k), g = load(dp + k);
    for (int j = 0; j < P; ++j) r[j] = fma(select(in_mask(b, j), x, splat(0.0f)), g - splat(d[j]), r[j]);
  }
  for (int j = 0; j < P; ++j)
    left[j] = own[j] != 0 ? own_mean(row, dp, bits, j, width, lse[j], d[j]) : sum(r[j]) * lift[j];
  for (int j = 0; j < P; ++j) {
    float alpha = u.alpha[j] + (j == 0 ? homeless : 0);
    a[j] = alpha * lift[j];
    own[j] *= alpha;
    if (u.dalpha) u.dalpha[j] += lse[j] == kNone ? d[0] + left[0] : d[j] + left[j];
  }
  for (int64_t k = 0; k < width; k += kLanes) {
    ivec b = load(bits + k);
    vec x = load(e + k), g = load(dp + k), p = splat(0.0f), ds = splat(0.0f);
    for (int j = 0; j < P; ++j) {
      vec w = select(in_mask(b, j), splat(a[j]), splat(0.0f));
      p = p + w;
      ds = fma(w, g - splat(d[j]) - splat(left[j]), ds);
    }
    p = p * x;
    ds = ds * x;
    if (any_own)
      for (int j = 0; j < P; ++j)
        if (own[j] != 0) {
          vec pj = select(in_mask(b, j), exp(load(row + k) - splat(lse[j])), splat(0.0f)) * splat(own[j]);
          p = p + pj;
          ds = ds + pj * (g - splat(d[j]) - splat(left[j]));
        }
    store(row + k, p);
    store(dp + k, ds);
  }
}

inline void write_rows(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t width,
                       float factor) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) to[r * to_row + c] = from[r * from_row + c] * factor;
}

inline auto score_row_backward_of(int p) {
  static constexpr decltype(&score_row_backward<1>) of[] = {
      score_row_backward<1>, score_row_backward<2>, score_row_backward<3>, score_row_backward<4>,
      score_row_backward<5>, score_row_backward<6>, score_row_backward<7>, score_row_backward<8>};
  return of[p - 1];
}
inline auto mixed_row_backward_of(int p) {
  static constexpr decltype(&mixed_row_backward<1>) of[] = {
      mixed_row_backward<1>, mixed_row_backward<2>, mixed_row_backward<3>, mixed_row_backward<4>,
      mixed_row_backward<5>, mixed_row_backward<6>, mixed_row_backward<7>, mixed_row_backward<8>};
  return of[p - 1];
}

inline void backward(const AttentionUnit& u) {
  auto score = score_row_backward_of(u.p);
  auto mixed = mixed_row_backward_of(u.p);
  int64_t ld = padded(u.nk), dp = padded(u.d), strip = u.strip(), n = u.keys;
  bool scores_matter = u.dq || u.dk || u.dalpha;  // dV alone needs no dP
  Pieces s(2 * u.d * ld + 3 * ld * dp + 2 * strip * (ld + dp) + strip * dp + 2 * ld, 11);
  float *kt = s.take(u.d * ld), *vt = s.take(u.d * ld), *k = s.take(ld * dp), *dk = s.take(ld * dp),
        *dv = s.take(ld * dp);
  float *p = s.take(strip * ld), *ds = s.take(strip * ld), *q = s.take(strip * dp), *dout = s.take(strip * dp),
        *dq = s.take(strip * dp);
  float *room = s.take(ld), *e = s.take(ld);
  transpose(kt, ld, u.k, u.k_row, n, whole(n), u.d, u.bias);
  if (scores_matter) transpose(vt, ld, u.v, u.v_row, n, whole(n), u.d, u.bias);
  if (u.dq) copy_rows(k, dp, u.k, u.k_row, n, u.d, 1, u.bias);
  if (u.dk) clear(dk, u.nk * dp);
  if (u.dv) clear(dv, u.nk * dp);
  for (int64_t i0 = 0; i0 < u.nq; i0 += strip) {
    int64_t rows = u.nq - i0 < strip ? u.nq - i0 : strip, keys = u.sees(i0 + rows - 1), width = whole(keys);
    copy_rows(q, dp, u.q + i0 * u.q_row, u.q_row, rows, u.d, u.scale, nullptr);
    copy_rows(dout, dp, u.dout + i0 * u.dout_row, u.dout_row, rows, u.d, 1, nullptr);
    multiply(p, ld, q, dp, 1, kt, ld, rows, width, u.d, false);
    if (scores_matter) multiply(ds, ld, dout, dp, 1, vt, ld, rows, width, u.d, false);
    else clear(ds, rows * ld);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t i = i0 + r;
      float *row = p + r * ld, *drow = ds + r * ld;
      const float *bias = row_bias(u, i, width, room), *lse = u.lse + i * u.lse_size();
      const int32_t* bits = u.mode ? u.masks + i * ld : nullptr;
      if (u.mode == 2) {
        mixed(row, drow, bias, bits, u, width, lse, e);
        continue;
      }
      if (*lse == kNone) {
        clear(row, width);
        clear(drow, width);
        continue;
      }
      if (u.mode == 1) score(row, drow, bias, bits, u, width, *lse, e);
      else probabilities(row, drow, bias, width, *lse);
    }
    if (u.dv) multiply(dv, dp, p, 1, ld, dout, dp, keys, u.d, rows, true);
    if (u.dk) multiply(dk, dp, ds, 1, ld, q, dp, keys, u.d, rows, true);
    if (u.dq) {
      multiply(dq, dp, ds, ld, 1, k, dp, rows, u.d, keys, false);
      write_rows(u.dq + i0 * u.dq_row, u.dq_row, dq, dp, rows, u.d, u.scale);
    }
  }
  if (u.dk) write_rows(u.dk, u.dk_row, dk, dp, u.nk, u.d, 1);
  if (u.dv) write_rows(u.dv, u.dv_row, dv, dp, u.nk, u.d, 1);
}
