// float32 stand-ins for bfloat16 arguments of CPU operators.
#pragma once
#include "core/view.h"

namespace mt::binding {

/// Makes `v` a contiguous float32 view of its own memory, with its numbers where `filled`.
void widen(View& v, bool filled);
/// Rounds `from`, float32, into `to`, a bfloat16 view of the same shape.
void narrow(const View& from, const View& to);

}  // namespace mt::binding
