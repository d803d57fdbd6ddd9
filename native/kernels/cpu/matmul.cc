// Blocking. The result is cut into row blocks and groups of column panels; a task computes one of these, packing the
// panels it needs of the right factor block by block along k, so that they are hot when they are multiplied.
#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <vector>

#include "core/blocks.h"
#include "core/error.h"
#include "core/parallel.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/matmul_kernels.h"

#include "kernels/cpu/each_isa.h"

namespace mt {

namespace kernels {
const Level& level() {
#ifdef MT_X86
  static const Level best = [] {
    if (isa() == Isa::avx2) return avx2;
    if (isa() != Isa::avx512) return portable;
    Level l = avx512;
    if (__builtin_cpu_supports("avx512bf16"))
      for (int v = 0; v < 2; ++v) std::copy_n(bf16_dots.tile[v], kMaxRows, l.tile[int(Kind::dots)][v]);
    return l;
  }();
  return best;
#else
  return portable;
#endif
}
}  // namespace kernels

namespace {

using kernels::Kind;
using kernels::Level;
using kernels::Target;

constexpr int64_t kDepth = 320;              // words of a block along k: a tile's left rows then lie in the first cache
constexpr int64_t kLow = 256;                // rows up to which all meet a panel's block before the next panel's turn
constexpr int64_t kPieces = 6;               // tasks per thread that are aimed at
constexpr int64_t kGroup = 8;                // panels per task: a block of them lies in the second cache
constexpr int64_t kLeft = int64_t(4) << 20;  // words of the left factor packed at a time
constexpr int64_t kReads = 2;                // strips up to which an unpacked right factor is read where it lies
constexpr int64_t kStretch = 64;             // words of a row packed in one go
constexpr int64_t kFewRows = 16;             // up to which a deep right factor is not worth packing, see worth_dots
constexpr int64_t kLine = 16;                // words of a line of the cache
constexpr int64_t kSoon = 512;      // words between what is read and what is asked for where memory is the limit
constexpr int64_t kPadding = 16;    // words after a packed left panel, see Level::pack
constexpr int64_t kSpeed = 16;      // multiply-adds in the time of one scalar operation
constexpr int64_t kWideRows = 256;  // of float32 sums on their way to a bfloat16 result: they lie in the second cache

int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Kept for the next product on this thread.
thread_local Scratch left_scratch, right_scratch, low_scratch, wide_scratch;

template <typename Factor>
const void* at(const Factor& f, int64_t row, int64_t col) {
  return static_cast<const char*>(f.data) + (row * f.row + col * f.col) * int64_t(size_of(f.dtype));
}

/// What follows the sums of a block of c that begins at (i, j). They lie in `sums`: in c itself if that is float32.
void follow(int64_t rows, int64_t columns, float* sums, int64_t ld, const Result& c, int64_t i, int64_t j,
            const MatmulOptions& o) {
  const bool narrow = c.dtype == DType::bf16;
  if (!narrow && !o.residual && !o.map) return;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t first = (i + r) * c.row + j;
    float* row = sums + r * ld;
    if (!narrow) {
      if (o.residual)
        for (int64_t x = 0; x < columns; ++x) row[x] += static_cast<const float*>(o.residual)[first + x];
      if (o.map) o.map(row, static_cast<float*>(o.mapped) + first, columns);
      continue;
    }
    if (o.residual) MT_FOR_ISA(add_wide)(static_cast<const bf16*>(o.residual) + first, row, columns);
    if (c.data != o.mapped) MT_FOR_ISA(narrow_row)(row, static_cast<bf16*>(c.data) + first, columns);
    if (!o.map) continue;
    o.map(row, row, columns);
    MT_FOR_ISA(narrow_row)(row, static_cast<bf16*>(o.mapped) + first, columns);
  }
}

/// Whether dot products beat packing: few rows, and k deep enough to pay for adding up the lanes of each sum.
bool worth_dots(int64_t m, int64_t k) { return m <= std::clamp<int64_t>(k / 64, 1, kFewRows); }

/// Each column's dot products, the right factor read once and as it lies.
void few_rows(const Level& l, int64_t m, int64_t n, int64_t k, Left a, const Right& b, const Result& c,
              const MatmulOptions& o) {
  using kernels::kDotColumns;
  using kernels::kDotRows;
  std::vector<float> wide;  // the left factor as float32
  if (a.dtype == DType::bf16) {
    wide.resize(size_t(m * k));
    for (int64_t i = 0; i < m; ++i)
      MT_FOR_ISA(widen_row)(static_cast<const bf16*>(at(a, i, 0)), wide.data() + i * k, k);
    a = {wide.data(), DType::f32, k, 1};
  }
  const float* left = static_cast<const float*>(a.data);
  const auto& dots = l.dot[size_t(b.dtype)];
  parallel_for(up(n, kDotColumns), m * k * kDotColumns / kSpeed, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kDotColumns, last = std::min(n, end * kDotColumns);
    const bool narrow = c.dtype == DType::bf16;
    float* out = narrow ? wide_scratch.floats(m * (last - first)) : static_cast<float*>(c.data) + first;
    const int64_t ld = narrow ? last - first : c.row;
    float sums[kDotRows * kDotColumns];
    for (int64_t j = first, columns; j < last; j += columns) {
      columns = j + kDotColumns <= n ? kDotColumns : 1;
      for (int64_t i = 0, count; i < m; i += count) {
        count = std::min<int64_t>(kDotRows, m - i);
        dots[columns > 1][count - 1](k, left + i * a.row, a.row, at(b, 0, j), b.col,
                                     at(b, 0, j + 2 * columns <= n ? j + columns : j), sums);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t s = 0; s < columns; ++s)
            out[(i + r) * ld + j + s - first] = (o.bias ? o.bias[j + s] : 0) + o.alpha * sums[r * columns + s];
      }
    }
    follow(m, last - first, out, ld, c, 0, first, o);
  });
}

