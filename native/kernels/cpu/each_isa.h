// Compiles vec.h, exp.h and halves.h for every instruction set of the machine at hand, each in its own namespace, and
// one more header where MT_EACH_ISA is defined as its name: that finds them around it and includes nothing but headers
// of its kind.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/dtype.h"
#include "kernels/cpu/isa.h"

namespace mt::portable {
#define MT_LANES 4
#include "kernels/cpu/vec.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/halves.h"
#ifdef MT_EACH_ISA
#include MT_EACH_ISA
#endif
#undef MT_LANES
}  // namespace mt::portable

#ifdef MT_NEON

namespace mt::neon {
#define MT_LANES 4
#define MT_WITH_NEON
#include "kernels/cpu/vec.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/halves.h"
#ifdef MT_EACH_ISA
#include MT_EACH_ISA
#endif
#undef MT_WITH_NEON
#undef MT_LANES
}  // namespace mt::neon

#elif defined(MT_X86)

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace mt::avx2 {
#define MT_LANES 8
#include "kernels/cpu/vec.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/halves.h"
#ifdef MT_EACH_ISA
#include MT_EACH_ISA
#endif
#undef MT_LANES
}  // namespace mt::avx2
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own intrinsics' undefined operands
#endif
namespace mt::avx512 {
#define MT_LANES 16
#include "kernels/cpu/vec.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/halves.h"
#ifdef MT_EACH_ISA
#include MT_EACH_ISA
#endif
#undef MT_LANES
}  // namespace mt::avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif

#endif
#undef MT_EACH_ISA

/// The function of that name for the machine at hand.
#ifdef MT_X86
#define MT_FOR_ISA(name) (isa() == Isa::avx512 ? avx512::name : isa() == Isa::avx2 ? avx2::name : portable::name)
#elif defined(MT_NEON)
#define MT_FOR_ISA(name) (isa() == Isa::neon ? neon::name : portable::name)
#else
#define MT_FOR_ISA(name) (portable::name)
#endif
