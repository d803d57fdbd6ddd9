#include "ops/copy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "core/parallel.h"
#include "core/round.h"
#include "core/strides.h"

#include "kernels/cpu/each_isa.h"

namespace mt {

// ---- checks ----

namespace {
bool is_float(DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f16; }
}  // namespace

void check_copy(const View& x, Out y) {
  require_same_shape(y, "y", x, "x");
  require(!is_quantised(x.dtype) && !is_quantised(y.dtype), "x, y: expected dtypes of numbers, but got ",
          name(is_quantised(x.dtype) ? x.dtype : y.dtype), "; dequantize() gives the numbers of a quantised matrix.");
  bool to_integer = y.dtype == DType::i32 || y.dtype == DType::i64;
  bool known = x.dtype == y.dtype || (is_float(x.dtype) ? is_float(y.dtype) : to_integer || y.dtype == DType::f32);
  require(known, "y: expected a dtype that ", name(x.dtype), " can be copied to, but got ", name(y.dtype), ".");
}
void check_fill(double value, ActOut y) {
  require(y.dtype == DType::f32 || y.dtype == DType::i32 || y.dtype == DType::u8,
          "y: expected float32, int32 or uint8, but got ", name(y.dtype), ".");
  double least = y.dtype == DType::u8 ? 0 : -0x1p31, most = y.dtype == DType::u8 ? 255 : 0x1p31 - 1;
  bool fits = y.dtype == DType::f32 || (value == std::floor(value) && value >= least && value <= most);
  require(fits, "value: expected an integer that ", name(y.dtype), " holds, but got ", value, ".");
}
void check_random_uniform(int64_t, int64_t, double low, double high, Out y) {
  require_dense(y, "y");
  require(std::isfinite(low) && std::isfinite(high) && low <= high,
          "low, high: expected two finite numbers in order, but got ", low, " and ", high, ".");
}
void check_random_normal(int64_t, int64_t, double mean, double std, Out y) {
  require_dense(y, "y");
  require(std::isfinite(mean) && std::isfinite(std) && std >= 0,
          "mean, std: expected finite numbers and std >= 0, but got ", mean, " and ", std, ".");
}

// ---- CPU ----

namespace cpu {
namespace {

/// Contiguous numbers.
template <typename A, typename B, typename F>
void stretch(const A* from, B* to, int64_t n, F convert) {
  if constexpr (std::is_same_v<A, B>) std::memcpy(to, from, size_t(n) * sizeof(A));
  else if constexpr (std::is_same_v<A, bf16> && std::is_same_v<B, float>) MT_FOR_ISA(widen_row)(from, to, n);
  else if constexpr (std::is_same_v<A, float> && std::is_same_v<B, bf16>) MT_FOR_ISA(narrow_row)(from, to, n);
  else
    for (int64_t i = 0; i < n; ++i) to[i] = convert(from[i]);
}

template <typename A, typename B, typename F>
void strided(const View& x, const View& y, F convert) {
  if (!x.numel()) return;
  Loop loop(x, y);
  const A* from = x.data<A>();
  B* to = y.data<B>();
  int64_t inner = loop.shape[loop.rank - 1], outer = x.numel() / inner;
  int64_t sf = loop.from[loop.rank - 1], st = loop.to[loop.rank - 1];
  const bool dense = sf == 1 && st == 1;
  if (dense && outer == 1) {
    constexpr int64_t kPiece = 4096;
    return parallel_for(ceil_div(inner, kPiece), kPiece / 4, [&](int64_t begin, int64_t end) {
      stretch(from + begin * kPiece, to + begin * kPiece, std::min(inner, end * kPiece) - begin * kPiece, convert);
    });
  }
  parallel_for(outer, inner, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      int64_t rest = o, a = 0, b = 0;
      for (int d = loop.rank - 2; d >= 0; --d) {
        int64_t i = rest % loop.shape[d];
        rest /= loop.shape[d];
        a += i * loop.from[d];
        b += i * loop.to[d];
      }
      if (dense) stretch(from + a, to + b, inner, convert);
      else
        for (int64_t i = 0; i < inner; ++i) to[b + i * st] = convert(from[a + i * sf]);
    }
  });
}

template <typename A, typename B>
void floats(const View& x, const View& y) {
  strided<A, B>(x, y, [](A v) {
    if constexpr (std::is_same_v<A, B>) return v;
    else return B(float(v));
  });
}
template <typename A>
void from_float(const View& x, const View& y) {
  y.dtype == DType::f32    ? floats<A, float>(x, y)
  : y.dtype == DType::bf16 ? floats<A, bf16>(x, y)
                           : floats<A, f16>(x, y);
}
template <typename A>
void from_integer(const View& x, const View& y) {
  if (y.dtype == DType::i64) return strided<A, int64_t>(x, y, [](A v) { return int64_t(v); });
  if (y.dtype == DType::i32) return strided<A, int32_t>(x, y, [](A v) { return int32_t(v); });
  if (y.dtype == DType::u8) return strided<A, uint8_t>(x, y, [](A v) { return uint8_t(v); });
  strided<A, float>(x, y, [](A v) { return float(v); });
}

struct Four {
  uint32_t v[4];
};

/// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
Four philox(uint64_t counter, uint64_t stream, uint64_t seed) {
  uint32_t c[4] = {uint32_t(counter), uint32_t(counter >> 32), uint32_t(stream), uint32_t(stream >> 32)};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t(0xD2511F53) * c[0], p1 = uint64_t(0xCD9E8D57) * c[2];
    uint32_t n0 = uint32_t(p1 >> 32) ^ c[1] ^ k0, n2 = uint32_t(p0 >> 32) ^ c[3] ^ k1;
    c[0] = n0, c[1] = uint32_t(p1), c[2] = n2, c[3] = uint32_t(p0);
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return {c[0], c[1], c[2], c[3]};
}

/// f(four random words, the elements' numbers) for every group of four elements.
template <typename F>
void generate(int64_t seed, int64_t stream, const View& y, int64_t cost, F f) {
  float* p = y.data<float>();
  int64_t n = y.numel();
  parallel_for((n + 3) / 4, cost, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      float out[4];
      f(philox(uint64_t(g), uint64_t(stream), uint64_t(seed)), out);
      for (int64_t i = g * 4; i < std::min(n, g * 4 + 4); ++i) p[i] = out[i - g * 4];
    }
  });
}

