// Access to several elements of a row at a time: up to 16 bytes at once where alignment allows it.
#pragma once
#include "kernels/cuda/device.h"

namespace mt::cuda {

/// n elements that are read and written together, 16 bytes in one access.
template <typename T, int n>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Pack {
  T e[n];
};

/// How many elements of a type 16 bytes hold.
template <typename T>
inline constexpr int kWidth = 16 / sizeof(T);

/// Whether p is aligned for packs of n.
template <int n, typename T>
bool aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, n>) == 0;
}
/// Whether rows of `size` elements from p on consist of whole, aligned packs of four.
template <typename T>
bool fours(const T* p, int64_t size) {
  return size % 4 == 0 && aligned<4>(p);
}

/// v = n elements from p on as float32, zeros after the `left` that the row has. `whole`: the row has all n, and p is
/// aligned.
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

/// Four elements of a row; `whole`: fours() of the row.
template <typename T>
__device__ inline void load4(const T* p, int64_t left, bool whole, float (&v)[4]) {
  load(p, left, whole, v);
}
template <typename T>
__device__ inline void store4(T* p, int64_t left, bool whole, const float (&v)[4]) {
  store(p, left, whole, v);
}

}  // namespace mt::cuda
