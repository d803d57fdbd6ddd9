// CUDA C++'s built-in functions and variables, with their own names, for the emulator. Included by kernels/cuda/port.h
// alone. `atomicAdd` takes integers only: a float sum in no fixed order must not compile.
#pragma once
#include <atomic>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>

#include "emulator/simt.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Of the OS thread, which runs one block at a time. Unlike dynamic shared memory it is not made NaN for every block.
#define __shared__ static thread_local

#define threadIdx (mt::simt::cur->tid)
#define blockIdx (mt::simt::cur->block->idx)
#define blockDim (mt::simt::cur->block->dim)
#define gridDim (mt::simt::cur->block->grid)

// ---- numbers ----

#define __expf expf
#define __logf logf
#define __log2f log2f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmul_rn(float a, float b) { return a * b; }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return x ? std::countr_zero(unsigned(x)) + 1 : 0; }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
template <typename T> T __ldg(const T* p) { return *p; }

#define SIMT_MIN_MAX(T)                               \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
#undef SIMT_MIN_MAX

// ---- atomics ----

#define SIMT_ATOMICS(T)                                                         \
  inline T atomicAdd(T* p, T v) { return std::atomic_ref<T>(*p).fetch_add(v); } \
  inline T atomicExch(T* p, T v) { return std::atomic_ref<T>(*p).exchange(v); } \
  inline T atomicCAS(T* p, T expected, T v) {                                   \
    std::atomic_ref<T>(*p).compare_exchange_strong(expected, v);                \
    return expected;                                                            \
  }                                                                             \
  inline T atomicMax(T* p, T v) {                                               \
    std::atomic_ref<T> a(*p);                                                   \
    T old = a.load();                                                           \
    while (old < v && !a.compare_exchange_weak(old, v)) {}                      \
    return old;                                                                 \
  }                                                                             \
  inline T atomicMin(T* p, T v) {                                               \
    std::atomic_ref<T> a(*p);                                                   \
    T old = a.load();                                                           \
    while (v < old && !a.compare_exchange_weak(old, v)) {}                      \
    return old;                                                                 \
  }
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
#undef SIMT_ATOMICS
/// Counts up to `last` and begins again at 0.
inline unsigned atomicInc(unsigned* p, unsigned last) {
  std::atomic_ref<unsigned> a(*p);
  unsigned old = a.load();
  while (!a.compare_exchange_weak(old, old >= last ? 0 : old + 1)) {}
  return old;
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { __threadfence(); }

// ---- barriers, votes, shuffles ----

namespace mt::simt {

using At = std::source_location;

template <typename T>
concept Shuffled = std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

template <typename T>
struct Shuffle {
  T value;
  unsigned from;
  T out;
};
template <typename T>
void shuffle_all(Shuffle<T>** lanes, const Site&) {
  for (int i = 0; i < 32; ++i) {
    if (!lanes[i]) continue;
    // The value of an absent lane is undefined: here NaN (or −1), which shows wherever it is used.
    if (const Shuffle<T>* from = lanes[lanes[i]->from]) lanes[i]->out = from->value;
    else std::memset(&lanes[i]->out, 0xff, sizeof(T));
  }
}
template <typename T>
T shuffle(Site site, unsigned mask, T value, unsigned from) {
  Shuffle<T> mine{value, from, value};
  warp_op<shuffle_all<T>>(site, mask, mine);
  return mine.out;
}

struct Vote {
  bool yes;
  unsigned ballot, lanes;
};
inline void vote_all(Vote** lanes, const Site&) {
  unsigned ballot = 0, here = 0;
  for (unsigned i = 0; i < 32; ++i)
    if (lanes[i]) here |= 1u << i, ballot |= unsigned(lanes[i]->yes) << i;
  for (unsigned i = 0; i < 32; ++i)
    if (lanes[i]) lanes[i]->ballot = ballot, lanes[i]->lanes = here;
}
inline Vote vote(Site site, unsigned mask, bool yes) {
  Vote mine{yes, 0, 0};
  warp_op<vote_all>(site, mask, mine);
  return mine;
}
inline void nothing(int**, const Site&) {}

}  // namespace mt::simt

inline void __syncthreads(mt::simt::At at = mt::simt::At::current()) { mt::simt::sync_block({"__syncthreads", at}); }
/// Whether it is so for some thread of the block.
inline int __syncthreads_or(int yes, mt::simt::At at = mt::simt::At::current()) {
  return mt::simt::sync_block_or({"__syncthreads_or", at}, yes != 0);
}
inline void __syncwarp(unsigned mask = ~0u, mt::simt::At at = mt::simt::At::current()) {
  int none = 0;
  mt::simt::warp_op<mt::simt::nothing>({"__syncwarp", at}, mask, none);
}

/// From lane `from` of the caller's segment of `width` lanes.
template <mt::simt::Shuffled T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32, mt::simt::At at = mt::simt::At::current()) {
  unsigned lane = mt::simt::cur->lane, w = unsigned(width);
  return mt::simt::shuffle({"__shfl_sync", at}, mask, v, (lane & ~(w - 1)) | (unsigned(from) & (w - 1)));
}
/// The next three return the caller's own value where the segment ends.
template <mt::simt::Shuffled T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, mt::simt::At at = mt::simt::At::current()) {
  unsigned lane = mt::simt::cur->lane, in_segment = lane & (unsigned(width) - 1);
  return mt::simt::shuffle({"__shfl_up_sync", at}, mask, v, delta > in_segment ? lane : lane - delta);
}
template <mt::simt::Shuffled T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, mt::simt::At at = mt::simt::At::current()) {
  unsigned lane = mt::simt::cur->lane, in_segment = lane & (unsigned(width) - 1);
  return mt::simt::shuffle({"__shfl_down_sync", at}, mask, v,
                           delta >= unsigned(width) - in_segment ? lane : lane + delta);
}
template <mt::simt::Shuffled T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, mt::simt::At at = mt::simt::At::current()) {
  unsigned lane = mt::simt::cur->lane, last = lane | (unsigned(width) - 1), from = lane ^ (unsigned(bits) & 31);
  return mt::simt::shuffle({"__shfl_xor_sync", at}, mask, v, from > last ? lane : from);
}

