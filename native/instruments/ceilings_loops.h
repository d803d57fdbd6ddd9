// The loops that ceilings.cc times, once per instruction set: each_isa.h includes this.

constexpr int kChains = 12;  // more than a multiply-add's latency times those begun per cycle; fits 16 registers

/// `steps` multiply-adds of whole vectors on each of kChains sums. The result depends on all of them.
MT_NOINLINE float multiply_adds(int64_t steps, float factor) {
  vec sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = splat(float(i));
  const vec a = splat(factor), b = splat(1 - factor);
  for (int64_t s = 0; s < steps; ++s) {
    sums[0] = fma(sums[0], a, b), sums[1] = fma(sums[1], a, b), sums[2] = fma(sums[2], a, b),
    sums[3] = fma(sums[3], a, b);
    sums[4] = fma(sums[4], a, b), sums[5] = fma(sums[5], a, b), sums[6] = fma(sums[6], a, b),
    sums[7] = fma(sums[7], a, b);
    sums[8] = fma(sums[8], a, b), sums[9] = fma(sums[9], a, b), sums[10] = fma(sums[10], a, b),
    sums[11] = fma(sums[11], a, b);
  }
  vec all = sums[0];
  for (int i = 1; i < kChains; ++i) all = max(all, sums[i]);
  return max(all);
}
MT_NOINLINE double operations(int64_t steps) { return 2.0 * kChains * kLanes * double(steps); }

/// Reads n int32 (a multiple of eight vectors) once. The result depends on all of them.
MT_NOINLINE int32_t read_all(const int32_t* from, int64_t n) {
  ivec a[8];
  for (int i = 0; i < 8; ++i) a[i] = isplat(0);
  for (int64_t i = 0; i < n; i += 8 * kLanes)
    for (int j = 0; j < 8; ++j) a[j] = add_wrapping(a[j], load(from + i + j * kLanes));
  for (int j = 1; j < 8; ++j) a[0] = add_wrapping(a[0], a[j]);
  int32_t part[MT_LANES], all = 0;
  std::memcpy(part, &a[0], sizeof part);
  for (int32_t x : part) all = int32_t(uint32_t(all) + uint32_t(x));
  return all;
}
