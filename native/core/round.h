// Whole numbers divided up: for the host, and for kernels.
#pragma once

namespace mt {

/// a / b, rounded up; a >= 0, b > 0.
template <typename A, typename B>
constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}
/// The least multiple of `step` that holds a.
template <typename A, typename B>
constexpr auto round_up(A a, B step) {
  return ceil_div(a, step) * step;
}

}  // namespace mt
