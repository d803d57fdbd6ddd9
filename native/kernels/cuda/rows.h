// Rows of numbers, several at a time: one access of up to 16 bytes where the row lies so that this is allowed.
#pragma once
#include "kernels/cuda/device.h"

namespace mt::cuda {

/// n elements that are read and written at once, 16 bytes in one access.
template <typename T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Pack {
  T e[n];
};

/// As many elements of a type as 16 bytes hold.
template <typename T>
inline constexpr int kWidth = 16 / sizeof(T);

/// Whether packs of n may be read and written from p on.
template <int n, typename T>
bool aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, n>) == 0;
}
/// Whether rows of `size` elements that begin at p consist of whole, aligned fours.
template <typename T>
bool fours(const T* p, int64_t size) {
  return size % 4 == 0 && aligned<4>(p);
}

/// n elements from p on as float32, zeros after the `left` that there are. `whole`: all are there, and aligned.
template <typename T, int n>
__device__ inline void load(const T* p, int64_t left, bool whole, float (&v)[n]) {
  if (whole) {
    const Pack<T, n> pack = *reinterpret_cast<const Pack<T, n>*>(p);
#pragma unroll
    for (int j = 0; j < n; ++j) v[j] = float(pack.e[j]);
  } else {
#pragma unroll
    for (int j = 0; j < n; ++j) v[j] = j < left ? float(p[j]) : 0.0f;
  }
}
template <typename T, int n>
__device__ inline void store(T* p, int64_t left, bool whole, const float (&v)[n]) {
  if (whole) {
    Pack<T, n> pack;
#pragma unroll
    for (int j = 0; j < n; ++j) pack.e[j] = T(v[j]);
    *reinterpret_cast<Pack<T, n>*>(p) = pack;
  } else {
#pragma unroll
    for (int j = 0; j < n; ++j)
      if (j < left) p[j] = T(v[j]);
  }
}

/// Four elements of a row; `whole`: what fours() says of it.
template <typename T>
__device__ inline void load4(const T* p, int64_t left, bool whole, float (&v)[4]) {
  load(p, left, whole, v);
}
template <typename T>
__device__ inline void store4(T* p, int64_t left, bool whole, const float (&v)[4]) {
  store(p, left, whole, v);
}

}  // namespace mt::cuda
