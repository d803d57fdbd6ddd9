// The arguments of attention's kernels on the CPU: one unit of work, a (b0, b1, head), its rows wherever they lie in
// memory. The instruction sets' kernels are in attention_forward.h and attention_backward.h.
#pragma once
#include <cstdint>

#include "core/blocks.h"
#include "kernels/routing.h"

namespace mt {

inline constexpr int64_t kVectorPad = 16;  // floats: the widest vector

inline int64_t padded(int64_t n) { return (n + kVectorPad - 1) / kVectorPad * kVectorPad; }

/// Rows of d floats side by side, `stride` floats from one to the next. Null where a result is not wanted.
template <typename Float>
struct HeadRows {
  Float* data;
  int64_t stride;

  Float* operator[](int64_t i) const { return data + i * stride; }
  explicit operator bool() const { return data; }
};

struct AttentionUnit {
  int64_t nq, nk, d;
  int64_t keys;   // nk without padding at its end
  int64_t shift;  // query i sees keys up to i + shift; at least nk where not causal
  Routing routing;
  int p;                          // masks; 1 without routing
  float scale;                    // of scores
  HeadRows<const float> q, k, v;  // [nq, d], [nk, d], [nk, d]
  const float* key_bias;          // [padded(nk)]: 0, or −∞ for padding and behind the end
  const int32_t* masks;           // [nq, padded(nk)], bit j = M_j
  const float* bias;              // [nq + nk − 1]: of query i and key k that at k − i + nq − 1; null: none
  int64_t bias_stride;
  float alpha[kMostChoices];   // [p]
  float* lse;                  // [nq, m]
  HeadRows<float> out;         // forward: [nq, d]
  HeadRows<const float> dout;  // backward: [nq, d]
  HeadRows<float> dq, dk, dv;  // backward: [nq, d], [nk, d], [nk, d]
  double* dalpha;              // backward: [p], this unit's share; null where not wanted

  /// Softmaxes of a query.
  int64_t m() const { return softmaxes(routing, p); }
  bool sees_all() const { return shift >= nk; }
  /// Keys that query i sees, padding included.
  int64_t keys_seen(int64_t i) const {
    return sees_all() ? keys : i + shift + 1 < 0 ? 0 : i + shift + 1 < keys ? i + shift + 1 : keys;
  }
  /// Whether no key before the last one is padding.
  bool dense() const {
    for (int64_t j = 0; j < keys; ++j)
      if (key_bias[j] != 0) return false;
    return true;
  }
  /// Queries per strip, whose scores, and dP in backward, are formed together. 8192 scores are 32 KiB, the first-level
  /// cache; six rows are a register tile of multiply(); strips are as long as each other.
  int64_t strip() const {
    int64_t longest = 8192 / padded(nk > 0 ? nk : 1) / 6 * 6;
    longest = longest < 6 ? 6 : longest > 48 ? 48 : longest;
    int64_t strips = (nq + longest - 1) / longest;
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
