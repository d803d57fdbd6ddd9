#include "ops/silu_mul.h"

#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/divider.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {
namespace {

/// Rows that begin `pitch` elements apart.
template <typename T>
struct Columns {
  T* data;
  int64_t pitch;
};

/// How threads share the rows: each has kWidth elements of one row; `aligned`: one access may read them.
template <typename I>
struct Pieces {
  int64_t total, n;
  Divider<I> per_row;
  bool aligned;
};

/// The elements of a thread.
template <typename T, typename I>
struct Mine {
  int64_t row, at, left;
  bool whole;
  __device__ Mine(const Pieces<I>& p, I k)
      : row(p.per_row.quotient(k)),
        at(int64_t(p.per_row.remainder(k)) * kWidth<T>),
        left(p.n - at),
        whole(p.aligned && left >= kWidth<T>) {}
  __device__ void read(const Columns<const T>& x, float (&v)[kWidth<T>]) const {
    load(x.data + row * x.pitch + at, left, whole, v);
  }
  __device__ void write(const Columns<T>& y, const float (&v)[kWidth<T>]) const {
    store(y.data + row * y.pitch + at, left, whole, v);
  }
};

template <typename T, typename I>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(Columns<const T> gate, Columns<const T> up, Columns<T> y, Pieces<I> pieces) {
  const int64_t k = thread_index();
  if (k >= pieces.total) return;
  const Mine<T, I> mine(pieces, I(k));
  float g[kWidth<T>], u[kWidth<T>];
  mine.read(gate, g);
  mine.read(up, u);
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i) u[i] = g[i] / (1.0f + expf(-g[i])) * u[i];
  mine.write(y, u);
}

template <typename T, typename I>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Columns<const T> dy, Columns<const T> gate, Columns<const T> up, Columns<T> dgate, Columns<T> dup,
                    Pieces<I> pieces) {
  const int64_t k = thread_index();
  if (k >= pieces.total) return;
  const Mine<T, I> mine(pieces, I(k));
  float d[kWidth<T>], g[kWidth<T>], u[kWidth<T>];
  mine.read(dy, d);
  mine.read(gate, g);
  mine.read(up, u);
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i) {
    const float x = g[i], s = 1.0f / (1.0f + expf(-x));
    g[i] = d[i] * u[i] * s * (1.0f + x * (1.0f - s));
    u[i] = d[i] * x * s;
  }
  mine.write(dgate, g);
  mine.write(dup, u);
}

/// f(pieces, columns) for arguments of one shape; columns(view) says where a view's rows lie. Rows without gaps between
/// them are one row.
template <typename T, typename F>
void each_piece(std::initializer_list<const View*> all, F f) {
  const View& like = **all.begin();
  const bool dense = std::all_of(all.begin(), all.end(), [](const View* v) { return v->contiguous(); });
  const int64_t n = dense ? like.numel() : like.size(-1), per_row = (n + kWidth<T> - 1) / kWidth<T>;
  if (!n) return;
  const int64_t total = like.numel() / n * per_row;
  const bool lies = std::all_of(all.begin(), all.end(), [=](const View* v) {
    return aligned<kWidth<T>>(v->data<T>()) && (dense || v->pitch() % kWidth<T> == 0);
  });
  auto columns = [=](const View& v) { return Columns<T>{v.data<T>(), dense ? 0 : v.pitch()}; };
  short_index(total) ? f(Pieces<uint32_t>{total, n, Divider<uint32_t>(per_row), lies}, columns)
                     : f(Pieces<int64_t>{total, n, Divider<int64_t>(per_row), lies}, columns);
}
template <typename T>
Columns<const T> frozen(Columns<T> c) {
  return {c.data, c.pitch};
}

}  // namespace

void silu_mul_forward(const Act& gate, const Act& up, ActOut y) {
  each_activation(gate.dtype, [&](auto t) {
    using T = decltype(t);
    each_piece<T>({&gate, &up, &y}, [&]<typename I>(Pieces<I> pieces, auto columns) {
      launch(forward_kernel<T, I>, blocks(pieces.total), dim3(kThreads), 0, frozen(columns(gate)), frozen(columns(up)),
             columns(y), pieces);
    });
  });
}
void silu_mul_backward(const Act& dy, const Act& gate, const Act& up, ActOut dgate, ActOut dup) {
  each_activation(dy.dtype, [&](auto t) {
    using T = decltype(t);
    each_piece<T>({&dy, &gate, &up, &dgate, &dup}, [&]<typename I>(Pieces<I> pieces, auto columns) {
      launch(backward_kernel<T, I>, blocks(pieces.total), dim3(kThreads), 0, frozen(columns(dy)), frozen(columns(gate)),
             frozen(columns(up)), columns(dgate), columns(dup), pieces);
    });
  });
}

}  // namespace mt::cuda
