// AVX-512 (F alone): tiles of 14 by 32. The including file says for which instructions it compiles, in MT_INLINE.
#pragma once
#include <immintrin.h>

#include "kernels/cpu/matmul_kernels.h"

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own intrinsics' undefined operands
#endif

namespace mt::kernels {
namespace {

struct Simd {
  using V = __m512;
  static constexpr int width = 16, rows = 14;
  MT_INLINE V set(float x) { return _mm512_set1_ps(x); }
  MT_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
  MT_INLINE V load(const bf16* p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  MT_INLINE V load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  MT_INLINE V load_words(const uint16_t* p) { return _mm512_loadu_ps(p); }
  MT_INLINE V join(const uint16_t* low, const uint16_t* high) {
    __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low)));
    __m512i b = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)));
    return _mm512_castsi512_ps(_mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
  }
  MT_INLINE V low(const Pair* p, bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
  MT_INLINE V high(const Pair* p, bf16) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(int(0xffff0000))));
  }
  MT_INLINE V low(const Pair* p, f16) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_loadu_si512(p))); }
  MT_INLINE V high(const Pair* p, f16) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_loadu_si512(p), 16)));
  }
  MT_INLINE V load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p); }
  MT_INLINE void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  MT_INLINE void store_part(float* p, V v, int n) { _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), v); }
  MT_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
  MT_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  /// 4 by 4 within the 128-bit lanes, then the lanes.
  MT_INLINE void transpose(V* r) {
    for (int i = 0; i < 16; i += 4) {
      V a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
      V c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
      r[i] = _mm512_shuffle_ps(a, c, 0x44);
      r[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
      r[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
      r[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      V a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
      V c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88), d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
      r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
      r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
  }
};

}  // namespace
}  // namespace mt::kernels
