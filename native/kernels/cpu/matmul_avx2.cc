// AVX2 with FMA and F16C: tiles of 6 by 16.
#include "kernels/cpu/matmul_kernels.h"

#ifdef MT_X86
#include <immintrin.h>

#define MT_TARGET __attribute__((target("avx2,fma,f16c")))
#define MT_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) static inline

namespace mt::kernels {
namespace {

struct Simd {
  using V = __m256;
  static constexpr int width = 8, rows = 6;
  MT_INLINE V set(float x) { return _mm256_set1_ps(x); }
  MT_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
  MT_INLINE V load(const bf16* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  MT_INLINE V load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  MT_INLINE V load_words(const uint16_t* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  MT_INLINE V join(const uint16_t* low, const uint16_t* high) {
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
    __m256i b = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(high)));
    return _mm256_castsi256_ps(_mm256_or_si256(a, _mm256_slli_epi32(b, 16)));
  }
  MT_INLINE __m256i words(const Pair* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  /// Words below 2^16 as float16: narrowed within the lanes, then the lanes put beside each other.
  MT_INLINE V widened(__m256i w) {
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(w, w), 0xd8)));
  }
  MT_INLINE V low(const Pair* p, bf16) { return _mm256_castsi256_ps(_mm256_slli_epi32(words(p), 16)); }
  MT_INLINE V high(const Pair* p, bf16) {
    return _mm256_castsi256_ps(_mm256_and_si256(words(p), _mm256_set1_epi32(int(0xffff0000))));
  }
  MT_INLINE V low(const Pair* p, f16) { return widened(_mm256_and_si256(words(p), _mm256_set1_epi32(0xffff))); }
  MT_INLINE V high(const Pair* p, f16) { return widened(_mm256_srli_epi32(words(p), 16)); }
  MT_INLINE __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  MT_INLINE V load_part(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  MT_INLINE void store(float* p, V v) { _mm256_storeu_ps(p, v); }
  MT_INLINE void store_part(float* p, V v, int n) { _mm256_maskstore_ps(p, first(n), v); }
  MT_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
  MT_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  /// 4 by 4 within the 128-bit lanes, then the lanes.
  MT_INLINE void transpose(V* r) {
    for (int i = 0; i < 8; i += 4) {
      V a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
      V c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
      r[i] = _mm256_shuffle_ps(a, c, 0x44);
      r[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      r[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      r[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      V a = r[i], b = r[i + 4];
      r[i] = _mm256_permute2f128_ps(a, b, 0x20);
      r[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
    }
  }
};

}  // namespace
}  // namespace mt::kernels

#include "kernels/cpu/matmul_micro.h"

namespace mt::kernels {
constinit const Level avx2 = make_level();
}  // namespace mt::kernels
#endif
