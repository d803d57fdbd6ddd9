// Arguments of an operator that are lists.
#pragma once
#include <vector>

#include "core/view.h"

namespace mt {

/// Any number of tensors, and of tensors that are read and written in place.
struct Views : std::vector<View> {};
struct InOuts : std::vector<View> {};
using Numbers = std::vector<double>;

}  // namespace mt
