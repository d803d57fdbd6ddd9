// What both backends' attention knows of routing; ops/attention.h has the equations.
//
// The empty mask. A mask is empty for a query where it keeps none of the keys that the query sees. Its softmax P_j is
// then that of M_0: it lends its weight to M_0, and its dα_j is that of M_0.
//
//   Σ_j α_j P_j = (α_0 + Σ_{j empty} α_j) P_0 + Σ_{j not empty, j > 0} α_j P_j
//   dα_j = D_j, or D_0 where j is empty
//
// Where M_0 itself is empty, P_0 and D_0 are 0. Forward records an empty mask as lse_j = −∞; backward reads it there.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/error.h"

namespace mt {

inline constexpr int kMostChoices = 8;  // masks of a set: bits of a byte

/// What a set of masks M_j with weights α_j does to the softmax of a query.
enum class Routing : int {
  off,      // there are no masks
  score,    // one softmax; a score is multiplied by Σ_j α_j M_j
  mixture,  // a softmax for each mask, over the keys that it keeps, weighted by α; JavaScript calls it attention
};

/// The number at the border, decoded.
inline Routing routing_of(int64_t mode) {
  require(mode >= 0 && mode <= 2, "mode: expected 0 (off), 1 (score) or 2 (attention), but got ", mode, ".");
  return Routing(mode);
}

/// Softmaxes of a query, of p masks.
constexpr int softmaxes(Routing routing, int p) { return routing == Routing::mixture ? p : 1; }

/// Whether nothing was visible to a softmax, by its log-sum-exp.
constexpr bool nothing_visible(float lse) { return lse == -INFINITY; }

/// The weight of softmax j: its α; for M_0 also what empty masks lend, Σ_{j empty} α_j.
constexpr float weight_with_lent(int j, float alpha, float lent) { return alpha + (j == 0 ? lent : 0.0f); }

/// The mask whose D is dα_j.
constexpr int gradient_source(int j, float lse) { return nothing_visible(lse) ? 0 : j; }

/// A mask all of whose keys lie this far under the row's maximum (in natural logarithms) gets exponentials relative to
/// its own maximum: relative to the row's they would underflow in float32 (e^−87).
inline constexpr float kFar = 60;
inline constexpr float kFarSum = 1e-26f;  // about e^−60: a smaller sum of exponentials tells such a mask

}  // namespace mt
