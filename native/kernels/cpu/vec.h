// A vector of kLanes floats, and the operations of the CPU kernels' inner loops. No include guard: each_isa.h includes
// it once per instruction set, inside that set's namespace.

constexpr int kLanes = MT_LANES;

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
MT_INLINE vec to_float(ivec a) { return __builtin_convertvector(a, vec); }
#else
template <typename T>
struct lanes_of {
  T v[MT_LANES];
  T operator[](int i) const { return v[i]; }
};
using vec = lanes_of<float>;
using ivec = lanes_of<int32_t>;
#define MT_LANEWISE(result, expression)                       \
  {                                                           \
    result r;                                                 \
    for (int i = 0; i < MT_LANES; ++i) r.v[i] = (expression); \
    return r;                                                 \
  }
MT_INLINE vec operator+(vec a, vec b) MT_LANEWISE(vec, a.v[i] + b.v[i]) MT_INLINE vec operator-(vec a, vec b)
    MT_LANEWISE(vec, a.v[i] - b.v[i]) MT_INLINE vec operator*(vec a, vec b)
        MT_LANEWISE(vec, a.v[i] * b.v[i]) MT_INLINE vec operator/(vec a, vec b)
            MT_LANEWISE(vec, a.v[i] / b.v[i]) MT_INLINE ivec operator>(vec a, vec b)
                MT_LANEWISE(ivec, a.v[i] > b.v[i] ? -1 : 0) MT_INLINE ivec operator+(ivec a, ivec b)
                    MT_LANEWISE(ivec, int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]))) MT_INLINE ivec operator&(ivec a,
                                                                                                             ivec b)
                        MT_LANEWISE(ivec, a.v[i] & b.v[i]) MT_INLINE ivec operator!=(ivec a, ivec b)
                            MT_LANEWISE(ivec, a.v[i] != b.v[i] ? -1 : 0) MT_INLINE ivec operator-(ivec a, ivec b)
                                MT_LANEWISE(ivec, int32_t(uint32_t(a.v[i]) -
                                                          uint32_t(b.v[i]))) MT_INLINE ivec operator>>(ivec a, int n)
                                    MT_LANEWISE(ivec, a.v[i] >> n) MT_INLINE ivec operator<<(ivec a, int n)
                                        MT_LANEWISE(ivec, int32_t(uint32_t(a.v[i]) << n)) MT_INLINE vec
    splat(float x) MT_LANEWISE(vec, x) MT_INLINE ivec isplat(int32_t x) MT_LANEWISE(ivec, x) MT_INLINE vec
    select(ivec where, vec yes, vec no) MT_LANEWISE(vec, where.v[i] ? yes.v[i] : no.v[i]) MT_INLINE ivec as_int(vec a) {
  return std::bit_cast<ivec>(a);
}
MT_INLINE vec as_float(ivec a) { return std::bit_cast<vec>(a); }
MT_INLINE ivec add_wrapping(ivec a, ivec b) { return a + b; }
MT_INLINE vec to_float(ivec a) MT_LANEWISE(vec, float(a.v[i]))
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
#elif defined(__ARM_NEON) && defined(__aarch64__) && defined(MT_VECTOR_EXTENSION)
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
#else
  float m = a[0];
  for (int i = 1; i < MT_LANES; ++i) m = a[i] > m ? a[i] : m;
  return m;
#endif
}
