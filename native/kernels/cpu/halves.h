// Rows of bfloat16 to float32 and back; included by each_isa.h. Loops that compilers turn into vectors.

inline void widen_row(const bf16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = float(from[i]);
}
inline void narrow_row(const float* from, bf16* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = bf16(from[i]);
}
/// to += from
inline void add_wide(const bf16* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += float(from[i]);
}
