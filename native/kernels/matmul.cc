// Blocking. The result is cut into row blocks and groups of column panels; a task computes one of these, packing the
// panels it needs of the right factor block by block along k, so that they are hot when they are multiplied.
#include "kernels/matmul.h"

#include <algorithm>
#include <memory>
#include <new>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/isa.h"
#include "kernels/matmul_kernels.h"

namespace mt {

namespace kernels {
const Level& level() {
#ifdef MT_X86
  if (isa() == Isa::avx512) return avx512;
  if (isa() == Isa::avx2) return avx2;
#endif
  return portable;
}
}  // namespace kernels

namespace {

using kernels::Level;
using kernels::Target;

constexpr int64_t kDepth = 384;              // of a block along k: a tile's left rows then lie in the first cache
constexpr int64_t kGroup = 8;                // panels per task: a block of them lies in the second cache
constexpr int64_t kLeft = int64_t(4) << 20;  // floats of the left factor packed at a time
constexpr int64_t kStretch = 64;             // rows of it packed in one go
constexpr int64_t kFewRows = 16;             // up to which a deep right factor is not worth packing, see worth_dots
constexpr int64_t kPadding = 16;             // floats after a packed left panel, see Level::pack
constexpr int64_t kSpeed = 16;               // multiply-adds in the time of one scalar operation

int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Aligned memory that grows and is kept for the next product on this thread.
class Scratch {
 public:
  float* floats(int64_t n) {
    if (n > size_) {
      data_.reset();
      data_.reset(static_cast<float*>(::operator new(size_t(n) * sizeof(float), std::align_val_t(64))));
      size_ = n;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t size_ = 0;
};
thread_local Scratch left_scratch, right_scratch;

const void* at(const Right& b, int64_t k, int64_t n) {
  return static_cast<const char*>(b.data) + (k * b.row + n * b.col) * int64_t(size_of(b.dtype));
}

/// What follows the sums, for the rows and columns of c that begin at (i, j).
void follow(int64_t rows, int64_t columns, float* c, int64_t ldc, int64_t i, int64_t j, const MatmulOptions& o) {
  if (!o.residual && !o.map) return;
  for (int64_t r = i; r < i + rows; ++r) {
    const int64_t at = r * ldc + j;
    if (o.residual)
      for (int64_t x = at; x < at + columns; ++x) c[x] += o.residual[x];
    if (o.map) o.map(c + at, o.mapped + at, columns);
  }
}

/// k = 0: nothing but the bias.
void empty_sum(int64_t m, int64_t n, float* c, int64_t ldc, const MatmulOptions& o) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = (o.accumulate ? c[i * ldc + j] : 0) + (o.bias ? o.bias[j] : 0);
  follow(m, n, c, ldc, 0, 0, o);
}

/// Whether dot products beat packing: few rows, and k deep enough to pay for adding up the lanes of each sum.
bool worth_dots(int64_t m, int64_t k) { return m <= std::clamp<int64_t>(k / 64, 1, kFewRows); }

/// Each column's dot products, the right factor read once and as it lies.
void few_rows(const Level& l, int64_t m, int64_t n, int64_t k, Left a, const Right& b, float* c, int64_t ldc, const MatmulOptions& o) {
  using kernels::kDotColumns;
  using kernels::kDotRows;
  const auto& dots = l.dot[size_t(b.dtype)];
  parallel_for(up(n, kDotColumns), m * k * kDotColumns / kSpeed, [&](int64_t begin, int64_t end) {
    float sums[kDotRows * kDotColumns];
    for (int64_t j = begin * kDotColumns, columns; j < std::min(n, end * kDotColumns); j += columns) {
      columns = j + kDotColumns <= n ? kDotColumns : 1;
      for (int64_t i = 0, count; i < m; i += count) {
        count = std::min<int64_t>(kDotRows, m - i);
        dots[columns > 1][count - 1](k, a.data + i * a.row, a.row, at(b, 0, j), b.col, at(b, 0, j + 2 * columns <= n ? j + columns : j), sums);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t s = 0; s < columns; ++s) {
            float& out = c[(i + r) * ldc + j + s];
            out = (o.accumulate ? out : 0) + (o.bias ? o.bias[j + s] : 0) + o.alpha * sums[r * columns + s];
          }
      }
    }
    follow(m, std::min(n, end * kDotColumns) - begin * kDotColumns, c, ldc, 0, begin * kDotColumns, o);
  });
}

}  // namespace

void matmul(int64_t m, int64_t n, int64_t k, Left a, Right b, float* c, int64_t ldc, MatmulOptions o) {
  if (m <= 0 || n <= 0) return;
  if (k <= 0) return empty_sum(m, n, c, ldc, o);
  const Level& l = kernels::level();
  if (worth_dots(m, k) && a.col == 1 && b.row == 1 && !b.packed) return few_rows(l, m, n, k, a, b, c, ldc, o);

  const int64_t depth = up(k, up(k, kDepth));
  const int64_t panels = up(n, l.nr), groups = up(panels, kGroup);
  // Rows shared out evenly, so that the last tile of a block is not a sliver.
  const int64_t rows = std::min(m, std::max<int64_t>(l.mr, kLeft / k));
  const int64_t mr = up(rows, up(rows, l.mr));
  const int64_t block = rows / mr * mr;
  const bool pack_left = !(a.col == 1 && n <= 256 && k <= 512);

  for (int64_t top = 0; top < m; top += block) {
    const int64_t height = std::min(block, m - top), strips = up(height, mr), stride = mr * k + kPadding;
    float* packed = nullptr;
    if (pack_left) {
      packed = left_scratch.floats(strips * stride);
      parallel_for(strips, mr * k, [&](int64_t begin, int64_t end) {
        // All strips by short stretches of k: where these are rows, few pages are in use at a time.
        for (int64_t x = 0; x < k; x += kStretch)
          for (int64_t s = begin; s < end; ++s) {
            int64_t count = std::min(mr, height - s * mr);
            l.pack[0](a.data + (top + s * mr) * a.row + x * a.col, a.row, a.col, count, std::min(kStretch, k - x), packed + s * stride + x * count, count, 0);
          }
      });
    }
    // Few groups are cut by rows too, each cut packing its own copy of the panels.
    const int64_t cuts = std::clamp<int64_t>(up(4 * threads(), groups), 1, std::max<int64_t>(1, height / 96));
    const int64_t cut = up(strips, threads() == 1 ? 1 : cuts), parts = up(strips, cut);
    parallel_for(groups * parts, cut * mr * std::min(n, kGroup * l.nr) * k / kSpeed, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task / parts * kGroup, last = std::min(panels, first + kGroup);
        const int64_t s0 = task % parts * cut, s1 = std::min(strips, s0 + cut);
        for (int64_t x = 0; x < k; x += depth) {
          const int64_t deep = std::min(depth, k - x);
          const int64_t wide = std::min(n, last * l.nr) - first * l.nr;
          // Panel p of the group starts at right + p·panel, its rows lie ldb apart.
          const float* right;
          int64_t ldb = l.nr, panel;
          if (b.packed) {
            right = b.packed + (first * k + x) * l.nr;
            panel = k * l.nr;
          } else if (b.dtype == DType::f32 && b.col == 1 && wide % l.nr == 0 && k * b.row <= 16384) {
            right = static_cast<const float*>(at(b, x, first * l.nr));
            ldb = b.row;
            panel = l.nr;
          } else {
            panel = deep * l.nr;
            float* scratch = right_scratch.floats(kGroup * depth * l.nr);
            l.pack[size_t(b.dtype)](at(b, x, first * l.nr), b.col, b.row, wide, deep, scratch, l.nr, panel);
            right = scratch;
          }
          for (int64_t s = s0; s < s1; ++s) {
            const int64_t i = top + s * mr, count = std::min(mr, height - s * mr);
            const float* left = packed ? packed + s * stride + x * count : a.data + i * a.row + x * a.col;
            for (int64_t p = first; p < last; ++p) {
              const int64_t j = p * l.nr;
              Target out{c + i * ldc + j, ldc, x == 0 && o.bias ? o.bias + j : nullptr, o.alpha, o.accumulate || x > 0, int(std::min<int64_t>(l.nr, n - j))};
              l.tile[out.columns > l.width][count - 1](deep, left, packed ? 1 : a.row, packed ? count : a.col, right + (p - first) * panel, ldb, out);
            }
            if (x + deep == k) follow(count, wide, c, ldc, i, first * l.nr, o);
          }
        }
      }
    });
  }
}

int64_t packed_size(int64_t n, int64_t k) {
  const Level& l = kernels::level();
  return up(n, l.nr) * l.nr * k;
}

void pack_right(int64_t n, int64_t k, Right b, float* out) {
  const Level& l = kernels::level();
  parallel_for(up(n, l.nr), k * l.nr, [&](int64_t begin, int64_t end) {
    l.pack[size_t(b.dtype)](at(b, 0, begin * l.nr), b.col, b.row, std::min(n, end * l.nr) - begin * l.nr, k, out + begin * l.nr * k, l.nr, l.nr * k);
  });
}

}  // namespace mt
