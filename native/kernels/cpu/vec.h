// A vector of kLanes floats, and the operations of the CPU kernels' inner loops. No include guard: it is included once
// per instruction set, inside that set's namespace.

constexpr int kLanes = MT_LANES;
/// Vector registers.
#if MT_LANES == 16 || defined(MT_WITH_NEON)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

#ifdef MT_VECTOR_EXTENSION
typedef float vec __attribute__((vector_size(MT_LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(MT_LANES * 4)));
MT_INLINE vec splat(float x) { return x - vec{}; }
MT_INLINE ivec isplat(int32_t x) { return x - ivec{}; }
MT_INLINE vec select(ivec where, vec yes, vec no) { return where ? yes : no; }
MT_INLINE ivec as_int(vec a) { return (ivec)a; }
MT_INLINE vec as_float(ivec a) { return (vec)a; }
typedef uint32_t uvec __attribute__((vector_size(MT_LANES * 4)));
MT_INLINE ivec add_wrapping(ivec a, ivec b) { return (ivec)((uvec)a + (uvec)b); }
/// Zeros come in from the left.
MT_INLINE ivec shift_right(ivec a, int n) { return (ivec)((uvec)a >> n); }
MT_INLINE vec to_float(ivec a) { return __builtin_convertvector(a, vec); }
#else
template <typename T>
struct lanes_of {
  T v[MT_LANES];
  T operator[](int i) const { return v[i]; }
  T& operator[](int i) { return v[i]; }
};
using vec = lanes_of<float>;
using ivec = lanes_of<int32_t>;
#define MT_LANEWISE(result, function, expression)             \
  MT_INLINE result function {                                 \
    result r;                                                 \
    for (int i = 0; i < MT_LANES; ++i) r.v[i] = (expression); \
    return r;                                                 \
  }
// clang-format off
MT_LANEWISE(vec, operator+(vec a, vec b), a.v[i] + b.v[i])
MT_LANEWISE(vec, operator-(vec a, vec b), a.v[i] - b.v[i])
MT_LANEWISE(vec, operator*(vec a, vec b), a.v[i] * b.v[i])
MT_LANEWISE(vec, operator/(vec a, vec b), a.v[i] / b.v[i])
MT_LANEWISE(ivec, operator>(vec a, vec b), a.v[i] > b.v[i] ? -1 : 0)
MT_LANEWISE(ivec, operator+(ivec a, ivec b), int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i])))
MT_LANEWISE(ivec, operator-(ivec a, ivec b), int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i])))
MT_LANEWISE(ivec, operator&(ivec a, ivec b), a.v[i] & b.v[i])
MT_LANEWISE(ivec, operator|(ivec a, ivec b), a.v[i] | b.v[i])
MT_LANEWISE(ivec, operator!=(ivec a, ivec b), a.v[i] != b.v[i] ? -1 : 0)
MT_LANEWISE(ivec, operator>>(ivec a, int n), a.v[i] >> n)
MT_LANEWISE(ivec, shift_right(ivec a, int n), int32_t(uint32_t(a.v[i]) >> n))
MT_LANEWISE(ivec, operator<<(ivec a, int n), int32_t(uint32_t(a.v[i]) << n))
MT_LANEWISE(vec, splat(float x), x)
MT_LANEWISE(ivec, isplat(int32_t x), x)
MT_LANEWISE(vec, select(ivec where, vec yes, vec no), where.v[i] ? yes.v[i] : no.v[i])
MT_LANEWISE(vec, to_float(ivec a), float(a.v[i]))
// clang-format on
MT_INLINE ivec as_int(vec a) { return std::bit_cast<ivec>(a); }
MT_INLINE vec as_float(ivec a) { return std::bit_cast<vec>(a); }
MT_INLINE ivec add_wrapping(ivec a, ivec b) { return a + b; }
#undef MT_LANEWISE
#endif

MT_INLINE vec load(const float* p) {
  vec a;
  std::memcpy(&a, p, sizeof a);
  return a;
}
MT_INLINE ivec load(const int32_t* p) {
  ivec a;
  std::memcpy(&a, p, sizeof a);
  return a;
}
MT_INLINE void store(float* p, vec a) { std::memcpy(p, &a, sizeof a); }

