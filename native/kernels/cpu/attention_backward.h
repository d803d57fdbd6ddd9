// Backward attention of one unit; included by each_isa.h. Strip by strip of queries: P and dS of the strip, then its
// share of dk and dv, then its dq.
#include "kernels/cpu/attention_forward.h"
#include "kernels/cpu/softmax_backward.h"

inline void write_rows(HeadRows<float> to, const float* from, int64_t from_row, int64_t rows, int64_t width,
                       float factor) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) to[r][c] = from[r * from_row + c] * factor;
}

/// A unit's backward: what it works with, and its three parts.
struct Backward {
  const AttentionUnit& u;
  // Rows of scores are `ld` floats apart, rows of a head `d_row`.
  int64_t ld = padded(u.nk), d_row = padded(u.d), strip = u.strip();
  bool wants_dS = u.dq || u.dk || u.dalpha;  // dv alone needs P alone
  Pieces s{2 * u.d * ld + 3 * ld * d_row + 2 * strip * (ld + d_row) + strip * d_row + 2 * ld, 12};
  float *kt = s.take(u.d * ld), *vt = s.take(u.d * ld);                               // (d, nk)
  float *k = s.take(ld * d_row), *dk = s.take(ld * d_row), *dv = s.take(ld * d_row);  // (nk, d)
  float *P = s.take(strip * ld), *dS = s.take(strip * ld);                            // (strip, nk); dS is dP first
  float *q = s.take(strip * d_row), *dout = s.take(strip * d_row), *dq = s.take(strip * d_row);  // (strip, d)
  float *room = s.take(ld), *e = s.take(ld);                                                     // (nk)
  decltype(&score_row_backward<1>) score = for_masks(u.p, [](auto N) { return &score_row_backward<N()>; });
  decltype(&mixture_row_backward<1>) mixture = for_masks(u.p, [](auto N) { return &mixture_row_backward<N()>; });

  /// The unit's keys and values, in the orders that products ask for.
  void load_keys() {
    transpose(kt, ld, u.k.data, u.k.stride, u.keys, round_up(u.keys), u.d, u.key_bias);
    if (wants_dS) transpose(vt, ld, u.v.data, u.v.stride, u.keys, round_up(u.keys), u.d, u.key_bias);
    if (u.dq) copy_rows(k, d_row, u.k.data, u.k.stride, u.keys, u.d, 1, u.key_bias);
    if (u.dk) clear(dk, u.nk * d_row);
    if (u.dv) clear(dv, u.nk * d_row);
  }

  /// P and dS of `rows` queries from i0, which see no key from `keys` on; dα.
  void form_scores(int64_t i0, int64_t rows, int64_t keys) {
    const int64_t width = round_up(keys);
    copy_rows(q, d_row, u.q[i0], u.q.stride, rows, u.d, u.scale, nullptr);            // (rows, d): q/√d
    copy_rows(dout, d_row, u.dout[i0], u.dout.stride, rows, u.d, 1, nullptr);         // (rows, d)
    multiply(P, ld, q, d_row, 1, kt, ld, rows, width, u.d, false);                    // (rows, keys): S = q kᵀ/√d
    if (wants_dS) multiply(dS, ld, dout, d_row, 1, vt, ld, rows, width, u.d, false);  // (rows, keys): dP = dout vᵀ
    else clear(dS, rows * ld);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = i0 + r;
      float *row = P + r * ld, *dP = dS + r * ld;
      const float *bias = query_bias(u, i, width, room), *lse = u.lse + i * u.m();
      const int32_t* bits = u.routing == Routing::off ? nullptr : u.masks + i * ld;
      if (u.routing == Routing::mixture) {
        mixture(row, dP, bias, bits, u.alpha, width, lse, e, u.dalpha);
      } else if (nothing_visible(*lse)) {
        clear(row, width);
        clear(dP, width);
      } else if (u.routing == Routing::score) {
        score(row, dP, bias, bits, u.alpha, width, *lse, e, u.dalpha);
      } else {
        softmax_row_backward(row, dP, bias, width, *lse);
      }
    }
  }

  void add_key_gradients(int64_t rows, int64_t keys) {
    if (u.dv) multiply(dv, d_row, P, 1, ld, dout, d_row, keys, u.d, rows, true);  // (keys, d): += Pᵀ dout
    if (u.dk) multiply(dk, d_row, dS, 1, ld, q, d_row, keys, u.d, rows, true);    // (keys, d): += dSᵀ q/√d
  }

  void write_query_gradients(int64_t i0, int64_t rows, int64_t keys) {
    if (!u.dq) return;
    multiply(dq, d_row, dS, ld, 1, k, d_row, rows, u.d, keys, false);  // (rows, d): dS k
    write_rows({u.dq[i0], u.dq.stride}, dq, d_row, rows, u.d, u.scale);
  }

  void write_key_gradients() {
    if (u.dk) write_rows(u.dk, dk, d_row, u.nk, u.d, 1);
    if (u.dv) write_rows(u.dv, dv, d_row, u.nk, u.d, 1);
  }
};

inline void backward(const AttentionUnit& u) {
  Backward b{u};
  b.load_keys();
  for (int64_t i0 = 0; i0 < u.nq; i0 += b.strip) {
    const int64_t rows = u.nq - i0 < b.strip ? u.nq - i0 : b.strip, keys = u.keys_seen(i0 + rows - 1);
    b.form_scores(i0, rows, keys);
    b.add_key_gradients(rows, keys);
    b.write_query_gradients(i0, rows, keys);
  }
  b.write_key_gradients();
}
