#include "ops/elementwise.h"

#include "core/round.h"
#include "kernels/cuda/divider.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {
namespace {

// ---- kernels: 16 bytes a thread, in float32 whatever is stored ----

/// The elements of a thread: the first, how many the tensors have from there on, and whether one access of 16 bytes may
/// read them: all are there, and the tensors are `aligned`.
template <typename T>
struct Mine {
  int64_t at, left;
  bool whole;
  __device__ Mine(int64_t n, bool aligned)
      : at(thread_index() * kWidth<T>), left(n - at), whole(aligned && left >= kWidth<T>) {}
  __device__ void read(const T* x, float (&v)[kWidth<T>]) const { load(x + at, left, whole, v); }
  __device__ void write(T* y, const float (&v)[kWidth<T>]) const { store(y + at, left, whole, v); }
};

template <typename T, typename F>
__global__ void __launch_bounds__(kThreads) map1(const T* x, T* y, int64_t n, bool aligned, F f) {
  const Mine<T> mine(n, aligned);
  if (mine.left <= 0) return;
  float v[kWidth<T>];
  mine.read(x, v);
#pragma unroll
  for (float& e : v) e = f(e);
  mine.write(y, v);
}
template <typename T, typename F>
__global__ void __launch_bounds__(kThreads) map2(const T* a, const T* b, T* y, int64_t n, bool aligned, F f) {
  const Mine<T> mine(n, aligned);
  if (mine.left <= 0) return;
  float v[kWidth<T>], w[kWidth<T>];
  mine.read(a, v);
  mine.read(b, w);
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) v[k] = f(v[k], w[k]);
  mine.write(y, v);
}
/// b repeats every `period` elements. `runs`: a thread's elements of b are contiguous and aligned.
template <typename T, typename I>
__global__ void __launch_bounds__(kThreads)
    add_kernel(const T* a, const T* b, T* y, int64_t n, bool aligned, Divider<I> period, bool runs, float scale) {
  const Mine<T> mine(n, aligned);
  if (mine.left <= 0) return;
  float v[kWidth<T>], w[kWidth<T>];
  mine.read(a, v);
  I j = period.remainder(I(mine.at));
  if (runs) {
    load(b + j, mine.left, mine.whole, w);
  } else {
#pragma unroll
    for (float& e : w) {
      e = float(b[j]);
      if (++j == period.divisor) j = 0;
    }
  }
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) v[k] = v[k] + scale * w[k];
  mine.write(y, v);
}
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gate_forward_kernel(const T* a, const T* b, const float* g, T* y, int64_t n, bool aligned) {
  const Mine<T> mine(n, aligned);
  if (mine.left <= 0) return;
  float v[kWidth<T>], w[kWidth<T>];
  const float t = tanhf(*g);
  mine.read(a, v);
  mine.read(b, w);
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) v[k] = v[k] + t * (w[k] - v[k]);
  mine.write(y, v);
}
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gate_backward_kernel(const T* dy, const float* g, T* da, T* db, int64_t n, bool aligned) {
  const Mine<T> mine(n, aligned);
  if (mine.left <= 0) return;
  float d[kWidth<T>], e[kWidth<T>];
  const float t = tanhf(*g);
  mine.read(dy, d);
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) {
    e[k] = t * d[k];
    d[k] = (1.0f - t) * d[k];
  }
  mine.write(da, d);
  mine.write(db, e);
}

constexpr int kPerThread = 16;  // elements that a thread sums

/// part[block] = Σ dy∘(b − a) over the block's elements; in double, since terms of both signs cancel.
template <typename T>
__global__ void __launch_bounds__(kThreads) gate_sum(const T* dy, const T* a, const T* b, double* part, int64_t n) {
  __shared__ double shared[32];
  double sum = 0;
  for (int k = 0; k < kPerThread; ++k) {
    int64_t i = (int64_t(blockIdx.x) * kPerThread + k) * kThreads + threadIdx.x;
    if (i < n) sum += double(float(dy[i])) * (float(b[i]) - float(a[i]));
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}
/// dg = (1 − tanh² g) Σ part.
__global__ void __launch_bounds__(kThreads) gate_finish(const double* part, int64_t count, const float* g, float* dg) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += part[i];
  sum = block_sum(sum, shared);
  double t = tanhf(*g);
  if (threadIdx.x == 0) *dg = float((1.0 - t * t) * sum);
}

// ---- scalar functions ----