#if MT_LANES == 8
/// All bits of the first n lanes.
MT_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif
/// The first n < kLanes numbers, zeros after them.
MT_INLINE vec load_part(const float* p, int n) {
#if MT_LANES == 16
  return (vec)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#elif MT_LANES == 8
  return (vec)_mm256_maskload_ps(p, first_lanes(n));
#else
  vec a = splat(0);
  for (int i = 0; i < n; ++i) a[i] = p[i];
  return a;
#endif
}
MT_INLINE void store_part(float* p, vec a, int n) {
#if MT_LANES == 16
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)a);
#elif MT_LANES == 8
  _mm256_maskstore_ps(p, first_lanes(n), (__m256)a);
#else
  for (int i = 0; i < n; ++i) p[i] = a[i];
#endif
}

// ---- 16-bit numbers ----

/// kLanes 16-bit numbers as words.
MT_INLINE ivec words(const void* p) {
#if MT_LANES == 16
  return (ivec)_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
#elif MT_LANES == 8
  return (ivec)_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
#elif defined(MT_VECTOR_EXTENSION)
  typedef uint16_t hvec __attribute__((vector_size(MT_LANES * 2)));
  hvec a;
  std::memcpy(&a, p, sizeof a);
  return __builtin_convertvector(a, ivec);
#else
  uint16_t part[MT_LANES];
  std::memcpy(part, p, sizeof part);
  ivec a;
  for (int i = 0; i < MT_LANES; ++i) a[i] = part[i];
  return a;
#endif
}
/// The lower halves of words, as float16.
MT_INLINE vec widen_f16(ivec a) {
#if MT_LANES == 16
  return (vec)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)a));
#elif MT_LANES == 8
  // Narrowed within the 128-bit lanes, where words above 2^16 would saturate, then the lanes put side by side.
  const __m256i narrow = _mm256_packus_epi32((__m256i)a, (__m256i)a);
  return (vec)_mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(narrow, 0xd8)));
#elif defined(MT_WITH_NEON)
  return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32((uint32x4_t)a)));
#else
  vec b;
  for (int i = 0; i < MT_LANES; ++i) b[i] = float(std::bit_cast<f16>(uint16_t(a[i])));
  return b;
