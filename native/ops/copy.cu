#include "ops/copy.h"

#include <cstring>

#include "kernels/cuda/strided.h"

namespace mt::cuda {
namespace {

/// Float types are converted by way of float32, integers directly.
template <typename A, typename B>
struct Convert {
  __device__ B operator()(A v) const {
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B>) return B(v);
    else return B(float(v));
  }
};

template <typename A, typename B>
void convert(const View& x, const View& y) {
  if constexpr (std::is_same_v<A, B>) move(x, y);
  else if constexpr (std::is_integral_v<A>) walk<A, B, 1>(x, y, Convert<A, B>{});  // ids and masks: short
  else walk<A, B>(x, y, Convert<A, B>{});
}
template <typename A>
void from_float(const View& x, const View& y) {
  each_weight(y.dtype, [&](auto b) { convert<A, decltype(b)>(x, y); });
}
template <typename A>
void from_integer(const View& x, const View& y) {
  y.dtype == DType::i64   ? convert<A, int64_t>(x, y)
  : y.dtype == DType::i32 ? convert<A, int32_t>(x, y)
  : y.dtype == DType::u8  ? convert<A, uint8_t>(x, y)
                          : convert<A, float>(x, y);
}

template <typename U, typename I>
__global__ void __launch_bounds__(kThreads) fill_kernel(U value, U* y, Steps<I> steps) {
  const I i = I(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= steps.count) return;
  I at = 0, b = 0;
  steps.find(i, at, b);
  y[b] = value;
}
template <typename T>
void fill_with(T value, const View& y) {
  T* to = y.data<T>();
  const Walk w = plan_walk(Loop(y, y), uintptr_t(to), uintptr_t(to), sizeof(T), sizeof(T), kWidth<T>);
  if (!w.count) return;
  each_unit(size_t(w.width) * sizeof(T), [&](auto unit) {
    using U = decltype(unit);
    if constexpr (sizeof(U) >= sizeof(T))
      for (size_t at = 0; at < sizeof(U); at += sizeof(T))
        std::memcpy(reinterpret_cast<char*>(&unit) + at, &value, sizeof(T));
    auto go = [&](auto kernel, auto steps) {
      launch(kernel, blocks(w.count), dim3(kThreads), 0, unit, reinterpret_cast<U*>(to), steps);
    };
    w.short_index ? go(fill_kernel<U, uint32_t>, Steps<uint32_t>(w)) : go(fill_kernel<U, int64_t>, Steps<int64_t>(w));
  });
}

/// Random numbers initialise parameters: they are drawn on the host, so that they are the same on every device.
template <typename F>
void from_host(const View& y, F draw) {
  Out host;
  static_cast<View&>(host) = y;
  host.offset = 0;
  host.storage = std::make_shared<Storage>(size_t(y.numel()) * sizeof(float));
  host.storage->assign_device(nullptr);
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
    case DType::i8:
    case DType::nf4: return;  // refused by the check
  }
}

void fill(double value, ActOut y) {
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