struct Scale {
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};
struct Product {
  __device__ float operator()(float a, float b) const { return a * b; }
};
struct Gelu {
  __device__ float operator()(float x) const { return gelu(x); }
};
struct GeluBackward {
  __device__ float operator()(float dy, float x) const {
    return dy * (0.5f * erfcf(-x * 0.70710678118654752f) + x * 0.39894228040143268f * expf(-0.5f * x * x));
  }
};
__device__ inline float gelu_tanh_gate(float x) {
  return 1.0f / (1.0f + expf(-x * (1.5957691f + 0.0713548163f * x * x)));
}
struct GeluTanh {
  __device__ float operator()(float x) const { return x * gelu_tanh_gate(x); }
};
struct GeluTanhBackward {
  __device__ float operator()(float dy, float x) const {
    const float s = gelu_tanh_gate(x);
    return dy * s * (1.0f + x * (1.0f - s) * (1.5957691f + 0.2140644488f * x * x));
  }
};
struct Relu {
  __device__ float operator()(float x) const { return x <= 0 ? 0.0f : x; }
};
struct ReluBackward {
  __device__ float operator()(float dy, float x) const { return x <= 0 ? 0.0f : dy; }
};

/// A thread per 16 bytes of n elements.
template <typename T>
dim3 vectors(int64_t n) {
  return blocks(ceil_div(n, kWidth<T>));
}
template <typename... T>
bool all_aligned(const T*... p) {
  return (aligned<kWidth<T>>(p) && ...);
}

template <typename F>
void apply(const View& x, const View& y, F f) {
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    const T* from = x.data<T>();
    T* to = y.data<T>();
    launch(map1<T, F>, vectors<T>(x.numel()), dim3(kThreads), 0, from, to, x.numel(), all_aligned(from, to), f);
  });
}
template <typename F>
void apply(const View& a, const View& b, const View& y, F f) {
  each_activation(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T *first = a.data<T>(), *second = b.data<T>();
    T* to = y.data<T>();
    launch(map2<T, F>, vectors<T>(a.numel()), dim3(kThreads), 0, first, second, to, a.numel(),
           all_aligned(first, second, to), f);
  });
}

}  // namespace

// ---- operators ----

void add(const Act& a, const Act& b, double scale, ActOut out) {
  const int64_t n = a.numel(), period = b.numel();
  if (!n) return;
  each_activation(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T *first = a.data<T>(), *second = b.data<T>();
    T* to = out.data<T>();
    const bool aligned = all_aligned(first, to), runs = aligned && all_aligned(second) && period % kWidth<T> == 0;
    auto go = [&](auto kernel, auto divider) {
      launch(kernel, vectors<T>(n), dim3(kThreads), 0, first, second, to, n, aligned, divider, runs, float(scale));
    };
    short_index(n) ? go(add_kernel<T, uint32_t>, Divider<uint32_t>(period))
                   : go(add_kernel<T, int64_t>, Divider<int64_t>(period));
  });
}
void scale(const Act& x, double factor, ActOut out) { apply(x, out, Scale{float(factor)}); }
void multiply(const Act& a, const Act& b, ActOut out) { apply(a, b, out, Product{}); }
void gelu_forward(const Act& x, ActOut y) { apply(x, y, Gelu{}); }
void gelu_backward(const Act& dy, const Act& x, ActOut dx) { apply(dy, x, dx, GeluBackward{}); }
void gelu_tanh_forward(const Act& x, ActOut y) { apply(x, y, GeluTanh{}); }
void gelu_tanh_backward(const Act& dy, const Act& x, ActOut dx) { apply(dy, x, dx, GeluTanhBackward{}); }
void relu_forward(const Act& x, ActOut y) { apply(x, y, Relu{}); }
void relu_backward(const Act& dy, const Act& x, ActOut dx) { apply(dy, x, dx, ReluBackward{}); }
void gate_forward(const Act& a, const Act& b, const View& g, ActOut y) {
  const int64_t n = a.numel();
  each_activation(a.dtype, [&](auto t) {
    using T = decltype(t);
    const T *first = a.data<T>(), *second = b.data<T>();
    T* to = y.data<T>();
    launch(gate_forward_kernel<T>, vectors<T>(n), dim3(kThreads), 0, first, second, (const float*)g.data<float>(), to,
           n, all_aligned(first, second, to));
  });
}
void gate_backward(const Act& dy, const Act& a, const Act& b, const View& g, ActOut da, ActOut db, MaybeOut dg) {
  int64_t n = dy.numel(), count = (n + kThreads * kPerThread - 1) / (kThreads * kPerThread);
  Scratch part(dg ? size_t(count) * sizeof(double) : 0);
  each_activation(dy.dtype, [&](auto t) {
    using T = decltype(t);
    const T* d = dy.data<T>();
    T *first = da.data<T>(), *second = db.data<T>();
    launch(gate_backward_kernel<T>, vectors<T>(n), dim3(kThreads), 0, d, (const float*)g.data<float>(), first, second,
           n, all_aligned(d, first, second));
    if (dg)
      launch(gate_sum<T>, dim3(unsigned(count)), dim3(kThreads), 0, d, (const T*)a.data<T>(), (const T*)b.data<T>(),
             part.as<double>(), n);
  });
  if (dg)
    launch(gate_finish, dim3(1), dim3(kThreads), 0, (const double*)part.as<double>(), count,
           (const float*)g.data<float>(), dg.data<float>());
}

}  // namespace mt::cuda
