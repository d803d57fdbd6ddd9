#include "ops/elementwise.h"

#include <vector>

#include "core/parallel.h"

#define MT_EACH_ISA "kernels/activations.h"
#include "kernels/each_isa.h"

namespace mt {

// ---- checks ----

namespace {
void same(const View& v, const char* what, const View& x, const char* whose) {
  require_dense(v, what);
  require_same_shape(v, what, x, whose);
}
}  // namespace

void check_add(const View& a, const View& b, double, Out out) {
  require_dense(a, "a");
  require_dense(b, "b");
  bool tail = b.rank <= a.rank;
  for (int i = 1; tail && i <= b.rank; ++i) tail = a.size(-i) == b.size(-i);
  require(tail, "b: expected the shape of a, ", shape_text(a), ", or its last dimensions, but got ", shape_text(b), ".");
  same(out, "out", a, "a");
}
void check_scale(const View& x, double, Out out) { require_dense(x, "x"); same(out, "out", x, "x"); }
void check_multiply(const View& a, const View& b, Out out) { require_dense(a, "a"); same(b, "b", a, "a"); same(out, "out", a, "a"); }
void check_gelu_forward(const View& x, Out y) { require_dense(x, "x"); same(y, "y", x, "x"); }
void check_gelu_backward(const View& dy, const View& x, Out dx) { require_dense(x, "x"); same(dy, "dy", x, "x"); same(dx, "dx", x, "x"); }
void check_relu_forward(const View& x, Out y) { check_gelu_forward(x, y); }
void check_relu_backward(const View& dy, const View& x, Out dx) { check_gelu_backward(dy, x, dx); }
void check_silu_mul_forward(const View& gate, const View& up, Out y) {
  require_dense(gate, "gate");
  same(up, "up", gate, "gate");
  same(y, "y", gate, "gate");
}
void check_silu_mul_backward(const View& dy, const View& gate, const View& up, Out dgate, Out dup) {
  check_silu_mul_forward(gate, up, dgate);
  same(dy, "dy", gate, "gate");
  same(dup, "dup", gate, "gate");
}
void check_gate_forward(const View& a, const View& b, const View& g, Out y) {
  require_dense(a, "a");
  same(b, "b", a, "a");
  require_dense(g, "g");
  require_shape(g, "g", {1});
  same(y, "y", a, "a");
}
void check_gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg) {
  check_gate_forward(a, b, g, da);
  same(dy, "dy", a, "a");
  same(db, "db", a, "a");
  if (dg) require_dense(dg, "dg"), require_shape(dg, "dg", {1});
}

// ---- CPU ----

namespace cpu {
namespace {

/// f(i) for every element, on all threads.
template <typename F>
void each(const View& x, int64_t cost, F f) {
  parallel_for(x.numel(), cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

}  // namespace

void add(const View& a, const View& b, double scale, Out out) {
  const float *pa = a.data<float>(), *pb = b.data<float>();
  float *po = out.data<float>(), s = float(scale);
  int64_t period = b.numel();
  if (!period) return;
  parallel_for(a.numel() / period, period, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t i = 0; i < period; ++i) po[r * period + i] = pa[r * period + i] + s * pb[i];
  });
}

void scale(const View& x, double factor, Out out) {
  const float* px = x.data<float>();
  float *po = out.data<float>(), s = float(factor);
  each(x, 1, [=](int64_t i) { po[i] = s * px[i]; });
}

void multiply(const View& a, const View& b, Out out) {
  const float *pa = a.data<float>(), *pb = b.data<float>();
  float* po = out.data<float>();
  each(a, 1, [=](int64_t i) { po[i] = pa[i] * pb[i]; });
}

void gelu_forward(const View& x, Out y) {
  const float* px = x.data<float>();
  float* py = y.data<float>();
  auto run = MT_FOR_ISA(gelu);
  parallel_for(x.numel(), 4, [=](int64_t begin, int64_t end) { run(px + begin, py + begin, end - begin); });
}
void gelu_backward(const View& dy, const View& x, Out dx) {
  const float *pd = dy.data<float>(), *px = x.data<float>();
  float* po = dx.data<float>();
  auto run = MT_FOR_ISA(gelu_backward);
  parallel_for(x.numel(), 5, [=](int64_t begin, int64_t end) { run(pd + begin, px + begin, po + begin, end - begin); });
}

void relu_forward(const View& x, Out y) {
  const float* px = x.data<float>();
  float* py = y.data<float>();
  each(x, 1, [=](int64_t i) { py[i] = px[i] > 0 ? px[i] : 0; });
}
void relu_backward(const View& dy, const View& x, Out dx) {
  const float *pd = dy.data<float>(), *px = x.data<float>();
  float* po = dx.data<float>();
  each(x, 1, [=](int64_t i) { po[i] = px[i] > 0 ? pd[i] : 0; });
}

void silu_mul_forward(const View& gate, const View& up, Out y) {
  const float *pg = gate.data<float>(), *pu = up.data<float>();
  float* py = y.data<float>();
  auto run = MT_FOR_ISA(silu_mul);
  parallel_for(gate.numel(), 4, [=](int64_t begin, int64_t end) { run(pg + begin, pu + begin, py + begin, end - begin); });
}
void silu_mul_backward(const View& dy, const View& gate, const View& up, Out dgate, Out dup) {
  const float *pd = dy.data<float>(), *pg = gate.data<float>(), *pu = up.data<float>();
  float *og = dgate.data<float>(), *ou = dup.data<float>();
  auto run = MT_FOR_ISA(silu_mul_backward);
  parallel_for(gate.numel(), 8, [=](int64_t begin, int64_t end) { run(pd + begin, pg + begin, pu + begin, og + begin, ou + begin, end - begin); });
}

void gate_forward(const View& a, const View& b, const View& g, Out y) {
  const float *pa = a.data<float>(), *pb = b.data<float>();
  float *py = y.data<float>(), t = std::tanh(*g.data<float>());
  each(a, 1, [=](int64_t i) { py[i] = pa[i] + t * (pb[i] - pa[i]); });
}
void gate_backward(const View& dy, const View& a, const View& b, const View& g, Out da, Out db, MaybeOut dg) {
  const float *pd = dy.data<float>(), *pa = a.data<float>(), *pb = b.data<float>();
  float *oa = da.data<float>(), *ob = db.data<float>(), t = std::tanh(*g.data<float>());
  each(a, 1, [=](int64_t i) {
    oa[i] = (1 - t) * pd[i];
    ob[i] = t * pd[i];
  });
  if (!dg) return;
  // Pieces of fixed length, summed in order: the same bits whatever the number of threads.
  constexpr int64_t piece = 4096;
  int64_t n = a.numel(), pieces = (n + piece - 1) / piece;
  std::vector<double> sums(size_t(pieces), 0.0);
  parallel_for(pieces, piece, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t i = p * piece; i < std::min(n, (p + 1) * piece); ++i) sums[size_t(p)] += double(pd[i]) * (pb[i] - pa[i]);
  });
  double sum = 0;
  for (double s : sums) sum += s;
  *dg.data<float>() = float(sum * (1.0 - double(t) * t));
}

}  // namespace cpu
}  // namespace mt
