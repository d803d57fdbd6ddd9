// What both backends' attention knows of routing.
#pragma once

namespace mt {

inline constexpr int kMostChoices = 8;  // masks of a set: bits of a byte

}  // namespace mt