/// The kind of tile for two factors.
Kind kind_of(const Level& l, const Left& a, const Right& b) {
  if (a.dtype == DType::bf16 && b.dtype == DType::bf16 && l.tile[int(Kind::dots)][0][0]) return Kind::dots;
  if (!b.packed) return Kind::f32;  // widened as it is packed
  return b.dtype == DType::bf16 ? Kind::bf16 : b.dtype == DType::f16 ? Kind::f16 : Kind::f32;
}

}  // namespace

void matmul(int64_t m, int64_t n, int64_t k, Left a, Right b, Result c, MatmulOptions o) {
  if (m <= 0 || n <= 0) return;
  const Level& l = kernels::level();
  if (k > 0 && !b.packed && !o.low_rank && a.col == 1 && b.row == 1 && worth_dots(m, k))
    return few_rows(l, m, n, k, a, b, c, o);

  // Along k everything is counted in words of the left factor: numbers, or pairs of them.
  const Kind kind = kind_of(l, a, b);
  const int64_t words = kind == Kind::dots ? up(k, 2) : k, half = kind == Kind::bf16 || kind == Kind::f16 ? 2 : 1;
  const int64_t blocks = std::max<int64_t>(1, up(words, kDepth)),
                depth = std::max<int64_t>(half, up(up(words, blocks), half) * half);
  const int64_t panels = up(n, l.nr), panel_words = b.panel ? b.panel : up(words, half) * l.nr;
  // Few rows wait for panels, which come from memory: a panel's block is multiplied by all rows while the next one is
  // fetched. Threads then share panels out, else rows too.
  const bool low = b.packed && m > l.mr && m <= kLow;
  const int64_t group = low && threads() > 1 ? std::clamp<int64_t>(panels / (kPieces * threads()), 1, kGroup) : kGroup,
                groups = up(panels, group);
  // Rows shared out evenly, so that the last tile of a block is not a sliver.
  const int64_t rows = std::min(m, std::max<int64_t>(l.mr, kLeft / std::max<int64_t>(words, 1)));
  const int64_t mr = up(rows, up(rows, l.mr));
  const int64_t block = rows < m ? rows / mr * mr : m;
  const bool narrow = c.dtype == DType::bf16;
  // The left factor's words are read where they lie if rows of them do. Rows of bfloat16 that meet float32 are widened
  // first, and rows that would all lie in the same lines of the first cache are copied to others.
  const bool widen = a.dtype == DType::bf16 && a.col == 1 && kind != Kind::dots;
  const bool lies = a.col == 1 && (kind == Kind::dots ? a.row % 2 == 0 && k % 2 == 0 : widen || a.dtype == DType::f32);
  const int64_t row_words = kind == Kind::dots ? a.row / 2 : a.row;
  const bool copied = lies && (widen || (row_words % 1024 == 0 && rows > 1));
  const int64_t left_row = copied ? up(words, kLine) * kLine + kLine : row_words;

  for (int64_t top = 0; top < m; top += block) {
    const int64_t height = std::min(block, m - top), strips = up(height, mr), stride = mr * words + kPadding;
    float* packed = nullptr;
    const float* lying = static_cast<const float*>(a.data) + top * left_row;
    if (copied) {
      float* to = left_scratch.floats(height * left_row);
      lying = to;
      parallel_for(height, k / 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const void* from = at(a, top + i, 0);
          if (widen) MT_FOR_ISA(widen_row)(static_cast<const bf16*>(from), to + i * left_row, k);
          else std::copy_n(static_cast<const float*>(from), words, to + i * left_row);
        }
      });
    } else if (!lies) {
      packed = left_scratch.floats(strips * stride);
      parallel_for(strips, mr * words, [&](int64_t begin, int64_t end) {
        // All strips by short stretches of k: where these are rows, few pages are in use at a time.
        for (int64_t x = 0; x < words; x += kStretch)
          for (int64_t s = begin; s < end; ++s) {
            const int64_t count = std::min(mr, height - s * mr), wide = std::min(kStretch, words - x);
            float* to = packed + s * stride + x * count;
            if (kind == Kind::dots)
              l.pack_pairs(at(a, top + s * mr, 2 * x), a.row, a.col, count, std::min(2 * wide, k - 2 * x), to, count,
                           0);
            else l.pack[size_t(a.dtype)](at(a, top + s * mr, x), a.row, a.col, count, wide, to, count, 0);
          }
      });
    }
    // Few groups are cut by rows too, each cut packing its own copy of the panels.
    const int64_t cuts = threads() == 1 ? 1
                                        : std::clamp<int64_t>(up(kPieces * threads(), groups), 1,
                                                              std::max<int64_t>(1, height / 48));
    const int64_t cut = up(strips, std::max(cuts, narrow ? up(strips, up(kWideRows, mr)) : 1)), parts = up(strips, cut);
    parallel_for(
        groups * parts, cut * mr * std::min(n, group * l.nr) * words / kSpeed, [&](int64_t begin, int64_t end) {
          for (int64_t task = begin; task < end; ++task) {
            const int64_t first = task / parts * group, last = std::min(panels, first + group);
            const int64_t s0 = task % parts * cut, s1 = std::min(strips, s0 + cut);
            const int64_t left_edge = first * l.nr, wide = std::min(n, last * l.nr) - left_edge;
            // Sums of rows from s0·mr and columns from left_edge on.
            const int64_t lds = narrow ? group * l.nr : c.row;
            float* sums = narrow ? wide_scratch.floats(cut * mr * lds)
                                 : static_cast<float*>(c.data) + (top + s0 * mr) * lds + left_edge;
            const auto multiply = [&](Kind of, int64_t s, int64_t p, int64_t deep, const float* left, int64_t row,
                                      int64_t col, const float* right, int64_t ldb, const float* next, int64_t pace,
                                      float alpha, bool add) {
              const int64_t j = p * l.nr, count = std::min(mr, height - s * mr);
              Target out{sums + (s - s0) * mr * lds + j - left_edge,
                         lds,
                         !add && o.bias ? o.bias + j : nullptr,
                         alpha,
                         add,
                         int(std::min<int64_t>(l.nr, n - j)),
                         next ? next : right,
                         pace};
              l.tile[int(of)][out.columns > l.width][count - 1](deep, left, row, col, right, ldb, out);
            };
            const auto along = [&](int64_t s, int64_t p, int64_t x, const float* right, int64_t ldb, const float* next,
                                   int64_t pace) {
              const int64_t count = std::min(mr, height - s * mr);
              const float* left = packed ? packed + s * stride + x * count : lying + s * mr * left_row + x;
              multiply(kind, s, p, std::min(depth, words - x), left, packed ? 1 : left_row, packed ? count : 1, right,
                       ldb, next, pace, o.alpha, x > 0);
            };
            float* low_panels = nullptr;
            if (const LowRank* update = o.low_rank) {
              low_panels = low_scratch.floats(kGroup * update->rank * l.nr);
              l.pack[size_t(DType::f32)](at(update->right, 0, left_edge), update->right.col, update->right.row, wide,
                                         update->rank, low_panels, l.nr, update->rank * l.nr);
            }
            const auto finish = [&](int64_t s) {
              if (const LowRank* update = o.low_rank)
                for (int64_t p = first; p < last; ++p)
                  multiply(Kind::f32, s, p, update->rank, update->left + (top + s * mr) * update->rank, update->rank, 1,
                           low_panels + (p - first) * update->rank * l.nr, l.nr, nullptr, 0, update->factor, true);
              follow(std::min(mr, height - s * mr), wide, sums + (s - s0) * mr * lds, lds, c, top + s * mr, left_edge,
                     o);
            };
            const auto* ready = static_cast<const float*>(b.packed);
            // While the second and third strip are multiplied, lines of the panel that comes next along k, or in the
            // next group.
            const auto later = [&](int64_t turn, int64_t p, int64_t x) {
              const bool within = x + depth < words;
              if (!ready || turn < 1 || turn > 2 || (!within && p + group >= panels))
                return static_cast<const float*>(nullptr);
              return ready + (within ? p * panel_words + (x + depth) / half * l.nr : (p + group) * panel_words) +
                     (turn - 1) * kLine;
            };
            // The block of a panel that is multiplied next, in equal parts by all strips.
            const int64_t pace = up(l.nr, s1 - s0);
            const auto soon = [&](int64_t turn, int64_t p, int64_t x) {
              const int64_t deep = std::min(depth, words - x);
              const bool across = p + 1 < last, within = x + deep < words;
              if (!across && !within && last == panels) return static_cast<const float*>(nullptr);
              return ready +
                     (across   ? p + 1
                      : within ? first
                               : last) *
                         panel_words +
                     ((across   ? x
                       : within ? x + deep
                                : 0) *
                          l.nr +
                      turn * pace * deep) /
                         half;
            };
            // A single strip reads each panel from end to end, as it lies in memory, and asks for what it will read
            // soon.
            if (ready && s1 - s0 == 1) {
              for (int64_t p = first; p < last; ++p)
                for (int64_t x = 0; x == 0 || x < words; x += depth) {
                  const float* right = ready + p * panel_words + x / half * l.nr;
                  along(s0, p, x, right, l.nr, right + kSoon, l.nr);
                }
              finish(s0);
              continue;
            }
            for (int64_t x = 0; x == 0 || x < words; x += depth) {
              // Panel p of the group starts at right + p·panel, its rows lie ldb apart.
              const int64_t deep = std::min(depth, words - x);
              const float* right;
              int64_t ldb = l.nr, panel;
              bool lying_right = false;
              if (ready) {
                right = ready + first * panel_words + x / half * l.nr;
                panel = panel_words;
              } else if (b.dtype == DType::f32 && b.col == 1 && wide % l.nr == 0 &&
                         (k * b.row <= 16384 || s1 - s0 <= kReads)) {
                right = static_cast<const float*>(at(b, x, left_edge));
                ldb = b.row;
                lying_right = true;
                panel = l.nr;
              } else {
                panel = deep * l.nr;
                float* scratch = right_scratch.floats(kGroup * depth * l.nr);
                if (kind == Kind::dots)
                  l.pack_pairs(at(b, 2 * x, left_edge), b.col, b.row, wide, std::min(2 * deep, k - 2 * x), scratch,
                               l.nr, panel);
                else l.pack[size_t(b.dtype)](at(b, x, left_edge), b.col, b.row, wide, deep, scratch, l.nr, panel);
                right = scratch;
              }
              if (low) {
                for (int64_t p = first; p < last; ++p)
                  for (int64_t s = s0; s < s1; ++s)
                    along(s, p, x, right + (p - first) * panel, ldb, soon(s - s0, p, x), pace);
                for (int64_t s = s0; x + deep == words && s < s1; ++s) finish(s);
                continue;
              }
              for (int64_t s = s0; s < s1; ++s) {
                // Where the right factor lies as it was, two strips ask for the two lines of each row of the next
                // panel.
                for (int64_t p = first; p < last; ++p)
                  along(s, p, x, right + (p - first) * panel, ldb,
                        lying_right ? right + (p - first + 1) * panel + (s - s0) % 2 * kLine : later(s - s0, p, x),
                        ldb);
                if (x + deep == words) finish(s);
              }
            }
          }
        });
  }
}

