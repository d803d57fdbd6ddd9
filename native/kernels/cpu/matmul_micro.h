// Packing and dot products, and the Level that collects all kernels of an instruction set; included by each_isa.h.

#include "kernels/cpu/matmul_tile.h"

namespace {

using kernels::kDotColumns;
using kernels::kDotRows;
using kernels::Kind;
using kernels::Level;

// ---- pack ----

/// One vector of a row: the elements from i on, of which `valid` exist.
template <typename T>
inline vec row_part(const T* in, int valid) {
  if (valid == kLanes) return load(in);
  if constexpr (std::is_same_v<T, float>) {
    return load_part(in, valid);
  } else {
    T part[kLanes] = {};
    std::memcpy(part, in, size_t(valid) * sizeof(T));
    return load(part);
  }
}

template <typename T>
void pack(const void* from, int64_t across, int64_t along, int64_t n, int64_t k, float* out, int64_t ld,
          int64_t panel) {
  const T* in = static_cast<const T*>(from);
  if (across == 1) {  // row by row, through all panels: long reads
    for (int64_t x = 0; x < k; ++x) {
      const T* later = in + (x + 8 < k ? x + 8 : x) * along;
      for (int64_t i = 0; i < n; i += kLanes) {
        ahead(later + i);
        store(out + i / ld * panel + x * ld + i % ld,
              row_part(in + x * along + i, int(n - i < kLanes ? n - i : kLanes)));
      }
    }
    return;
  }
  for (int64_t i = 0; i < n; i += kLanes) {
    int valid = int(n - i < kLanes ? n - i : kLanes);
    float* to = out + i / ld * panel + i % ld;
    // What is packed next: the following rows, and in the end the first ones of the block behind.
    int64_t x = 0, later = i + 2 * kLanes <= n ? kLanes * across : k - i * across;
    if (along == 1) {
      for (; x + kLanes <= k; x += kLanes) {
        vec block[kLanes];
        for (int r = 0; r < kLanes; ++r) {
          block[r] = r < valid ? load(in + (i + r) * across + x) : splat(0);
          ahead(in + (i + (r < valid ? r : 0)) * across + x + later);
        }
        transpose(block);
        for (int r = 0; r < kLanes; ++r) store(to + (x + r) * ld, block[r]);
      }
    }
    int64_t fill = ld < kLanes ? ld : kLanes;
    for (; x < k; ++x)
      for (int64_t r = 0; r < fill; ++r) to[x * ld + r] = r < valid ? float(in[(i + r) * across + x * along]) : 0.0f;
  }
}

/// Pairs of rows of the matrix are joined word by word; where a pair lies side by side its word is moved as it is.
inline vec pair_part(const uint16_t* low, const uint16_t* high, int valid) {
  uint16_t part[2][kLanes] = {};
  if (valid < kLanes || !high) {
    std::memcpy(part[0], low, size_t(valid) * 2);
    if (high) std::memcpy(part[1], high, size_t(valid) * 2);
    low = part[0];
    high = part[1];
  }
  return as_float(words(low) | words(high) << 16);
}
inline float word_at(const uint16_t* low, const uint16_t* high) {
  uint32_t word = *low | (high ? uint32_t(*high) << 16 : 0);
  float out;
  std::memcpy(&out, &word, sizeof out);
  return out;
}

void pack_pairs(const void* from, int64_t across, int64_t along, int64_t n, int64_t k, float* out, int64_t ld,
                int64_t panel) {
  const auto* in = static_cast<const uint16_t*>(from);
  if (across == 1) {
    for (int64_t x = 0; x < k; x += 2) {
      const uint16_t *low = in + x * along, *high = x + 1 < k ? low + along : nullptr,
                     *later = in + (x + 16 < k ? x + 16 : x) * along;
      for (int64_t i = 0; i < n; i += kLanes) {
        ahead(later + i);
        ahead(later + i + (high ? along : 0));
        store(out + i / ld * panel + x / 2 * ld + i % ld,
              pair_part(low + i, high ? high + i : nullptr, int(n - i < kLanes ? n - i : kLanes)));
      }
    }
    return;
  }
  for (int64_t i = 0; i < n; i += kLanes) {
    int valid = int(n - i < kLanes ? n - i : kLanes);
    float* to = out + i / ld * panel + i % ld;
    // What is packed next: the following rows, and in the end the first ones of the block behind.
    int64_t x = 0, later = i + 2 * kLanes <= n ? kLanes * across : k - i * across;
    if (along == 1) {
      for (; x + 2 * kLanes <= k; x += 2 * kLanes) {
        vec block[kLanes];
        for (int r = 0; r < kLanes; ++r) {
          block[r] = r < valid ? load(reinterpret_cast<const float*>(in + (i + r) * across + x)) : splat(0);
          ahead(in + (i + (r < valid ? r : 0)) * across + x + later);
        }
        transpose(block);
        for (int r = 0; r < kLanes; ++r) store(to + (x / 2 + r) * ld, block[r]);
      }
    }
    int64_t fill = ld < kLanes ? ld : kLanes;
    for (; x < k; x += 2)
      for (int64_t r = 0; r < fill; ++r) {
        const uint16_t* low = in + (i + r) * across + x * along;
        to[x / 2 * ld + r] = r < valid ? word_at(low, x + 1 < k ? low + along : nullptr) : 0.0f;
      }
  }
}

// ---- turn ----

void turn(const float* in, int64_t panel, int64_t panels, int64_t rows, float* out) {
  constexpr int kPanel = 2 * kLanes;
  for (int64_t i = 0; i < panels; ++i, in += panel, out += kPanel * kPanel)
    for (int r = 0; r < kPanel; r += kLanes)
      for (int c = 0; c < kPanel; c += kLanes) {
        vec block[kLanes];
        for (int64_t t = 0; t < kLanes; ++t) block[t] = load(in + std::min(r + t, rows - 1) * kPanel + c);
        transpose(block);
        for (int t = 0; t < kLanes; ++t) store(out + (c + t) * kPanel + r, block[t]);
      }
}

// ---- dot: few rows against a right factor that is read once, as it lies ----

template <typename T, int R, int C>
void dot(int64_t k, const float* a, int64_t lda, const void* from, int64_t ldb, const void* next, float* sums) {
  const T *b = static_cast<const T*>(from), *later = static_cast<const T*>(next);
  vec sum[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) sum[i][j] = splat(0);
  constexpr int64_t kLine = 64 / sizeof(T);
  int64_t x = 0;
  for (; x + kLanes <= k; x += kLanes) {
    vec right[C];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) right[j] = load(b + j * ldb + x);
    // The columns that follow lie behind each other: asked for in that order they arrive faster than in four streams.
    for (int64_t i = 0; i < C * kLanes; i += kLine) prefetch_panel(later + C * x + i);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      vec left = load(a + i * lda + x);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) sum[i][j] = fma(left, right[j], sum[i][j]);
    }
  }
  if (x < k) {
    size_t rest = size_t(k - x);
    vec right[C];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) {
      T part[kLanes] = {};
      std::memcpy(part, b + j * ldb + x, rest * sizeof(T));
      right[j] = load(part);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      float part[kLanes] = {};
      std::memcpy(part, a + i * lda + x, rest * sizeof(float));
      vec left = load(part);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) sum[i][j] = fma(left, right[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) {
      float part[kLanes];
      store(part, sum[i][j]);
      for (int half = kLanes / 2; half; half /= 2)
        for (int w = 0; w < half; ++w) part[w] += part[w + half];
      sums[i * C + j] = part[0];
    }
}