double unit(uint32_t u) { return (double(u >> 8) + 0.5) * 0x1p-24; }  // in (0, 1)

}  // namespace

void copy(const View& x, Out y) {
  switch (x.dtype) {
    case DType::f32: return from_float<float>(x, y);
    case DType::bf16: return from_float<bf16>(x, y);
    case DType::f16: return from_float<f16>(x, y);
    case DType::i64: return from_integer<int64_t>(x, y);
    case DType::i32: return from_integer<int32_t>(x, y);
    case DType::u8: return from_integer<uint8_t>(x, y);
    case DType::i8:
    case DType::nf4: return;  // refused by the check
  }
}

void fill(double value, Out y) {
  // A view of one element, repeated by strides of 0.
  View x = y;
  x.storage = std::make_shared<Storage>(size_of(y.dtype));
  x.storage->ensure();
  x.offset = 0;
  std::fill(x.stride, x.stride + kMaxRank, 0);
  if (y.dtype == DType::f32) *x.data<float>() = float(value);
  else if (y.dtype == DType::i32) *x.data<int32_t>() = int32_t(value);
  else *x.data<uint8_t>() = uint8_t(value);
  copy(x, y);
}

void random_uniform(int64_t seed, int64_t stream, double low, double high, Out y) {
  float last = std::nextafter(float(high), float(low));  // rounding must not reach `high`
  generate(seed, stream, y, 60, [=](Four r, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = std::min(float(low + (high - low) * (double(r.v[i] >> 8) * 0x1p-24)), last);
  });
}
void random_normal(int64_t seed, int64_t stream, double mean, double std, Out y) {
  generate(seed, stream, y, 200, [=](Four r, float* out) {
    for (int i = 0; i < 4; i += 2) {
      double radius = std * std::sqrt(-2.0 * std::log(unit(r.v[i]))), angle = 2.0 * std::numbers::pi * unit(r.v[i + 1]);
      out[i] = float(mean + radius * std::cos(angle));
      out[i + 1] = float(mean + radius * std::sin(angle));
    }
  });
}

}  // namespace cpu
}  // namespace mt
