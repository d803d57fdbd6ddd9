#include "ops/router.h"

#include <cmath>
#include <vector>

#include "core/parallel.h"

namespace mt {

// ---- checks ----

namespace {

void dense(const View& v, const char* what, std::initializer_list<int64_t> shape) {
  require_dense(v, what);
  require_shape(v, what, shape);
}

}  // namespace

void check_router_forward(const Act& x, const View& w1, const View& b1, const View& w2, const View& b2, Out alpha,
                          Out pooled, Out hidden) {
  require_dtype(x, "x", DType::f32);
  require_rank(x, "x", 4);
  require(x.stride[3] == 1 || x.shape[3] == 1, "x: expected stride 1 in the last dimension, but got ", x.stride[3],
          ".");
  require_rank(w1, "w1", 2);
  require_rank(w2, "w2", 2);
  int64_t m0 = x.shape[0], m1 = x.shape[1], width = x.shape[3], h = w1.shape[0], p = w2.shape[0];
  require(x.shape[2] >= 1 && p >= 1, "x: expected at least one row to pool and one choice, but got shapes ",
          shape_text(x), " and ", shape_text(w2), ".");
  dense(w1, "w1", {h, width});
  dense(b1, "b1", {h});
  dense(w2, "w2", {p, h});
  dense(b2, "b2", {p});
  dense(alpha, "alpha", {m0, m1, p});
  dense(pooled, "pooled", {m0, m1, width});
  dense(hidden, "hidden", {m0, m1, h});
}

void check_router_backward(const View& dalpha, const View& alpha, const View& pooled, const View& hidden,
                           const View& w1, const View& w2, int64_t count, const MaybeAct& residual, MaybeActOut dx,
                           Out dw1, Out db1, Out dw2, Out db2) {
  require_rank(pooled, "pooled", 3);
  require_rank(w1, "w1", 2);
  require_rank(w2, "w2", 2);
  int64_t m0 = pooled.shape[0], m1 = pooled.shape[1], width = pooled.shape[2], h = w1.shape[0], p = w2.shape[0];
  dense(pooled, "pooled", {m0, m1, width});
  dense(dalpha, "dalpha", {m0, m1, p});
  dense(alpha, "alpha", {m0, m1, p});
  dense(hidden, "hidden", {m0, m1, h});
  dense(w1, "w1", {h, width});
  dense(w2, "w2", {p, h});
  dense(dw1, "dw1", {h, width});
  dense(db1, "db1", {h});
  dense(dw2, "dw2", {p, h});
  dense(db2, "db2", {p});
  if (!dx) return;
  require_dtype(dx, "dx", DType::f32);
  require_rank(dx, "dx", 4);
  require_shape(dx, "dx", {m0, m1, dx.shape[2], width});
  require(count >= 1 && count <= dx.shape[2], "count: expected 1 to ", dx.shape[2], " rows, but got ", count, ".");
  if (residual) require_dtype(residual, "residual", DType::f32), require_same_shape(residual, "residual", dx, "dx");
  for (int i = 0; i < 4 && dx.numel(); ++i)
    require(dx.stride[i] != 0 || dx.shape[i] <= 1,
            "dx: expected an output whose dimensions do not repeat, but dimension ", i, " has stride 0.");
}

// ---- CPU ----

namespace cpu {
namespace {

/// A dot product by eight sums in a fixed order, which the compiler vectorises.
float dot(const float* a, const float* b, int64_t n) {
  float s[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; ++l) s[l] += a[i + l] * b[i + l];
  for (; i < n; ++i) s[0] += a[i] * b[i];
  return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

void add_scaled(float* to, const float* from, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

}  // namespace

void router_forward(const View& x, const View& w1, const View& b1, const View& w2, const View& b2, Out alpha,
                    Out pooled, Out hidden) {
  int64_t m1 = x.shape[1], n = x.shape[2], width = x.shape[3], h = w1.shape[0], p = w2.shape[0];
  const float *pw1 = w1.data<float>(), *pb1 = b1.data<float>(), *pw2 = w2.data<float>(), *pb2 = b2.data<float>();
  parallel_for(x.shape[0] * m1, (n + h) * width / 4 + h * p, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* rows = x.data<float>() + b / m1 * x.stride[0] + b % m1 * x.stride[1];
      float *mean = pooled.data<float>() + b * width, *hid = hidden.data<float>() + b * h,
            *a = alpha.data<float>() + b * p;
      std::fill(mean, mean + width, 0.0f);
      for (int64_t i = 0; i < n; ++i) add_scaled(mean, rows + i * x.stride[2], 1, width);
      for (int64_t c = 0; c < width; ++c) mean[c] /= float(n);
      for (int64_t i = 0; i < h; ++i) hid[i] = std::max(dot(pw1 + i * width, mean, width) + pb1[i], 0.0f);
      float most = -INFINITY, sum = 0;
      for (int64_t j = 0; j < p; ++j) most = std::max(most, a[j] = dot(pw2 + j * h, hid, h) + pb2[j]);
      for (int64_t j = 0; j < p; ++j) sum += a[j] = std::exp(a[j] - most);
      for (int64_t j = 0; j < p; ++j) a[j] /= sum;
    }
  });
}

void router_backward(const View& dalpha, const View& alpha, const View& pooled, const View& hidden, const View& w1,
                     const View& w2, int64_t count, const Maybe& residual, MaybeOut dx, Out dw1, Out db1, Out dw2,
                     Out db2) {
  int64_t m1 = pooled.shape[1], batch = pooled.shape[0] * m1, width = pooled.shape[2], h = w1.shape[0], p = w2.shape[0];
  const float *pa = alpha.data<float>(), *pd = dalpha.data<float>(), *px = pooled.data<float>(),
              *ph = hidden.data<float>();
  const float *pw1 = w1.data<float>(), *pw2 = w2.data<float>();
  std::vector<float> dz(size_t(batch * p)), dh(size_t(batch * h));
  parallel_for(batch, h * (width / 4 + p), [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(width));
    for (int64_t b = begin; b < end; ++b) {
      float *z = dz.data() + b * p, *g = dh.data() + b * h;
      // Divided by Σ α, which differs from 1 by rounding: equal dα then give a gradient of exactly 0.
      double mean = 0, sum = 0;
      for (int64_t j = 0; j < p; ++j) mean += double(pa[b * p + j]) * pd[b * p + j], sum += pa[b * p + j];
      mean /= sum;
      for (int64_t j = 0; j < p; ++j) z[j] = float(pa[b * p + j] * (pd[b * p + j] - mean));
      for (int64_t j = 0; j < p; ++j) add_scaled(g, pw2 + j * h, z[j], h);
      for (int64_t i = 0; i < h; ++i)
        if (!(ph[b * h + i] > 0)) g[i] = 0;
      if (!dx) continue;
      std::fill(row.begin(), row.end(), 0.0f);
      for (int64_t i = 0; i < h; ++i) add_scaled(row.data(), pw1 + i * width, g[i], width);
      for (int64_t c = 0; c < width; ++c) row[size_t(c)] /= float(count);
      float* to = dx.data<float>() + b / m1 * dx.stride[0] + b % m1 * dx.stride[1];
      const float* more = residual ? residual.data<float>() + b / m1 * residual.stride[0] + b % m1 * residual.stride[1]
                                   : nullptr;
      for (int64_t i = 0; i < dx.shape[2]; ++i)
        for (int64_t c = 0; c < width; ++c)
          to[i * dx.stride[2] + c * dx.stride[3]] = (i < count ? row[size_t(c)] : 0.0f) +
                                                    (more ? more[i * residual.stride[2] + c * residual.stride[3]]
                                                          : 0.0f);
    }
  });
  // Weights: a thread per row, which sums over the batch in order.
  parallel_for(h, batch * width / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float *to = dw1.data<float>() + i * width, bias = 0;
      std::fill(to, to + width, 0.0f);
      for (int64_t b = 0; b < batch; ++b) {
        bias += dh[size_t(b * h + i)];
        if (dh[size_t(b * h + i)] != 0) add_scaled(to, px + b * width, dh[size_t(b * h + i)], width);
      }
      db1.data<float>()[i] = bias;
    }
  });
  for (int64_t j = 0; j < p; ++j) {
    float *to = dw2.data<float>() + j * h, bias = 0;
    std::fill(to, to + h, 0.0f);
    for (int64_t b = 0; b < batch; ++b) {
      bias += dz[size_t(b * p + j)];
      add_scaled(to, ph + b * h, dz[size_t(b * p + j)], h);
    }
    db2.data<float>()[j] = bias;
  }
}

}  // namespace cpu
}  // namespace mt
