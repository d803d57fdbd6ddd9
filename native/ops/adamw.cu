#include "ops/adamw.h"

#include "kernels/device.h"

namespace mt::cuda {
namespace {

constexpr int kPerThread = 16;  // squares that a thread adds up before its sum meets others

__global__ void __launch_bounds__(kThreads) add_squares(const float* x, double* part, int64_t n) {
  __shared__ double shared[32];
  double sum = 0;
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    int64_t i = (int64_t(blockIdx.x) * kPerThread + k) * kThreads + threadIdx.x;
    double v = i < n ? double(x[i]) : 0.0;
    sum += v * v;
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}
__global__ void __launch_bounds__(kThreads) add_parts(const double* part, int64_t count, float* to) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += part[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *to = float(double(*to) + sum);
}

struct Step {
  double lr, beta1, beta2, eps, keep, correct1, correct2;  // keep: 1 − lr·decay
};
/// In double like the CPU's twin: memory is what it waits for.
__global__ void __launch_bounds__(kThreads) adamw_kernel(float* param, const float* grad, float* m, float* v, const float* scale, int64_t n, Step s) {
  int64_t i = thread_index();
  if (i >= n) return;
  double d = (scale ? double(*scale) : 1.0) * grad[i];
  double mi = s.beta1 * m[i] + (1 - s.beta1) * d, vi = s.beta2 * v[i] + (1 - s.beta2) * d * d;
  m[i] = float(mi);
  v[i] = float(vi);
  param[i] = float(double(param[i]) * s.keep - s.lr * (mi * s.correct1) / (sqrt(vi * s.correct2) + s.eps));
}

}  // namespace

void square_sum(const View& x, InOut sum) {
  int64_t n = x.numel(), count = (n + kThreads * kPerThread - 1) / (kThreads * kPerThread);
  Scratch part(size_t(count) * sizeof(double));
  launch(add_squares, blocks(count, 1), dim3(kThreads), 0, (const float*)x.data<float>(), part.as<double>(), n);
  launch(add_parts, dim3(1), dim3(kThreads), 0, (const double*)part.as<double>(), count, sum.data<float>());
}

void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2, double eps, double decay, int64_t step) {
  Step s{lr, beta1, beta2, eps, 1 - lr * decay, 1.0 / (1.0 - std::pow(beta1, double(step))), 1.0 / (1.0 - std::pow(beta2, double(step)))};
  launch(adamw_kernel, blocks(param.numel()), dim3(kThreads), 0, param.data<float>(), (const float*)grad.data<float>(), m.data<float>(), v.data<float>(), scale ? (const float*)scale.data<float>() : nullptr, param.numel(), s);
}

}  // namespace mt::cuda
