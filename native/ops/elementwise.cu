#include "ops/elementwise.h"

#include "kernels/device.h"

namespace mt::cuda {
namespace {

// ---- kernels: a thread per element, in float32 whatever is stored ----

template <typename T, typename F>
__global__ void __launch_bounds__(kThreads) map1(const T* x, T* y, int64_t n, F f) {
  int64_t i = thread_index();
  if (i < n) y[i] = T(f(float(x[i])));
}
template <typename T, typename F>
__global__ void __launch_bounds__(kThreads) map2(const T* a, const T* b, T* y, int64_t n, F f) {
  int64_t i = thread_index();
  if (i < n) y[i] = T(f(float(a[i]), float(b[i])));
}
/// b repeats every `period` elements.
template <typename T>
__global__ void __launch_bounds__(kThreads) add_kernel(const T* a, const T* b, T* y, int64_t n, int64_t period, float scale) {
  int64_t i = thread_index();
  if (i < n) y[i] = T(float(a[i]) + scale * float(b[period == n ? i : i % period]));
}
template <typename T>
__global__ void __launch_bounds__(kThreads) silu_mul_backward_kernel(const T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t n) {
  int64_t i = thread_index();
  if (i >= n) return;
  float g = float(gate[i]), s = 1.0f / (1.0f + expf(-g)), d = float(dy[i]);
  dgate[i] = T(d * float(up[i]) * s * (1.0f + g * (1.0f - s)));
  dup[i] = T(d * g * s);
}
template <typename T>
__global__ void __launch_bounds__(kThreads) gate_forward_kernel(const T* a, const T* b, const float* g, T* y, int64_t n) {
  int64_t i = thread_index();
  if (i >= n) return;
  float x = float(a[i]);
  y[i] = T(x + tanhf(*g) * (float(b[i]) - x));
}
template <typename T>
__global__ void __launch_bounds__(kThreads) gate_backward_kernel(const T* dy, const float* g, T* da, T* db, int64_t n) {
  int64_t i = thread_index();
  if (i >= n) return;
  float t = tanhf(*g), d = float(dy[i]);
  da[i] = T((1.0f - t) * d);
  db[i] = T(t * d);
}

constexpr int kPerThread = 16;  // elements that one thread of a sum adds up

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
struct Relu {
  __device__ float operator()(float x) const { return x > 0 ? x : 0.0f; }
};
struct ReluBackward {
  __device__ float operator()(float dy, float x) const { return x > 0 ? dy : 0.0f; }
};
struct SiluMul {
  __device__ float operator()(float gate, float up) const { return gate / (1.0f + expf(-gate)) * up; }
};

template <typename F>
void apply(const View& x, const View& y, F f) {
  each_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    launch(map1<T, F>, blocks(x.numel()), dim3(kThreads), 0, (const T*)x.data<T>(), y.data<T>(), x.numel(), f);
  });
}
template <typename F>
void apply(const View& a, const View& b, const View& y, F f) {
  each_activation(a.dtype, [&](auto t) {
    using T = decltype(t);
    launch(map2<T, F>, blocks(a.numel()), dim3(kThreads), 0, (const T*)a.data<T>(), (const T*)b.data<T>(), y.data<T>(), a.numel(), f);
  });
}

}  // namespace

// ---- operators ----

void add(const View& a, const View& b, double scale, Out out) {
  each_activation(a.dtype, [&](auto t) {
    using T = decltype(t);
    launch(add_kernel<T>, blocks(a.numel()), dim3(kThreads), 0, (const T*)a.data<T>(), (const T*)b.data<T>(), out.data<T>(), a.numel(), b.numel(), float(scale));
  });
}
void scale(const View& x, double factor, Out out) { apply(x, out, Scale{float(factor)}); }
void multiply(const View& a, const View& b, Out out) { apply(a, b, out, Product{}); }
void gelu_forward(const View& x, Out y) { apply(x, y, Gelu{}); }
void gelu_backward(const View& dy, const View& x, Out dx) { apply(dy, x, dx, GeluBackward{}); }
void relu_forward(const View& x, Out y) { apply(x, y, Relu{}); }
void relu_backward(const View& dy, const View& x, Out dx) { apply(dy, x, dx, ReluBackward{}); }
void silu_mul_forward(const View& gate, const View& up, Out y) { apply(gate, up, y, SiluMul{}); }
void silu_mul_backward(const View& dy, const View& gate, const View& up, Out dgate, Out dup) {
  each_activation(dy.dtype, [&](auto t) {
    using T = decltype(t);
    launch(silu_mul_backward_kernel<T>, blocks(dy.numel()), dim3(kThreads), 0, (const T*)dy.data<T>(), (const T*)gate.data<T>(), (const T*)up.data<T>(), dgate.data<T>(), dup.data<T>(), dy.numel());
  });
}
void gate_forward(const View& a, const View& b, const View& g, Out y) {
  each_activation(a.dtype, [&](auto t) {
    using T = decltype(t);
    launch(gate_forward_kernel<T>, blocks(a.numel()), dim3(kThreads), 0, (const T*)a.data<T>(), (const T*)b.data<T>(), (const float*)g.data<float>(), y.data<T>(), a.numel());
  });
}
void gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg) {
  int64_t n = dy.numel(), count = (n + kThreads * kPerThread - 1) / (kThreads * kPerThread);
  Scratch part(dg ? size_t(count) * sizeof(double) : 0);
  each_activation(dy.dtype, [&](auto t) {
    using T = decltype(t);
    launch(gate_backward_kernel<T>, blocks(n), dim3(kThreads), 0, (const T*)dy.data<T>(), (const float*)g.data<float>(), da.data<T>(), db.data<T>(), n);
    if (dg) launch(gate_sum<T>, dim3(unsigned(count)), dim3(kThreads), 0, (const T*)dy.data<T>(), (const T*)a.data<T>(), (const T*)b.data<T>(), part.as<double>(), n);
  });
  if (dg) launch(gate_finish, dim3(1), dim3(kThreads), 0, (const double*)part.as<double>(), count, (const float*)g.data<float>(), dg.data<float>());
}

}  // namespace mt::cuda