// ---- the tables ----

template <typename T, int R>
constexpr void fill_dots(Level& l) {
  if constexpr (R > 0) {
    l.dot[size_t(dtype_for<T>::value)][0][R - 1] = dot<T, R, 1>;
    l.dot[size_t(dtype_for<T>::value)][1][R - 1] = dot<T, R, kDotColumns>;
    fill_dots<T, R - 1>(l);
  }
}
constexpr Level make_level() {
  static_assert(kTileRows <= kMaxRows && int(DType::f32) == 0 && int(DType::bf16) == 1 && int(DType::f16) == 2);
  Level l{kTileRows,
          2 * kLanes,
          kLanes,
          0,
          {},
          {one_row<Words<Fma>>, one_row<Pairs<bf16>>, one_row<Pairs<f16>>},
          {pack<float>, pack<bf16>, pack<f16>},
          pack_pairs,
          {},
          {},
          {turn}};
  fill_tiles<Words<Fma>, kTileRows>(l.tile[int(Kind::f32)]);
  fill_tiles<Pairs<bf16>, kTileRows>(l.tile[int(Kind::bf16)]);
  fill_tiles<Pairs<f16>, kTileRows>(l.tile[int(Kind::f16)]);
  fill_dots<float, kDotRows>(l);
  fill_dots<bf16, kDotRows>(l);
  fill_dots<f16, kDotRows>(l);
  return l;
}

constinit const Level matmul_level = make_level();

}  // namespace
