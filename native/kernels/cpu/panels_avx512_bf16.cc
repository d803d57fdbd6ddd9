// Panels of pairs of bfloat16 for processors that multiply these: turned out of the packed transpose, or unpacked out
// of a quantised matrix, in registers alone.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/matmul_kernels.h"
#include "kernels/cpu/quantised.h"

#ifdef MT_X86
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own intrinsics' undefined operands
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
namespace mt::panels_of_pairs {
#define MT_LANES 16
#include "kernels/cpu/vec.h"
#undef MT_LANES

namespace {

constexpr int64_t kPanel = 2 * kLanes;  // columns

/// Rounded to bfloat16, all of a before all of b.
MT_INLINE __m512i narrowed(__m512 a, __m512 b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }
/// In each word the number of a and of b that are in its lane.
MT_INLINE __m512i joined(__m512 a, __m512 b) {
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), narrowed(a, b));
}
MT_INLINE __m128i sixteen_bytes(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
MT_INLINE void put(float* to, __m512i words) { _mm512_storeu_si512(to, words); }

// ---- turned ----

/// 8 rows of 16 pairs at `in`, the pair (r, c) of column c's numbers 2r and 2r + 1, become as many of their transpose:
/// at (r, c) there are number c of column 2r and number c of column 2r + 1. Rows of a panel are `at` words behind `in`.
/// A register is gathered from four rows by loads, since these are cheap and shuffles, of which there is one a cycle,
/// are not: two of the transposition's four stages then cost none.
inline void turn_block(const float* in, const int64_t* at, float* out) {
  const __m512i middle = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  const auto gather = [&](int first, int column) {
    const auto part = [&](int r) { return sixteen_bytes(in + at[r] + column); };
    __m512i all = _mm512_castsi128_si512(part(first));
    all = _mm512_inserti32x4(all, part(first + 2), 1);
    all = _mm512_inserti32x4(all, part(first + 4), 2);
    all = _mm512_inserti32x4(all, part(first + 6), 3);
    return _mm512_shuffle_epi8(all, middle);  // of two columns' pairs: the first numbers, then the second ones
  };
  for (int column = 0; column < kLanes; column += 4) {
    const __m512i even = gather(0, column), odd = gather(1, column);
    float* to = out + column / 2 * kPanel;
    _mm512_storeu_si512(to, _mm512_unpacklo_epi64(even, odd));
    _mm512_storeu_si512(to + kPanel, _mm512_unpackhi_epi64(even, odd));
  }
}

void turn(const float* in, int64_t panel, int64_t panels, int64_t rows, float* out) {
  int64_t at[kLanes];
  for (int r = 0; r < kLanes; ++r) at[r] = std::min<int64_t>(r, rows - 1) * kPanel;
  for (int64_t i = 0; i < panels; ++i, in += panel, out += kLanes * kPanel)
    for (int half = 0; half < kPanel; half += kLanes)
      for (int r = 0; r < kLanes; r += kLanes / 2) turn_block(in + half, at + r, out + half / 2 * kPanel + r * 2);
}

// ---- unpacked ----

MT_INLINE __m512 levels() { return _mm512_loadu_ps(kNf4Levels); }
/// What the lowest four bits of each lane stand for.
MT_INLINE __m512 levels_of(__m512 table, __m512i codes) { return _mm512_permutexvar_ps(codes, table); }

/// 64 bytes of each of up to 16 rows, `apart` bytes apart: lane r of to[i] is row r's word i, 0 of rows that are not
/// there.
MT_INLINE void transposed_words(const uint8_t* codes, int64_t apart, int64_t rows, __m512i (&to)[16]) {
  __m512 block[16];
#pragma GCC unroll 16
  for (int64_t r = 0; r < 16; ++r) {
    block[r] = r < rows ? _mm512_loadu_ps(codes + r * apart) : _mm512_setzero_ps();
    if (r < rows) __builtin_prefetch(codes + r * apart + 128, 0, 2);
  }
  transpose(block);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) to[i] = _mm512_castps_si512(block[i]);
}

// ---- rows of the matrix are columns of the panels ----

/// Up to 16 rows' 128 numbers.
void nf4_columns(const Quantised& q, int64_t row, int64_t rows, int64_t col, float* to) {
  alignas(64) float scales[2][16] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t block = ((row + r) * q.width + col) / kBlockElements;
    for (int half = 0; half < 2; ++half) scales[half][r] = kernels::block_scale(q, block + half);
  }
  __m512i words[16];
  transposed_words(q.codes + (row * q.width + col) / 2, q.width / 2, rows, words);
  const __m512 table = levels();
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m512 scale = _mm512_load_ps(scales[half]);
#pragma GCC unroll 8
    for (int i = 8 * half; i < 8 * half + 8; ++i)
#pragma GCC unroll 4
      for (int byte = 0; byte < 4; ++byte) {
        const __m512 first = levels_of(table, _mm512_srli_epi32(words[i], unsigned(8 * byte + 4)));
        const __m512 second = levels_of(table, _mm512_srli_epi32(words[i], unsigned(8 * byte)));
        put(to + (4 * i + byte) * kPanel, joined(first * scale, second * scale));
      }
  }
}

/// The signed byte of that number in each lane.
MT_INLINE __m512 byte_of(__m512i words, int number) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, unsigned(24 - 8 * number)), 24));
}
/// Up to 16 rows' 64 numbers.
void int8_columns(const Quantised& q, int64_t row, int64_t rows, int64_t col, float* to) {
  __m512i words[16];
  transposed_words(q.codes + row * q.width + col, q.width, rows, words);
  const __m512 scale = _mm512_maskz_loadu_ps(__mmask16((1u << rows) - 1), q.scales + row);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i)
