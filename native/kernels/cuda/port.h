// What kernels may use beyond plain CUDA C++. This is the only CUDA header that a .cu file includes: the first half is
// for nvcc, the second for the emulator, which compiles the same .cu file as C++. All inline PTX of the project is
// here.
//
//   launch(kernel, grid, block, shared_bytes, args...)
//                                        on the calling thread's current stream; an empty grid is no launch
//   resident_blocks(kernel, threads, shared_bytes)
//                                        blocks that a multiprocessor of this thread's device holds; 1 at least
//   SHARED(type, name)                   dynamic shared memory, 128-byte aligned; a second one names the same bytes
//   mma_m16n8k16(d, a, b)                d += a·b: bf16 inputs, fp32 sums; fragments as in the PTX manual
//   ldmatrix_x4, _x2, _x4_trans, _x2_trans(r, row)
//                                        8×8 matrices of bf16; lane 8·m + i names row i of matrix m
//   cp_async_16(shared, global, valid)   16 bytes, both sides 16-byte aligned; zeros where not valid; seen after
//   cp_async_commit(), cp_async_wait<N>()
//                                        all but the N newest groups have landed for this thread
//   pack_bf16(lo, hi)                    two floats rounded to bf16, lo in the lower half
//   widen_f16(bits)                      a float16 as float
#pragma once
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <utility>

#include "core/dtype.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include <tuple>
#include <type_traits>

#include "emulator/cuda_runtime.h"
#include "emulator/intrinsics.h"
#endif

namespace mt::cuda {

cudaStream_t current_stream();
/// Throws where `e` is an error, saying what was being done.
void check(cudaError_t e, const char* what);

inline constexpr size_t kPlainSharedBytes = 48 * 1024;  // more has to be asked for, kernel by kernel
inline constexpr size_t kMaxArgumentBytes = 4096;

/// Allows a kernel, at its first use on a device, all the shared memory that the device has for a block. If each launch
/// set its own size, a smaller one would lower the limit of launches that are captured in a graph.
template <typename... P>
void allow_shared(void (*kernel)(P...)) {
  static std::mutex mutex;
  static std::set<std::pair<int, void (*)(P...)>> allowed;  // device, kernel
  int device = 0, most = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  std::lock_guard lock(mutex);
  if (allowed.count({device, kernel})) return;
  cudaFuncAttributes own{};
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
  check(cudaFuncGetAttributes(&own, kernel), "cudaFuncGetAttributes");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most - int(own.sharedSizeBytes)),
        "cudaFuncSetAttribute");
  allowed.insert({device, kernel});
}

template <typename... P>
int resident_blocks(void (*kernel)(P...), int threads, size_t shared_bytes) {
  if (shared_bytes > kPlainSharedBytes) allow_shared(kernel);
  int n = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, kernel, threads, shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return n > 1 ? n : 1;
}

#if defined(__CUDACC__)

#define SHARED(type, name)                                     \
  extern __shared__ __align__(128) unsigned char mt_shared_[]; \
  type* name = reinterpret_cast<type*>(mt_shared_)

template <typename... P, typename... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "launch: as many arguments as the kernel has parameters");
  if (!grid.x || !grid.y || !grid.z) return;
  if (shared_bytes > kPlainSharedBytes) allow_shared(kernel);
  kernel<<<grid, block, shared_bytes, current_stream()>>>(args...);
  check(cudaGetLastError(), "launch");
}

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
__device__ __forceinline__ float widen_f16(uint32_t bits) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(uint16_t(bits)));
  return r;
}

#else

#define SHARED(type, name) type* name = reinterpret_cast<type*>(mt::simt::cur->block->shared)

/// dim3 with the source location of its launch, for reports.
struct Grid : dim3 {
  std::source_location at;
  template <std::convertible_to<dim3> T>
  Grid(T g, std::source_location at = std::source_location::current()) : dim3(g), at(at) {}
  Grid(unsigned x, unsigned y, std::source_location at = std::source_location::current()) : dim3(x, y), at(at) {}
  Grid(unsigned x, unsigned y, unsigned z, std::source_location at = std::source_location::current())
      : dim3(x, y, z), at(at) {}
};

template <typename... P, typename... A>
void launch(void (*kernel)(P...), Grid grid, dim3 block, size_t shared_bytes, A... args) {
  static_assert(sizeof...(P) == sizeof...(A), "launch: as many arguments as the kernel has parameters");
  static_assert((sizeof(P) + ... + 0) <= kMaxArgumentBytes, "launch: a kernel takes 4 KiB of arguments at most");
  static_assert((std::is_trivially_copyable_v<P> && ...), "launch: arguments are copied bit by bit");
  if (!grid.x || !grid.y || !grid.z) return;
  if (shared_bytes > kPlainSharedBytes) allow_shared(kernel);
  check(simt::enqueue(current_stream(), {grid, block, shared_bytes,
                                         [kernel, bound = std::tuple<P...>(args...)] { std::apply(kernel, bound); },
                                         grid.at, reinterpret_cast<const void*>(kernel)}),
        "launch");
}

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         simt::At at = simt::At::current()) {
  simt::Mma mine{d, a, b};
  simt::warp_op<simt::mma_all>({"mma_m16n8k16", at}, ~0u, mine);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, simt::At at = simt::At::current()) {
  simt::ldmatrix<4, false>(r, row, at);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, simt::At at = simt::At::current()) {
  simt::ldmatrix<4, true>(r, row, at);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, simt::At at = simt::At::current()) {
  simt::ldmatrix<2, false>(r, row, at);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, simt::At at = simt::At::current()) {
  simt::ldmatrix<2, true>(r, row, at);
}
inline void cp_async_16(void* shared, const void* global, bool valid = true, simt::At at = simt::At::current()) {
  simt::cp_async(shared, global, valid, at);
}
inline void cp_async_commit() { simt::cp_async_commit(); }
template <int N>
void cp_async_wait() {
  simt::cp_async_wait(N);
}
inline uint32_t pack_bf16(float lo, float hi) { return bf16(lo).bits | uint32_t(bf16(hi).bits) << 16; }
inline float widen_f16(uint32_t bits) { return float(std::bit_cast<f16>(uint16_t(bits))); }

#endif

}  // namespace mt::cuda
