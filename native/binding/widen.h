// float32 copies of the bfloat16 arguments of CPU operators.
#pragma once
#include "core/view.h"

namespace mt::binding {

/// Replaces `v` by a contiguous float32 view of new memory, which holds the numbers of `v` where `filled`.
void widen(View& v, bool filled);
/// Rounds `from`, float32, into `to`, a bfloat16 view of the same shape.
void narrow(const View& from, const View& to);

}  // namespace mt::binding
