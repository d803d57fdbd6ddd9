// One unit of attention work: a (b0, b1, head), its rows wherever they lie in memory. What the instruction sets'
// kernels (attention_forward.h, attention_backward.h) are given.
#pragma once
#include <cstdint>

#include "core/blocks.h"
#include "kernels/routing.h"

namespace mt {

inline constexpr int64_t kVectorPad = 16;  // floats: the widest vector

inline int64_t padded(int64_t n) { return (n + kVectorPad - 1) / kVectorPad * kVectorPad; }

struct AttentionUnit {
  int64_t nq, nk, d;
  int64_t keys;   // nk without padding at its end
  int64_t shift;  // query i sees keys up to i + shift; at least nk where not causal
  int mode, p;
  float scale;
  // Row starts of this unit, and the distance of rows.
  const float *q, *k, *v;
  int64_t q_row, k_row, v_row;
  const float* bias;     // [padded(nk)]: 0, or −inf for padding and behind the end
  const int32_t* masks;  // [nq, padded(nk)], bit j = M_j
  float alpha[kMostChoices];
  float* lse;  // [nq, m]
  // forward
  float* out;
  int64_t out_row;
  // backward; null where not wanted
  const float* dout;
  int64_t dout_row;
  float *dq, *dk, *dv;
  int64_t dq_row, dk_row, dv_row;
  double* dalpha;  // [p], this unit's share

  /// Whether no key before the last one is padding.
  bool dense() const {
    for (int64_t j = 0; j < keys; ++j)
      if (bias[j] != 0) return false;
    return true;
  }
  bool visible_all() const { return shift >= nk; }
  /// Keys that query i sees, padding included.
  int64_t sees(int64_t i) const {
    return visible_all() ? keys : i + shift + 1 < 0 ? 0 : i + shift + 1 < keys ? i + shift + 1 : keys;
  }
  int64_t lse_size() const { return mode == 2 ? p : 1; }
  /// Queries per strip: its scores stay in the first-level cache, and strips are even.
  int64_t strip() const {
    int64_t most = 8192 / padded(nk > 0 ? nk : 1) / 6 * 6;
    most = most < 6 ? 6 : most > 48 ? 48 : most;
    int64_t strips = (nq + most - 1) / most;
    return strips ? (nq + strips - 1) / strips : 0;
  }
};

/// A thread's working memory, cut into consecutive pieces, each aligned to 64 bytes.
class Pieces {
 public:
  /// Room for `floats` in at most `pieces` pieces.
  Pieces(int64_t floats, int pieces) {
    thread_local Scratch mine;
    next_ = mine.floats(floats + pieces * kVectorPad);
  }
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += padded(floats);
    return piece;
  }

 private:
  float* next_;
};

}  // namespace mt