inline unsigned __ballot_sync(unsigned mask, bool yes, mt::simt::At at = mt::simt::At::current()) {
  return mt::simt::vote({"__ballot_sync", at}, mask, yes).ballot;
}
inline int __any_sync(unsigned mask, bool yes, mt::simt::At at = mt::simt::At::current()) {
  return mt::simt::vote({"__any_sync", at}, mask, yes).ballot != 0;
}
inline int __all_sync(unsigned mask, bool yes, mt::simt::At at = mt::simt::At::current()) {
  auto v = mt::simt::vote({"__all_sync", at}, mask, yes);
  return v.ballot == v.lanes;
}

// ---- tensor cores and asynchronous copies ----

namespace mt::simt {

inline float bf16_half(uint32_t pair, int high) {
  return std::bit_cast<float>((high ? pair >> 16 : pair & 0xffff) << 16);
}

// The owner of each element, by the PTX manual: with g = lane / 4 and t = 2·(lane % 4), register i, half h of
//   A (16×16): row g + 8·(i % 2), column t + 8·(i / 2) + h      B (16×8): row t + 8·i + h, column g
// C, D (16×8), element e: row g + 8·(e / 2), column t + e % 2
struct Mma {
  float* d;
  const uint32_t *a, *b;
};
inline void mma_all(Mma** lanes, const Site& site) {
  float A[16][16], B[16][8], C[16][8];
  for (int l = 0; l < 32; ++l) {
    if (!lanes[l]) throw fault(site.text() + ": all 32 lanes must take part, lane " + std::to_string(l) + " is gone");
    const int g = l / 4, t = 2 * (l % 4);
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 4; ++i) A[g + 8 * (i % 2)][t + 8 * (i / 2) + h] = bf16_half(lanes[l]->a[i], h);
      for (int i = 0; i < 2; ++i)
        B[t + 8 * i + h][g] = bf16_half(lanes[l]->b[i], h), C[g + 8 * i][t + h] = lanes[l]->d[2 * i + h];
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) C[row][column] += A[row][k] * B[k][column];
  for (int l = 0; l < 32; ++l)
    for (int e = 0; e < 4; ++e) lanes[l]->d[e] = C[l / 4 + 8 * (e / 2)][2 * (l % 4) + e % 2];
}

// Lane 8·m + r names row r of matrix m, 8 bf16. Register m of lane l: row l / 4, columns 2·(l % 4) and the next;
// transposed: that column's two rows.
struct Ldmatrix {
  uint32_t* r;
  const void* row;
};
template <int matrices, bool transposed>
void ldmatrix_all(Ldmatrix** lanes, const Site& site) {
  for (int m = 0; m < matrices; ++m) {
    uint16_t tile[8][8];
    for (int r = 0; r < 8; ++r) {
      const Ldmatrix* from = lanes[8 * m + r];
      if (!from)
        throw fault(site.text() + ": all 32 lanes must take part, lane " + std::to_string(8 * m + r) + " is gone");
      if (reinterpret_cast<uintptr_t>(from->row) % 16)
        throw fault(site.text() + ": lane " + std::to_string(8 * m + r) + " names a row that is not 16-byte aligned");
      std::memcpy(tile[r], from->row, 16);
    }
    for (int l = 0; l < 32; ++l) {
      if (!lanes[l]) throw fault(site.text() + ": all 32 lanes must take part, lane " + std::to_string(l) + " is gone");
      const int i = l / 4, j = 2 * (l % 4);
      lanes[l]->r[m] = transposed ? tile[j][i] | uint32_t(tile[j + 1][i]) << 16
                                  : tile[i][j] | uint32_t(tile[i][j + 1]) << 16;
    }
  }
}
template <int matrices, bool transposed>
void ldmatrix(uint32_t* r, const void* row, At at) {
  Ldmatrix mine{r, row};
  warp_op<ldmatrix_all<matrices, transposed>>({transposed ? "ldmatrix_trans" : "ldmatrix", at}, ~0u, mine);
}

/// The destination is NaN until the wait that covers the copy, so that an early read shows.
inline void cp_async(void* to, const void* from, bool valid, At at) {
  Thread& t = *cur;
  if (reinterpret_cast<uintptr_t>(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16)
    throw fault("cp_async_16 " + text(at) + ": " + (reinterpret_cast<uintptr_t>(to) % 16 ? "shared" : "global") +
                " address is not 16-byte aligned");
  Copy& c = t.copies.emplace_back(Copy{to, t.group, {}});
  if (valid) std::memcpy(c.bytes, from, 16);
  std::memset(to, 0xff, 16);
}
inline void cp_async_commit() { ++cur->group; }
inline void cp_async_wait(unsigned pending) {
  Thread& t = *cur;
  std::erase_if(t.copies, [&](const Copy& c) {
    if (c.group + pending >= t.group) return false;
    std::memcpy(c.to, c.bytes, 16);
    return true;
  });
}

}  // namespace mt::simt