#pragma GCC unroll 2
    for (int pair = 0; pair < 2; ++pair)
      put(to + (2 * i + pair) * kPanel,
          joined(byte_of(words[i], 2 * pair) * scale, byte_of(words[i], 2 * pair + 1) * scale));
}

// ---- rows of the matrix are rows of the panels ----

/// 32 numbers of two rows, the second's scale 0 where there is none.
MT_INLINE void nf4_rows(const uint8_t* first, const uint8_t* second, float first_scale, float second_scale, float* to) {
  const __m512 table = levels();
  const __m512i a = _mm512_cvtepu8_epi32(sixteen_bytes(first)), b = _mm512_cvtepu8_epi32(sixteen_bytes(second));
  const __m512 x = _mm512_set1_ps(first_scale), y = _mm512_set1_ps(second_scale);
  // Even numbers are in the upper halves of bytes.
  const __m512i even = narrowed(levels_of(table, _mm512_srli_epi32(a, 4)) * x,
                                levels_of(table, _mm512_srli_epi32(b, 4)) * y);
  const __m512i odd = narrowed(levels_of(table, a) * x, levels_of(table, b) * y);
  alignas(64) static constexpr uint16_t order[2][32] = {
      {0, 16, 32, 48, 1, 17, 33, 49, 2, 18, 34, 50, 3, 19, 35, 51,
       4, 20, 36, 52, 5, 21, 37, 53, 6, 22, 38, 54, 7, 23, 39, 55},
      {8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58, 11, 27, 43, 59,
       12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63}};
  for (int half = 0; half < 2; ++half)
    put(to + half * 16, _mm512_permutex2var_epi16(even, _mm512_load_si512(order[half]), odd));
}
MT_INLINE void int8_rows(const int8_t* first, const int8_t* second, float first_scale, float second_scale, float* to) {
  const __m512 x = _mm512_set1_ps(first_scale), y = _mm512_set1_ps(second_scale);
  for (int i = 0; i < kPanel; i += kLanes)
    put(to + i, joined(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen_bytes(first + i))) * x,
                       _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen_bytes(second + i))) * y));
}

// ---- int8's columns that are kept ----

/// f(number of the column, its numbers' place in a row of those that are kept) for those from col on.
template <typename F>
MT_INLINE void each_kept(const Quantised& q, int64_t col, int64_t n, F f) {
  const int32_t* end = q.columns + q.kept_columns;
  for (const int32_t* c = std::lower_bound(q.columns, end, int32_t(col)); c != end && *c < col + n; ++c)
    f(int64_t(*c), c - q.columns);
}
MT_INLINE bf16& half_of(float* word, int64_t half) { return reinterpret_cast<bf16*>(word)[half]; }

void unpack(const Quantised& q, bool transposed, int64_t row, int64_t rows, int64_t col, int64_t n, float* out,
            int64_t panel) {
  const bool int8 = q.dtype == DType::i8;
  if (transposed) {
    const int64_t step = int8 ? 64 : 128;
    for (int64_t r = 0; r < rows; r += 16) {
      float* to = out + r / kPanel * panel + r % kPanel;
      for (int64_t i = 0; i < n; i += step)
        (int8 ? int8_columns : nf4_columns)(q, row + r, std::min<int64_t>(16, rows - r), col + i, to + i / 2 * kPanel);
    }
    if (int8)
      for (int64_t r = 0; r < rows; ++r)
        each_kept(q, col, n, [&](int64_t c, int64_t place) {
          half_of(out + r / kPanel * panel + (c - col) / 2 * kPanel + r % kPanel,
                  c % 2) = q.kept[(row + r) * q.kept_columns + place];
        });
    return;
  }
  for (int64_t r = 0; r < rows; r += 2) {
    const bool both = r + 1 < rows;
    const int64_t first = (row + r) * q.width + col, second = both ? first + q.width : first;
    float* to = out + r / 2 * kPanel;
    // Rows lie pages apart: hardware does not ask for the next ones by itself.
    const int64_t each = int8 ? 64 : 128;
    for (int64_t i = 0; i < n; i += each)
      for (int64_t later : {first + 16 * q.width, first + 17 * q.width})
        __builtin_prefetch(q.codes + (later + i) * 64 / each, 0, 3);
    for (int64_t i = 0; i < n; i += kPanel) {
      float* words = to + i / kPanel * panel;
      if (int8) {
        const auto* codes = reinterpret_cast<const int8_t*>(q.codes);
        int8_rows(codes + first + i, codes + second + i, q.scales[row + r], both ? q.scales[row + r + 1] : 0, words);
      } else {
        nf4_rows(q.codes + (first + i) / 2, q.codes + (second + i) / 2,
                 kernels::block_scale(q, (first + i) / kBlockElements),
                 both ? kernels::block_scale(q, (second + i) / kBlockElements) : 0, words);
      }
    }
    if (int8)
      each_kept(q, col, n, [&](int64_t c, int64_t place) {
        float* word = to + (c - col) / kPanel * panel + (c - col) % kPanel;
        const bf16* kept = q.kept + (row + r) * q.kept_columns + place;
        half_of(word, 0) = *kept;
        if (both) half_of(word, 1) = kept[q.kept_columns];
      });
  }
}

}  // namespace
}  // namespace mt::panels_of_pairs
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mt::kernels {
void turn_pairs(const float* in, int64_t panel, int64_t panels, int64_t rows, float* out) {
  panels_of_pairs::turn(in, panel, panels, rows, out);
}
void unpack_pairs(const Quantised& q, bool transposed, int64_t row, int64_t rows, int64_t col, int64_t n, float* out,
                  int64_t panel) {
  panels_of_pairs::unpack(q, transposed, row, rows, col, n, out, panel);
}
}  // namespace mt::kernels
#endif
