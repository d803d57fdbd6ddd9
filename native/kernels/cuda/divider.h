// Division by a divisor that is known before a kernel starts. Plain C++, so that a test checks it on the host.
#pragma once
#include <bit>
#include <cstdint>

namespace mt::cuda {

/// Whether indices below n fit the 32-bit path: Divider<uint32_t> divides numbers below 2^31.
constexpr bool short_index(int64_t n) { return n < int64_t(1) << 31; }

template <typename I>
struct Divider;

/// For numbers below 2^31 a division is a multiplication and a shift (Granlund and Montgomery, 1994):
///   s = ⌈log2 d⌉
///   magic = ⌊2^32·(2^s − d) / d⌋ + 1
///   n / d = (n + ⌊n·magic / 2^32⌋) / 2^s
template <>
struct Divider<uint32_t> {
  uint32_t divisor = 1, magic = 1, shift = 0;
  Divider() = default;
  /// d: 1 to 2^31.
  constexpr explicit Divider(int64_t d)
      : divisor(uint32_t(d)), magic(), shift(uint32_t(std::bit_width(uint64_t(d) - 1))) {
    magic = uint32_t((((uint64_t(1) << shift) - divisor) << 32) / divisor + 1);
  }
  constexpr uint32_t quotient(uint32_t n) const { return (n + uint32_t(uint64_t(n) * magic >> 32)) >> shift; }
  constexpr uint32_t remainder(uint32_t n) const { return n - quotient(n) * divisor; }
};

/// For larger numbers.
template <>
struct Divider<int64_t> {
  int64_t divisor = 1;
  Divider() = default;
  constexpr explicit Divider(int64_t d) : divisor(d) {}
  constexpr int64_t quotient(int64_t n) const { return n / divisor; }
  constexpr int64_t remainder(int64_t n) const { return n % divisor; }
};

}  // namespace mt::cuda
