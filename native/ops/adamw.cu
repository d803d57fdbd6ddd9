#include "ops/adamw.h"

#include <algorithm>
#include <vector>

#include "core/round.h"
#include "kernels/cuda/device.h"

namespace mt::cuda {
namespace {

constexpr int kPerThread = 16;                        // squares that a thread sums before the block does
constexpr unsigned kSquares = kPerThread * kThreads;  // of a block

/// This thread's part of the squares of block `block`.
__device__ inline double squares(const float* x, int64_t n, int64_t block) {
  double sum = 0;
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    int64_t i = (block * kPerThread + k) * kThreads + threadIdx.x;
    double v = i < n ? double(x[i]) : 0.0;
    sum += v * v;
  }
  return sum;
}
/// This thread's part of the sums of all blocks.
__device__ inline double parts(const double* part, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += part[i];
  return sum;
}
__global__ void __launch_bounds__(kThreads) add_squares(const float* x, double* part, int64_t n) {
  __shared__ double shared[32];
  double sum = block_sum(squares(x, n, blockIdx.x), shared);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}
__global__ void __launch_bounds__(kThreads) add_parts(const double* part, int64_t count, float* to) {
  __shared__ double shared[32];
  double sum = block_sum(parts(part, count), shared);
  if (threadIdx.x == 0) *to = float(double(*to) + sum);
}

struct Betas {
  double beta1, beta2, eps;
};
/// correct: 1/(1−β₁ᵗ), 1/(1−β₂ᵗ); rate: lr, 1 − lr·decay. In double like the CPU's twin: the kernel is limited by
/// memory, so that this costs nothing.
__device__ inline void update(float& w, float g, float& m, float& v, double scale, const double (&correct)[2],
                              const double (&rate)[2], const Betas& s) {
  double d = scale * g;
  double mi = s.beta1 * m + (1 - s.beta1) * d, vi = s.beta2 * v + (1 - s.beta2) * d * d;
  m = float(mi);
  v = float(vi);
  w = float(double(w) * rate[1] - rate[0] * (mi * correct[0]) / (sqrt(vi * correct[1]) + s.eps));
}

struct Step {
  double correct[2], rate[2];
};
__global__ void __launch_bounds__(kThreads) adamw_kernel(float* param, const float* grad, float* m, float* v,
                                                         const float* scale, int64_t n, Step s, Betas betas) {
  int64_t i = thread_index();
  if (i < n) update(param[i], grad[i], m[i], v[i], scale ? double(*scale) : 1.0, s.correct, s.rate, betas);
}

// ---- all tensors at once ----

// A launch takes as many tensors as its arguments have room for. A block has a piece of one tensor; blocks first[t] up
// to first[t + 1] have those of tensor t.

/// The tensor whose piece a block has.
__device__ inline int tensor_of(const unsigned* first, int count, unsigned block) {
  int low = 0, high = count;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    (first[middle] <= block ? low : high) = middle;
  }
  return low;
}

constexpr int kEach = 4;  // elements a thread, in accumulate and adamw_all
constexpr unsigned kPiece = kEach * kThreads;

struct Squares {
  static constexpr int kMost = 240;
  int count;
  unsigned first[kMost + 1], n[kMost];
  const float* x[kMost];
};
static_assert(sizeof(Squares) + 2 * sizeof(void*) <= kMaxArgumentBytes);
__global__ void __launch_bounds__(kThreads) add_all_squares(Squares s, double* part) {
  __shared__ double shared[32];
  const int t = tensor_of(s.first, s.count, blockIdx.x);
  double sum = block_sum(squares(s.x[t], s.n[t], blockIdx.x - s.first[t]), shared);
  if (threadIdx.x == 0) part[blockIdx.x] = sum;
}
/// A block for each tensor.
__global__ void __launch_bounds__(kThreads) add_all_parts(Squares s, const double* part, double* sums) {
  __shared__ double shared[32];
  const unsigned t = blockIdx.x;
  double sum = block_sum(parts(part + s.first[t], s.first[t + 1] - s.first[t]), shared);
  if (threadIdx.x == 0) sums[t] = sum;
}
__device__ inline bool finite(float x) { return x - x == 0; }
/// One thread: the sum over tensors is rounded to float after each of them, which gives the bits of square_sum.
__global__ void finish_norm(const double* sums, int count, const float* losses, int k, double clip, float* report) {
  float total = 0;
  for (int t = 0; t < count; ++t) total = float(double(total) + sums[t]);
  bool fine = finite(total);
  for (int i = 0; i < k; ++i) {
    report[3 + i] = losses[i];
    fine = fine && finite(losses[i]);
  }
  report[0] = total;
  report[1] = clip > 0 ? float(fmin(1.0, clip / (sqrt(double(total)) + 1e-6))) : 1.0f;
  report[2] = fine;
}

struct Sums {
  static constexpr int kMost = 160;
  int count;
  unsigned first[kMost + 1], n[kMost];
  float* sum[kMost];
  const float* x[kMost];
};
static_assert(sizeof(Sums) <= kMaxArgumentBytes);
__global__ void __launch_bounds__(kThreads) accumulate_all(Sums s) {
  const int t = tensor_of(s.first, s.count, blockIdx.x);
  const unsigned from = (blockIdx.x - s.first[t]) * kPiece + threadIdx.x;
  float* sum = s.sum[t];
  const float* x = s.x[t];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const unsigned i = from + k * kThreads;
    if (i < s.n[t]) sum[i] += x[i];
  }
}

