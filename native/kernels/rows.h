// Rows of numbers, four at a time: one access of 16 or 8 bytes where the row lies so that this is allowed.
#pragma once
#include "kernels/device.h"

namespace mt::cuda {

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T e[4];
};

/// Whether rows of n elements that begin at p consist of whole, aligned fours.
template <typename T>
bool fours(const T* p, int64_t n) {
  return n % 4 == 0 && reinterpret_cast<uintptr_t>(p) % alignof(Four<T>) == 0;
}

/// Four elements from p on as float32, zeros after the `left` that there are. `whole`: what fours() says of the row.
template <typename T>
__device__ inline void load4(const T* p, int64_t left, bool whole, float (&v)[4]) {
  if (whole) {
    Four<T> f = *reinterpret_cast<const Four<T>*>(p);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = float(f.e[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = j < left ? float(p[j]) : 0.0f;
  }
}
template <typename T>
__device__ inline void store4(T* p, int64_t left, bool whole, const float (&v)[4]) {
  if (whole) {
    Four<T> f;
#pragma unroll
    for (int j = 0; j < 4; ++j) f.e[j] = T(v[j]);
    *reinterpret_cast<Four<T>*>(p) = f;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < left) p[j] = T(v[j]);
  }
}

}  // namespace mt::cuda
