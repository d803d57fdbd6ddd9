// The AVX-512 level.
#include "kernels/cpu/matmul_kernels.h"

#ifdef MT_X86
#define MT_TARGET __attribute__((target("avx512f")))
#define MT_INLINE __attribute__((target("avx512f"), always_inline)) static inline

#include "kernels/cpu/matmul_avx512.h"
#include "kernels/cpu/matmul_micro.h"

namespace mt::kernels {
constinit const Level avx512 = make_level();
}  // namespace mt::kernels
#endif
