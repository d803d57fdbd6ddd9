// Element types. float32 is computed with; 16-bit floats are stored; int64 and float16 are read from files; int8 and
// nf4 are matrices with their scales (core/quantised.h), whose elements have no place of their own. The conversions are
// constexpr, which is what lets nvcc compile them for the device as well.
#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace mt {

enum class DType : uint8_t { f32, bf16, f16, i64, i32, u8, i8, nf4 };

inline constexpr std::string_view dtype_names[] = {"float32", "bfloat16", "float16", "int64",
                                                   "int32",   "uint8",    "int8",    "nf4"};
inline constexpr size_t dtype_sizes[] = {4, 2, 2, 8, 4, 1, 1, 1};

inline std::string_view name(DType t) { return dtype_names[size_t(t)]; }
inline size_t size_of(DType t) { return dtype_sizes[size_t(t)]; }
inline bool is_quantised(DType t) { return t == DType::i8 || t == DType::nf4; }
inline DType dtype_of(std::string_view s) {
  for (size_t i = 0; i < std::size(dtype_names); ++i)
    if (dtype_names[i] == s) return DType(i);
  throw shape_error(
      text("dtype: expected float32, bfloat16, float16, int64, int32, uint8, int8 or nf4, but got \"", s, "\"."));
}

/// The upper half of a float32. Widening is exact; narrowing rounds to nearest, ties to even, and keeps NaN.
struct bf16 {
  uint16_t bits;
  bf16() = default;
  constexpr explicit bf16(float x) : bits() {
    uint32_t u = std::bit_cast<uint32_t>(x);
    bits = x != x ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  constexpr explicit operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

/// IEEE binary16. Widening is exact; narrowing rounds to nearest, ties to even.
struct f16 {
  uint16_t bits;
  f16() = default;
  constexpr explicit f16(float x) : bits() {
    uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000) {
      bits = uint16_t(sign | 0x7e00);
      return;
    }
    if (a >= 0x477ff000) {
      bits = uint16_t(sign | 0x7c00);
      return;
    }  // rounds past 65504
    if (a < 0x38800000) {  // subnormal in half: let float addition round
      float magic = std::bit_cast<float>(a) + 0.5f;
      bits = uint16_t(sign | (std::bit_cast<uint32_t>(magic) - 0x3f000000));
      return;
    }
    bits = uint16_t(sign | ((a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13));
  }
  constexpr explicit operator float() const {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, e = (bits >> 10) & 31, m = bits & 0x3ff;
    if (e == 0) {
      float v = float(m) * 0x1p-24f;
      return sign ? -v : v;
    }
    return std::bit_cast<float>(sign | (e == 31 ? 0x7f800000 | (m << 13) : ((e + 112) << 23) | (m << 13)));
  }
};

template <typename T> struct dtype_for;
template <> struct dtype_for<float> {
  static constexpr DType value = DType::f32;
};
template <> struct dtype_for<bf16> {
  static constexpr DType value = DType::bf16;
};
template <> struct dtype_for<f16> {
  static constexpr DType value = DType::f16;
};
template <> struct dtype_for<int64_t> {
  static constexpr DType value = DType::i64;
};
template <> struct dtype_for<int32_t> {
  static constexpr DType value = DType::i32;
};
template <> struct dtype_for<uint8_t> {
  static constexpr DType value = DType::u8;
};

}  // namespace mt