#endif
}
MT_INLINE vec load(const bf16* p) { return as_float(words(p) << 16); }
MT_INLINE vec load(const f16* p) {
#if MT_LANES == 16
  return (vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif MT_LANES == 8
  return (vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(MT_WITH_NEON)
  return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
#else
  vec a;
  for (int i = 0; i < MT_LANES; ++i) a[i] = float(p[i]);
  return a;
#endif
}
/// The lower and the upper halves of words, widened.
MT_INLINE vec low(ivec a, bf16) { return as_float(a << 16); }
MT_INLINE vec high(ivec a, bf16) { return as_float(a & isplat(int32_t(0xffff0000))); }
MT_INLINE vec low(ivec a, f16) { return widen_f16(kLanes == 8 ? a & isplat(0xffff) : a); }
MT_INLINE vec high(ivec a, f16) { return widen_f16(shift_right(a, 16)); }

/// If one of them is NaN: b.
MT_INLINE vec max(vec a, vec b) {
#if MT_LANES == 16
  return (vec)_mm512_mask_max_ps((__m512)a, 0xffff, (__m512)a,
                                 (__m512)b);  // without a mask GCC 12 warns of an operand of its own
#elif MT_LANES == 8
  return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return select(a > b, a, b);
#endif
}

/// a·b + c: one rounding where the instruction set has it, two elsewhere.
MT_INLINE vec fma(vec a, vec b, vec c) {
#if MT_LANES == 16
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif MT_LANES == 8
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(MT_WITH_NEON)
  return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// Lanes are joined by halves: a fixed order.
MT_INLINE float sum(vec a) {
#ifdef MT_X86
#if MT_LANES == 16
  __m256 half[2];
  std::memcpy(half, &a, sizeof a);
  __m256 b = _mm256_add_ps(half[0], half[1]);
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
#elif MT_LANES == 8
  __m128 c = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
#else
  __m128 c = (__m128)a;
#endif
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
#elif defined(MT_WITH_NEON)
  const float32x2_t b = vadd_f32(vget_low_f32((float32x4_t)a), vget_high_f32((float32x4_t)a));
  return vget_lane_f32(vpadd_f32(b, b), 0);
#else
  float part[MT_LANES];
  std::memcpy(part, &a, sizeof part);
  for (int half = MT_LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
#endif
}
MT_INLINE float max(vec a) {
#ifdef MT_X86
#if MT_LANES == 16
  __m256 half[2];
  std::memcpy(half, &a, sizeof a);
  __m256 b = _mm256_max_ps(half[0], half[1]);
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
#elif MT_LANES == 8
  __m128 c = _mm_max_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
#else
  __m128 c = (__m128)a;
#endif
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
#elif defined(MT_WITH_NEON)
  return vmaxnmvq_f32((float32x4_t)a);
#else
  float m = a[0];
  for (int i = 1; i < MT_LANES; ++i) m = a[i] > m ? a[i] : m;
  return m;
#endif
}

// ---- transposes ----

#if defined(MT_WITH_NEON) || defined(MT_X86)
#ifdef MT_WITH_NEON
/// Four numbers in a register.
using four = vec;
MT_INLINE four unpack_low(four a, four b) { return (four)vzip1q_f32((float32x4_t)a, (float32x4_t)b); }
MT_INLINE four unpack_high(four a, four b) { return (four)vzip2q_f32((float32x4_t)a, (float32x4_t)b); }
/// 0x44 puts the lower halves side by side, 0xee the upper ones.
template <int picks>
MT_INLINE four shuffle(four a, four b) {
  return (four)(picks == 0x44 ? vzip1q_f64((float64x2_t)a, (float64x2_t)b)
                              : vzip2q_f64((float64x2_t)a, (float64x2_t)b));
}
#else  // vec is one of these registers
using four = __m128;
MT_INLINE __m128 unpack_low(__m128 a, __m128 b) { return _mm_unpacklo_ps(a, b); }
MT_INLINE __m128 unpack_high(__m128 a, __m128 b) { return _mm_unpackhi_ps(a, b); }
template <int picks>
MT_INLINE __m128 shuffle(__m128 a, __m128 b) {
  return _mm_shuffle_ps(a, b, picks);
}
#if MT_LANES >= 8
MT_INLINE __m256 unpack_low(__m256 a, __m256 b) { return _mm256_unpacklo_ps(a, b); }
MT_INLINE __m256 unpack_high(__m256 a, __m256 b) { return _mm256_unpackhi_ps(a, b); }
template <int picks>
MT_INLINE __m256 shuffle(__m256 a, __m256 b) {
  return _mm256_shuffle_ps(a, b, picks);
}
#endif
#if MT_LANES == 16
MT_INLINE __m512 unpack_low(__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b); }
MT_INLINE __m512 unpack_high(__m512 a, __m512 b) { return _mm512_unpackhi_ps(a, b); }
template <int picks>
MT_INLINE __m512 shuffle(__m512 a, __m512 b) {
  return _mm512_shuffle_ps(a, b, picks);
}
#endif
#endif
/// Transposes 4×4 blocks: four registers each, within their 128-bit lanes.
template <int n, typename R>
MT_INLINE void transpose_fours(R* r) {
  for (int i = 0; i < n; i += 4) {
    const R a = unpack_low(r[i], r[i + 1]), b = unpack_high(r[i], r[i + 1]);
    const R c = unpack_low(r[i + 2], r[i + 3]), d = unpack_high(r[i + 2], r[i + 3]);
    r[i] = shuffle<0x44>(a, c);
    r[i + 1] = shuffle<0xee>(a, c);
    r[i + 2] = shuffle<0x44>(b, d);
    r[i + 3] = shuffle<0xee>(b, d);
  }
}
/// Transposes as many registers as one has numbers.
MT_INLINE void transpose(four* r) { transpose_fours<4>(r); }
#if MT_LANES >= 8
MT_INLINE void transpose(__m256* r) {
  transpose_fours<8>(r);
  for (int i = 0; i < 4; ++i) {
    const __m256 a = r[i], b = r[i + 4];
    r[i] = _mm256_permute2f128_ps(a, b, 0x20);
    r[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
  }
}
#endif
#if MT_LANES == 16
MT_INLINE void transpose(__m512* r) {
  transpose_fours<16>(r);
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88),
                 d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    r[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
    r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}
#endif
#else
MT_INLINE void transpose(vec* r) {
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < i; ++j) {
      const float a = r[i][j];
      r[i][j] = r[j][i];
      r[j][i] = a;
    }
}
#endif
