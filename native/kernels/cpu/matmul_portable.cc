// Any machine: vectors of four floats, which compilers turn into SSE or NEON. No fused multiply-add.
#include <cstring>

#include "kernels/cpu/matmul_kernels.h"

#define MT_TARGET
#define MT_INLINE static inline

namespace mt::kernels {
namespace {

#if defined(__GNUC__)
typedef float V4 __attribute__((vector_size(16)));
#else
struct V4 {
  float x[4];
  float& operator[](int i) { return x[i]; }
  V4 operator+(V4 o) const { return {{x[0] + o.x[0], x[1] + o.x[1], x[2] + o.x[2], x[3] + o.x[3]}}; }
  V4 operator*(V4 o) const { return {{x[0] * o.x[0], x[1] * o.x[1], x[2] * o.x[2], x[3] * o.x[3]}}; }
};
#endif

struct Simd {
  using V = V4;
  static constexpr int width = 4, rows = 4;
  MT_INLINE V set(float x) { return V{x, x, x, x}; }
  template <typename T>
  MT_INLINE V load(const T* p) {
    return V{float(p[0]), float(p[1]), float(p[2]), float(p[3])};
  }
  MT_INLINE V load(const float* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  MT_INLINE V load_words(const uint16_t* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  MT_INLINE V join(const uint16_t* low, const uint16_t* high) {
    uint16_t words[8];
    for (int i = 0; i < 4; ++i) words[2 * i] = low[i], words[2 * i + 1] = high[i];
    return load_words(words);
  }
  template <typename Half>
  MT_INLINE V low(const Pair* p, Half h) {
    V v;
    for (int i = 0; i < 4; ++i) h.bits = p[i].low, v[i] = float(h);
    return v;
  }
  template <typename Half>
  MT_INLINE V high(const Pair* p, Half h) {
    V v;
    for (int i = 0; i < 4; ++i) h.bits = p[i].high, v[i] = float(h);
    return v;
  }
  MT_INLINE void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }
  MT_INLINE V load_part(const float* p, int n) {
    V v = set(0);
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
  }
  MT_INLINE void store_part(float* p, V v, int n) {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  MT_INLINE V add(V a, V b) { return a + b; }
  MT_INLINE V fma(V a, V b, V c) { return a * b + c; }
  MT_INLINE void transpose(V* r) {
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < i; ++j) {
        float t = r[i][j];
        r[i][j] = r[j][i];
        r[j][i] = t;
      }
  }
};

}  // namespace
}  // namespace mt::kernels

#include "kernels/cpu/matmul_micro.h"

namespace mt::kernels {
constinit const Level portable = make_level();
}  // namespace mt::kernels