struct Updates {
  static constexpr int kMost = 92;
  int count;
  unsigned first[kMost + 1], n[kMost];
  uint16_t row[kMost];
  float *param[kMost], *m[kMost], *v[kMost];
  const float* grad[kMost];
};
static_assert(sizeof(Updates) + sizeof(Betas) + 2 * sizeof(void*) <= kMaxArgumentBytes);
__global__ void __launch_bounds__(kThreads)
    adamw_all_kernel(Updates u, const float* report, const double* schedule, Betas betas) {
  if (report[2] == 0) return;  // a gradient or a loss is not finite: nothing changes
  const int t = tensor_of(u.first, u.count, blockIdx.x);
  const unsigned from = (blockIdx.x - u.first[t]) * kPiece + threadIdx.x;
  const double scale = report[1], correct[2] = {schedule[0], schedule[1]},
               rate[2] = {schedule[2 + 2 * u.row[t]], schedule[3 + 2 * u.row[t]]};
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const unsigned i = from + k * kThreads;
    if (i < u.n[t]) update(u.param[t][i], u.grad[t][i], u.m[t][i], u.v[t][i], scale, correct, rate, betas);
  }
}

/// Splits the tensors of `all`, in order, into tables of one launch each; a block has `piece` elements.
/// `set(table, at, i)` makes tensor i entry `at` of a table; `go(table, grid, first)` launches, `first` being the
/// number of the table's first tensor.
template <typename Table, typename Set, typename Go>
void in_tables(const std::vector<View>& all, unsigned piece, Set set, Go go) {
  for (size_t from = 0; from < all.size(); from += Table::kMost) {
    Table table{};
    table.count = int(std::min(all.size() - from, size_t(Table::kMost)));
    for (int at = 0; at < table.count; ++at) {
      table.n[at] = unsigned(all[from + at].numel());
      table.first[at + 1] = table.first[at] + (table.n[at] + piece - 1) / piece;
      set(table, at, from + at);
    }
    go(table, dim3(table.first[table.count]), from);
  }
}

}  // namespace

void square_sum(const View& x, InOut sum) {
  int64_t n = x.numel(), count = ceil_div(n, kSquares);
  Scratch part(size_t(count) * sizeof(double));
  launch(add_squares, blocks(count, 1), dim3(kThreads), 0, (const float*)x.data<float>(), part.as<double>(), n);
  launch(add_parts, dim3(1), dim3(kThreads), 0, (const double*)part.as<double>(), count, sum.data<float>());
}

void adamw(InOut param, const View& grad, InOut m, InOut v, const Maybe& scale, double lr, double beta1, double beta2,
           double eps, double decay, int64_t step) {
  const auto s = schedule_values(step, beta1, beta2, {lr}, {decay});
  launch(adamw_kernel, blocks(param.numel()), dim3(kThreads), 0, param.data<float>(), (const float*)grad.data<float>(),
         m.data<float>(), v.data<float>(), scale ? (const float*)scale.data<float>() : nullptr, param.numel(),
         Step{{s[0], s[1]}, {s[2], s[3]}}, Betas{beta1, beta2, eps});
}

void accumulate(const InOuts& sums, const Views& xs) {
  in_tables<Sums>(
      sums, kPiece,
      [&](Sums& s, int at, size_t i) {
        s.sum[at] = sums[i].data<float>();
        s.x[at] = xs[i].data<float>();
      },
      [&](Sums& s, dim3 grid, size_t) { launch(accumulate_all, grid, dim3(kThreads), 0, s); });
}

void gradient_norm(const Views& grads, const Maybe& losses, double clip, const Out& report) {
  Scratch sums(grads.size() * sizeof(double));
  in_tables<Squares>(
      grads, kSquares, [&](Squares& s, int at, size_t i) { s.x[at] = grads[i].data<float>(); },
      [&](Squares& s, dim3 grid, size_t from) {
        Scratch part(size_t(grid.x) * sizeof(double));
        launch(add_all_squares, grid, dim3(kThreads), 0, s, part.as<double>());
        launch(add_all_parts, dim3(unsigned(s.count)), dim3(kThreads), 0, s, (const double*)part.as<double>(),
               sums.as<double>() + from);
      });
  const int k = losses ? int(losses.numel()) : 0;
  launch(finish_norm, dim3(1), dim3(1), 0, (const double*)sums.as<double>(), int(grads.size()),
         k ? (const float*)losses.data<float>() : nullptr, k, clip, report.data<float>());
}

/// A copy from the host, not part of a graph: these values change between the graph's launches.
void adamw_schedule(int64_t step, double beta1, double beta2, const Numbers& lr, const Numbers& decay,
                    const Out& schedule) {
  const auto values = schedule_values(step, beta1, beta2, lr, decay);
  current().upload(schedule.data<int64_t>(), values.data(), values.size() * sizeof(double));
}

void adamw_all(const InOuts& params, const Views& grads, const InOuts& m, const InOuts& v, const Numbers& rows,
               const View& report, const View& schedule, double beta1, double beta2, double eps) {
  in_tables<Updates>(
      params, kPiece,
      [&](Updates& u, int at, size_t i) {
        u.row[at] = uint16_t(rows[i]);
        u.param[at] = params[i].data<float>();
        u.grad[at] = grads[i].data<float>();
        u.m[at] = m[i].data<float>();
        u.v[at] = v[i].data<float>();
      },
      [&](Updates& u, dim3 grid, size_t) {
        launch(adamw_all_kernel, grid, dim3(kThreads), 0, u, (const float*)report.data<float>(),
               (const double*)schedule.data<double>(), Betas{beta1, beta2, eps});
      });
}

}  // namespace mt::cuda
