// Which instruction set this machine runs: asked once. MT_CPU = portable, avx2 or avx512 (on ARM portable or neon) asks
// for less than there is.
#pragma once
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(MT_NO_VECTOR_EXTENSION)
#define MT_VECTOR_EXTENSION
#define MT_INLINE [[gnu::always_inline]] static inline
#define MT_NOINLINE [[gnu::noinline]]
#if defined(__x86_64__)
#define MT_X86
#include <immintrin.h>
#if defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define MT_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define MT_NEON
#include <arm_neon.h>
#endif
#else
#define MT_INLINE static inline
#define MT_NOINLINE
#endif

namespace mt {

/// From the least on. Every ARM processor of 64 bits has NEON, no other has it.
enum class Isa { portable, neon, avx2, avx512 };

inline const char* name_of(Isa isa) {
  constexpr const char* names[] = {"portable", "neon", "avx2", "avx512"};
  return names[int(isa)];
}

inline Isa isa() {
  static const Isa found = [] {
    Isa best = Isa::portable;
#ifdef MT_NEON
    best = Isa::neon;
    constexpr const char* expected = "neon or portable";
    constexpr Isa known[] = {Isa::neon, Isa::portable};
#elif defined(MT_X86)
    constexpr const char* expected = "avx512, avx2 or portable";
    constexpr Isa known[] = {Isa::avx512, Isa::avx2, Isa::portable};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
      best = Isa::avx2;
    if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
      best = Isa::avx512;
#else
    constexpr const char* expected = "portable";
    constexpr Isa known[] = {Isa::portable};
#endif
    const char* asked = std::getenv("MT_CPU");
    if (!asked || !*asked) return best;
    for (Isa one : known)
      if (std::strcmp(asked, name_of(one)) == 0) return one < best ? one : best;
    throw std::runtime_error("MT_CPU: expected " + std::string(expected) + ", but got \"" + asked + "\"");
  }();
  return found;
}

/// Whether an instruction of AVX-512 multiplies pairs of bfloat16 and adds the products.
inline bool has_bfloat16_dots() {
#ifdef MT_X86
  return isa() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

/// Whether AMX multiplies tiles of such pairs, and the system lends their registers, for which it has to be asked.
/// MT_CPU=avx512 is without.
inline bool has_bfloat16_tiles() {
#ifdef MT_AMX
  static const bool found = [] {
    constexpr long kRequestRegisters = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    unsigned a = 0, b = 0, c = 0, d = 0;
    const char* asked = std::getenv("MT_CPU");
    if (!has_bfloat16_dots() || (asked && *asked)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    return ::syscall(SYS_arch_prctl, kRequestRegisters, kTileData) == 0;
  }();
  return found;
#else
  return false;
#endif
}

}  // namespace mt
