#include "instruments/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/cpu/matmul_kernels.h"
#define MT_EACH_ISA "instruments/ceilings_loops.h"
#include "kernels/cpu/each_isa.h"

#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef MT_X86
#include <cpuid.h>
#endif

namespace mt {
namespace {

constexpr int kPasses = 8;
constexpr int64_t kMultiplyAdds = 1 << 22;     // steps of a pass: a few milliseconds
constexpr size_t kMemory = size_t(192) << 20;  // far more than a core's share of any cache
constexpr size_t kHugePage = size_t(2) << 20;
std::atomic<double> sink;  // receives the loops' results, so that no compiler removes them

/// Runs body(piece) once on every thread, kPasses times; the shortest pass in seconds.
template <typename Body>
double fastest(Body body) {
  double best = 1e9;
  for (int pass = 0; pass < kPasses; ++pass) {
    auto start = std::chrono::steady_clock::now();
    parallel_for(threads(), int64_t(1) << 30, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i);
    });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

/// Memory whose pages were all written once.
class Memory {
 public:
  explicit Memory([[maybe_unused]] bool huge)
      : data_(static_cast<char*>(::operator new(kMemory, std::align_val_t(kHugePage)))) {
#if defined(__linux__) && defined(MADV_NOHUGEPAGE)
    madvise(data_, kMemory, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // a hint; the system may refuse it
#endif
    std::memset(data_, 1, kMemory);
  }
  ~Memory() { ::operator delete(data_, std::align_val_t(kHugePage)); }
  Memory(const Memory&) = delete;
  /// The start of the i-th thread's part; parts are multiples of 4 KiB.
  char* part(int64_t i) const { return data_ + i * bytes(); }
  static int64_t bytes() { return int64_t(kMemory / size_t(threads())) / 4096 * 4096; }

 private:
  char* data_;
};

double float32() {
  const double operations = MT_FOR_ISA(operations)(kMultiplyAdds) * threads();
  return operations / fastest([](int64_t) { sink = MT_FOR_ISA(multiply_adds)(kMultiplyAdds, 0.5f); });
}

double read(bool huge) {
  Memory memory(huge);
  const double bytes = double(memory.bytes()) * threads();
  return bytes / fastest([&](int64_t i) {
           sink = MT_FOR_ISA(read_all)(reinterpret_cast<const int32_t*>(memory.part(i)), memory.bytes() / 4);
         });
}

double copy() {
  Memory from(true), to(true);
  const double bytes = 2.0 * double(from.bytes()) * threads();
  return bytes / fastest([&](int64_t i) { std::memcpy(to.part(i), from.part(i), size_t(from.bytes())); });
}

#ifdef MT_X86
bool has_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return isa() == Isa::avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

constexpr int kSums = 12;
[[gnu::noinline]] __attribute__((target("avx512f,avx512vl,avx512bw,avx512bf16"))) float bf16_products(int64_t steps) {
  __m512 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(float(i));
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(int16_t(0xbf80));  // 1 and -1
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
  }
  for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  float part[16];
  _mm512_storeu_ps(part, sums[0]);
  return part[0] + part[15];
}
double bfloat16() {
  if (!has_bf16()) return 0;
#ifdef MT_AMX
  if (has_bfloat16_tiles()) {
    const int64_t steps = kMultiplyAdds / 16;
    const double operations = 4.0 * 2 * 16 * 16 * 32 * double(steps) * threads();
    return operations / fastest([=](int64_t) { sink = kernels::tile_products(steps); });
  }
#endif
  const double operations = 4.0 * 16 * kSums * double(kMultiplyAdds) * threads();  // two products and two sums a lane
  return operations / fastest([](int64_t) { sink = bf16_products(kMultiplyAdds); });
}
#else
double bfloat16() { return 0; }
#endif

}  // namespace

double ceiling(std::string_view what) {
  if (what == "float32") return float32();
  if (what == "bfloat16") return bfloat16();
  if (what == "read") return read(true);
  if (what == "readSmallPages") return read(false);
  if (what == "copy") return copy();
  throw shape_error(text("name: expected float32, bfloat16, read, readSmallPages or copy, but got \"", what, "\"."));
}

}  // namespace mt
