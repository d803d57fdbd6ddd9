#include "ops/copy.h"

#include <vector>

#include "core/strides.h"
#include "kernels/device.h"

namespace mt::cuda {
namespace {

template <typename A, typename B>
__device__ B converted(A v) {
  if constexpr (std::is_same_v<A, B>) return v;
  else if constexpr (std::is_integral_v<A> && std::is_integral_v<B>) return B(v);
  else return B(float(v));
}

/// A thread per element, in the order of y's loops.
template <typename A, typename B>
__global__ void __launch_bounds__(kThreads) copy_kernel(const A* x, B* y, int64_t n, Loop loop) {
  int64_t i = thread_index(), a = 0, b = 0;
  if (i >= n) return;
  for (int d = loop.rank - 1; d > 0; --d) {
    int64_t at = i % loop.shape[d];
    i /= loop.shape[d];
    a += at * loop.from[d];
    b += at * loop.to[d];
  }
  y[b + i * loop.to[0]] = converted<A, B>(x[a + i * loop.from[0]]);
}

template <typename A, typename B>
void move(const View& x, const View& y) {
  launch(copy_kernel<A, B>, blocks(x.numel()), dim3(kThreads), 0, (const A*)x.data<A>(), y.data<B>(), x.numel(), Loop(x, y));
}
template <typename A>
void from_float(const View& x, const View& y) {
  y.dtype == DType::f32 ? move<A, float>(x, y) : y.dtype == DType::bf16 ? move<A, bf16>(x, y) : move<A, f16>(x, y);
}
template <typename A>
void from_integer(const View& x, const View& y) {
  y.dtype == DType::i64 ? move<A, int64_t>(x, y) : y.dtype == DType::i32 ? move<A, int32_t>(x, y) : y.dtype == DType::u8 ? move<A, uint8_t>(x, y) : move<A, float>(x, y);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T value, T* y, int64_t n, Loop loop) {
  int64_t i = thread_index(), b = 0;
  if (i >= n) return;
  for (int d = loop.rank - 1; d > 0; --d) {
    b += i % loop.shape[d] * loop.to[d];
    i /= loop.shape[d];
  }
  y[b + i * loop.to[0]] = value;
}
template <typename T>
void fill_with(T value, const View& y) {
  launch(fill_kernel<T>, blocks(y.numel()), dim3(kThreads), 0, value, y.data<T>(), y.numel(), Loop(y, y));
}

/// Random numbers are first values of parameters: drawn on the host, so that they are the same on every device.
template <typename F>
void from_host(const View& y, F draw) {
  Out host;
  static_cast<View&>(host) = y;
  host.offset = 0;
  host.storage = std::make_shared<Storage>(size_t(y.numel()) * sizeof(float));
  host.storage->settle(nullptr);
  host.storage->ensure();
  draw(host);
  current().upload(y.data<float>(), host.data<float>(), size_t(y.numel()) * sizeof(float));
}

}  // namespace

void copy(const View& x, Out y) {
  switch (x.dtype) {
    case DType::f32: return from_float<float>(x, y);
    case DType::bf16: return from_float<bf16>(x, y);
    case DType::f16: return from_float<f16>(x, y);
    case DType::i64: return from_integer<int64_t>(x, y);
    case DType::i32: return from_integer<int32_t>(x, y);
    case DType::u8: return from_integer<uint8_t>(x, y);
  }
}

void fill(double value, Out y) {
  if (y.dtype == DType::f32) fill_with(float(value), y);
  else if (y.dtype == DType::bf16) fill_with(bf16(float(value)), y);
  else if (y.dtype == DType::i32) fill_with(int32_t(value), y);
  else fill_with(uint8_t(value), y);
}

void random_uniform(int64_t seed, int64_t stream, double low, double high, Out y) {
  from_host(y, [&](Out host) { cpu::random_uniform(seed, stream, low, high, host); });
}
void random_normal(int64_t seed, int64_t stream, double mean, double std, Out y) {
  from_host(y, [&](Out host) { cpu::random_normal(seed, stream, mean, std, host); });
}

}  // namespace mt::cuda
