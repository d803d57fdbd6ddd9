// One or two low-rank updates of row ranges of a weight [N,K] as one update of all of it. Update i is a_i [r_i,K] and
// b_i [n_i,r_i], of the n_i rows from first_i on; r = r_1 + r_2. All tensors are float32 and contiguous.
//
//   a [r,K]  a_1 over a_2
//   b [N,r]  b_1 and b_2, each in its rows and in columns of its own; 0 elsewhere. Then b·a is the sum of both updates
#pragma once
#include "core/view.h"

namespace mt {

/// a2 and b2 come together or not at all. Row ranges do not overlap.
void check_lora_pack(const View& a1, const View& b1, int64_t first1, const Maybe& a2, const Maybe& b2, int64_t first2,
                     Out a, Out b);
/// The gradients of b_1 and b_2 out of that of b; those of a_1 and a_2 are rows of that of a.
void check_lora_unpack(const View& db, int64_t first1, int64_t first2, Out db1, MaybeOut db2);

namespace cpu {
void lora_pack(const View& a1, const View& b1, int64_t first1, const Maybe& a2, const Maybe& b2, int64_t first2, Out a,
               Out b);
void lora_unpack(const View& db, int64_t first1, int64_t first2, Out db1, MaybeOut db2);
}  // namespace cpu
namespace cuda {
void lora_pack(const View& a1, const View& b1, int64_t first1, const Maybe& a2, const Maybe& b2, int64_t first2, Out a,
               Out b);
void lora_unpack(const View& db, int64_t first1, int64_t first2, Out db1, MaybeOut db2);
}  // namespace cuda
}  // namespace mt