int64_t packed_bytes(int64_t n, int64_t k, DType dtype) {
  const Level& l = kernels::level();
  return up(n, l.nr) * l.nr * (dtype == DType::f32 ? k : up(k, 2)) * int64_t(sizeof(float));
}

void pack_right(int64_t n, int64_t k, Right b, void* out) {
  const Level& l = kernels::level();
  const bool pairs = b.dtype != DType::f32;
  const int64_t panel = l.nr * (pairs ? up(k, 2) : k);
  parallel_for(up(n, l.nr), k * l.nr, [&](int64_t begin, int64_t end) {
    (pairs ? l.pack_pairs : l.pack[0])(at(b, 0, begin * l.nr), b.col, b.row, std::min(n, end * l.nr) - begin * l.nr, k,
                                       static_cast<float*>(out) + begin * panel, l.nr, panel);
  });
}

Right rows_of(Right b, int64_t row, int64_t k) {
  const int64_t nr = kernels::level().nr, half = b.dtype == DType::f32 ? 1 : 2;
  b.data = at(b, row, 0);
  if (b.packed) {
    b.panel = up(k, half) * nr;
    b.packed = row % half ? nullptr : static_cast<const float*>(b.packed) + row / half * nr;
  }
  return b;
}

Right columns_of(Right b, int64_t col, int64_t k) {
  const int64_t nr = kernels::level().nr, half = b.dtype == DType::f32 ? 1 : 2;
  b.data = at(b, 0, col);
  if (b.packed) b.packed = col % nr ? nullptr : static_cast<const float*>(b.packed) + col / nr * up(k, half) * nr;
  return b;
}

}  // namespace mt
