// Forward attention of one unit; included by each_isa.h. Two kernels: keys lie across the lanes where masks route,
// where causality hides keys, with biases of distances, and where queries are few; else queries do.
#include "kernels/cpu/multiply.h"
#include "kernels/cpu/softmax.h"

/// Rows of v that are read a few times, whole vectors without padding between them, are read where they lie. A copy
/// pays from a third register tile on: six rows of the result read v once, so that this many rows read it twice.
constexpr int64_t kRowsInPlace = 12;

/// Keys across the lanes: a query's scores are a row.
inline void forward(const AttentionUnit& u) {
  const auto weigh = for_masks(u.p, [](auto P) { return &weigh_row<P()>; });
  const auto mix = for_masks(u.p, [](auto P) { return &mixture_row<P()>; });
  const int64_t ld = padded(u.nk), d_row = padded(u.d), strip = u.strip(), m = u.m();
  Pieces s(u.d * ld + ld * d_row + strip * (ld + d_row + m + 1) + 2 * ld, 7);
  float *kt = s.take(u.d * ld), *v_copy = s.take(ld * d_row);      // (d, nk) and (nk, d)
  float *scores = s.take(strip * ld), *o = s.take(strip * d_row);  // (strip, nk) and (strip, d)
  float *room = s.take(ld), *e = s.take(ld);                       // (nk)
  float *factor = s.take(strip), *maxima = s.take(strip * m);      // (strip) and (strip, m)
  transpose(kt, ld, u.k.data, u.k.stride, u.keys, round_up(u.keys), u.d, u.key_bias);
  HeadRows<const float> v = u.v;
  if (u.nq > kRowsInPlace || u.d % kLanes != 0 || !u.dense()) {
    copy_rows(v_copy, d_row, u.v.data, u.v.stride, u.keys, u.d, 1, u.key_bias);
    v = {v_copy, d_row};
  }
  float scaled[kMostChoices] = {};  // α_j/√d
  if (u.routing == Routing::score)
    for (int j = 0; j < u.p; ++j) scaled[j] = u.alpha[j] * u.scale;
  for (int64_t i0 = 0; i0 < u.nq; i0 += strip) {
    const int64_t rows = u.nq - i0 < strip ? u.nq - i0 : strip, keys = u.keys_seen(i0 + rows - 1),
                  width = round_up(keys);
    float* sums = u.lse + i0 * m;                                                   // (rows, m)
    multiply(scores, ld, u.q[i0], u.q.stride, 1, kt, ld, rows, width, u.d, false);  // (rows, keys): q kᵀ
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = i0 + r;
      float* row = scores + r * ld;
      const float* bias = query_bias(u, i, width, room);
      const int32_t* bits = u.routing == Routing::off ? nullptr : u.masks + i * ld;
      factor[r] = 1;
      switch (u.routing) {  // (keys): P, but for factor[r]
        case Routing::off: factor[r] = softmax_row(row, u.scale, bias, width, maxima + r, sums + r); break;
        case Routing::score:
          weigh(row, bits, scaled, width);
          factor[r] = softmax_row(row, 1, bias, width, maxima + r, sums + r);
          break;
        case Routing::mixture: mix(row, bias, bits, u.alpha, u.scale, width, maxima + r * m, sums + r * m, e); break;
      }
    }
    finish_lse(sums, maxima, rows * m);
    multiply(o, d_row, scores, ld, 1, v.data, v.stride, rows, u.d, keys, false);  // (rows, d): P v
    for (int64_t r = 0; r < rows; ++r) {
      float* to = u.out[i0 + r];
      for (int64_t c = 0; c < u.d; ++c) to[c] = o[r * d_row + c] * factor[r];
    }
  }
}

// 64 queries by 128 keys of scores are 32 KiB, the first-level cache. Against whole rows of keys this made joint
// attention 8 to 10 % faster, and attention over 64 frames 6 %.
constexpr int64_t kAcross = 64;  // queries across the lanes, at most
constexpr int64_t kDown = 128;   // keys below each other, at most

/// Queries across the lanes, without routing and without causality: no sum runs within a vector, and keys come in
/// blocks, each followed by its part of the result (online softmax).
inline void forward_across(const AttentionUnit& u) {
  const auto pieces = [](int64_t n, int64_t longest) { return n > longest ? (n + longest - 1) / longest : 1; };
  const int64_t strips = pieces(u.nq, kAcross), strip = round_up((u.nq + strips - 1) / strips), d_row = padded(u.d);
  const int64_t blocks = pieces(u.keys, kDown), block = (u.keys + blocks - 1) / blocks;
  Pieces s(2 * u.keys * d_row + strip * (u.d + block + d_row + 3), 8);
  float *k = s.take(u.keys * d_row), *v = s.take(u.keys * d_row);                                // (keys, d)
  float *qt = s.take(u.d * strip), *scores = s.take(block * strip), *o = s.take(strip * d_row);  // (d, strip), (block,
                                                                                                 // strip), (strip, d)
  float *run_max = s.take(strip), *run_sum = s.take(strip), *factor = s.take(strip);             // (strip)
  copy_rows(k, d_row, u.k.data, u.k.stride, u.keys, u.d, u.scale, u.key_bias);
  copy_rows(v, d_row, u.v.data, u.v.stride, u.keys, u.d, 1, u.key_bias);
  for (int64_t i0 = 0; i0 < u.nq; i0 += strip) {
    const int64_t rows = u.nq - i0 < strip ? u.nq - i0 : strip, width = round_up(rows);
    transpose(qt, strip, u.q[i0], u.q.stride, rows, width, u.d, nullptr);
    for (int64_t j = 0; j < width; ++j) run_max[j] = kNone, run_sum[j] = 0;
    if (!u.keys) clear(o, rows * d_row);
    for (int64_t k0 = 0, n; k0 < u.keys; k0 += n) {
      n = u.keys - k0 < block ? u.keys - k0 : block;
      multiply(scores, strip, k + k0 * d_row, d_row, 1, qt, strip, n, width, u.d, false);  // (n, rows): k qᵀ/√d
      for (int64_t j = 0; j < width; j += kLanes)                                          // (n, rows): exp
        store(factor + j, softmax_down(scores + j, strip, u.key_bias + k0, n, run_max + j, run_sum + j));
      for (int64_t r = 0; k0 && r < rows; ++r)
        for (int64_t c = 0; c < d_row; c += kLanes)
          store(o + r * d_row + c, load(o + r * d_row + c) * splat(factor[r]));
      multiply(o, d_row, scores, 1, strip, v + k0 * d_row, d_row, rows, u.d, n, k0 > 0);  // (rows, d): += expᵀ v
    }
    finish_down(run_max, run_sum, width, run_sum, factor);
    std::memcpy(u.lse + i0, run_sum, size_t(rows) * sizeof(float));
    for (int64_t r = 0; r < rows; ++r) {
      float* to = u.out[i0 + r];
      int64_t c = 0;
      for (; c + kLanes <= u.d; c += kLanes) store(to + c, load(o + r * d_row + c) * splat(factor[r]));
      for (; c < u.d; ++c) to[c] = o[r * d_row + c] * factor[r];
    }
  }
}
