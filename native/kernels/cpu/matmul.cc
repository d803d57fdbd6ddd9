// The product as matmul_plan.h cuts it: the left factor brought into its form, then tasks, each of which packs the
// panels it needs of the right factor block by block along k, so that they are hot when they are multiplied.
#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <vector>

#include "core/blocks.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/round.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/matmul_kernels.h"
#include "kernels/cpu/matmul_panels.h"
#include "kernels/cpu/matmul_plan.h"
#include "kernels/cpu/quantised.h"

#include "kernels/cpu/each_isa.h"

namespace mt {

namespace {

using kernels::kGroup;
using kernels::Kind;
using kernels::kPadding;
using kernels::LeftForm;
using kernels::Level;
using kernels::Panels;
using kernels::Plan;
using kernels::RightPanels;
using kernels::Target;

constexpr int64_t kStretch = 64;  // words of a row packed in one go
constexpr int64_t kLine = 16;     // words of a line of the cache
constexpr int64_t kSoon = 512;    // words between what is read and what is asked for where memory is the limit
constexpr int64_t kSpeed = 16;    // multiply-adds in the time of one scalar operation

/// Kept for the next product on this thread.
thread_local Scratch left_scratch, low_scratch, wide_scratch, row_scratch;

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

/// Each column's dot products, the right factor read once and as it lies.
void few_rows(const Level& l, int64_t m, int64_t n, int64_t k, Left a, const Right& b, const Result& c,
              const MatmulOptions& o) {
  using kernels::kDotColumns;
  using kernels::kDotRows;
  const bool unpack = is_quantised(b.dtype);
  const bool pairs = a.dtype == DType::bf16 && b.dtype == DType::bf16 && l.dot_pairs[0][0] && k % 2 == 0 &&
                     a.row % 2 == 0 && b.col % 2 == 0;
  std::vector<float> wide, ordered;  // the left factor as float32, and as codes want it
  if (a.dtype == DType::bf16 && !pairs) {
    wide.resize(size_t(m * k));
    for (int64_t i = 0; i < m; ++i)
      MT_FOR_ISA(widen_row)(static_cast<const bf16*>(at(a, i, 0)), wide.data() + i * k, k);
    a = {wide.data(), DType::f32, k, 1};
  }
  const float* left = static_cast<const float*>(a.data);
  const auto words = [](const void* p) { return static_cast<const float*>(p); };
  if (unpack) {
    ordered.resize(size_t(m * k));
    for (int64_t i = 0; i < m; ++i) kernels::in_order_of_codes(b.quantised, left + i * a.row, ordered.data() + i * k);
    left = ordered.data();
    a.row = k;
  }
  parallel_for(ceil_div(n, kDotColumns), m * k * kDotColumns / kSpeed, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kDotColumns, last = std::min(n, end * kDotColumns);
    const bool narrow = c.dtype == DType::bf16;
    float* out = narrow ? wide_scratch.floats(m * (last - first)) : static_cast<float*>(c.data) + first;
    const int64_t ld = narrow ? last - first : c.row;
    float* unpacked = unpack ? row_scratch.floats(kernels::dots_scratch(b.quantised)) : nullptr;
    float sums[kDotRows * kDotColumns];
    for (int64_t j = first, columns; j < last; j += columns) {
      columns = j + kDotColumns <= n ? kDotColumns : 1;
      const void* next = at(b, 0, j + 2 * columns <= n ? j + columns : j);
      for (int64_t i = 0, count; i < m; i += count) {
        count = std::min<int64_t>(kDotRows, m - i);
        if (unpack) kernels::quantised_dots(b.quantised, j, columns, left + i * a.row, a.row, count, unpacked, sums);
        else if (pairs)
          l.dot_pairs[columns > 1][count - 1](k / 2, left + i * a.row / 2, a.row / 2, words(at(b, 0, j)), b.col / 2,
                                              words(next), sums);
        else l.dot[size_t(b.dtype)][columns > 1][count - 1](k, left + i * a.row, a.row, at(b, 0, j), b.col, next, sums);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t s = 0; s < columns; ++s)
            out[(i + r) * ld + j + s - first] = (o.bias ? o.bias[j + s] : 0) + o.alpha * sums[r * columns + s];
      }
    }
    follow(m, last - first, out, ld, c, 0, first, o);
  });
}

// ---- the left factor ----

/// A product while it is computed.
struct Matmul {
  const Level& level;
  const Plan& plan;
  int64_t n, k;
  const Left& a;
  const Right& b;
  const Result& c;
  const MatmulOptions& options;
};

/// Rows from `top` on.
struct Block {
  int64_t top, height;
  int64_t cut, parts;  // strips of a task, and into how many tasks that divides each group of panels
  const float* left;   // what tiles read of the left factor: its first row there, or the first packed strip
};

/// Rows of the left factor next to each other, as words that tiles multiply.
const float* copy_rows(const Matmul& p, int64_t top, int64_t height) {
  const Plan& plan = p.plan;
  float* to = left_scratch.floats(height * plan.left_row);
  parallel_for(height, p.k / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const void* from = at(p.a, top + i, 0);
      if (plan.kind != Kind::dots && p.a.dtype == DType::bf16)
        MT_FOR_ISA(widen_row)(static_cast<const bf16*>(from), to + i * plan.left_row, p.k);
      else std::copy_n(static_cast<const float*>(from), plan.words, to + i * plan.left_row);
    }
  });
  return to;
}

/// Words between packed strips.
int64_t strip_words(const Plan& plan) { return plan.strip * plan.words + kPadding; }

const float* pack_strips(const Matmul& p, int64_t top, int64_t height) {
  const Plan& plan = p.plan;
  const int64_t strips = plan.strips(height), mr = plan.strip, words = plan.words, apart = strip_words(plan);
  float* packed = left_scratch.floats(strips * apart);
  parallel_for(strips, mr * words, [&](int64_t begin, int64_t end) {
    // All strips by short stretches of k: where these are rows, few pages are in use at a time.
    for (int64_t x = 0; x < words; x += kStretch)
      for (int64_t s = begin; s < end; ++s) {
        const int64_t count = std::min(mr, height - s * mr), wide = std::min(kStretch, words - x);
        float* to = packed + s * apart + x * count;
        if (plan.kind == Kind::dots)
          p.level.pack_pairs(at(p.a, top + s * mr, 2 * x), p.a.row, p.a.col, count, std::min(2 * wide, p.k - 2 * x), to,
                             count, 0);
        else p.level.pack[size_t(p.a.dtype)](at(p.a, top + s * mr, x), p.a.row, p.a.col, count, wide, to, count, 0);
      }
  });
  return packed;
}

const float* prepare_left(const Matmul& p, int64_t top, int64_t height) {
  switch (p.plan.left) {
    case LeftForm::rows: return copy_rows(p, top, height);
    case LeftForm::strips: return pack_strips(p, top, height);
    default: return static_cast<const float*>(p.a.data) + top * p.plan.left_row;
  }
}

// ---- a task ----

/// A group of panels for a part of a block's strips.
class Task {
 public:
  Task(const Matmul& call, const Block& block, int64_t number)
      : p_(call),
        plan_(call.plan),
        o_(call.options),
        block_(block),
        nr_(call.level.nr),
        s0_(number % block.parts * block.cut),
        s1_(std::min(plan_.strips(block.height), s0_ + block.cut)),
        right_({call.level, plan_, call.n, call.k, call.b}, number / block.parts, s1_ - s0_),
        first_(right_.first),
        last_(right_.last),
        left_edge_(right_.left_edge),
        wide_(right_.wide) {
    sums_row_ = plan_.narrow ? plan_.group * nr_ : p_.c.row;
    sums_ = plan_.narrow ? wide_scratch.floats(block.cut * plan_.strip * sums_row_)
                         : static_cast<float*>(p_.c.data) + (block.top + s0_ * plan_.strip) * sums_row_ + left_edge_;
  }

  void run() {
    if (o_.low_rank) pack_low_rank();
    // A single strip reads each panel from end to end, as it lies in memory, and asks for what it will read soon.
    if (p_.b.order == Order::packed && s1_ - s0_ == 1) {
      if (one_row()) return finish(s0_);
      for (int64_t p = first_; p < last_; ++p)
        for (int64_t x = 0; x == 0 || x < plan_.words; x += plan_.depth) {
          const float* panel = right_.panel_at(p, x);
          // Of what is packed next, a line a step.
          const float* coming = p_.b.packed ? panel + kSoon
                                            : static_cast<const float*>(at(p_.b, 0, (p + 1) * nr_)) + x * kLine;
          along(s0_, p, x, {panel, nr_, 0}, coming, p_.b.packed ? nr_ : kLine);
        }
      return finish(s0_);
    }
    for (int64_t x = 0; x == 0 || x < plan_.words; x += plan_.depth) {
      const Panels panels = right_.panels_at(x);
      if (plan_.panel_by_panel) by_panels(x, panels);
      else by_strips(x, panels);
    }
  }

 private:
  int64_t height_of(int64_t s) const { return std::min(plan_.strip, block_.height - s * plan_.strip); }
  float* sums_of(int64_t s) const { return sums_ + (s - s0_) * plan_.strip * sums_row_; }

  /// One tile: strip s of `left`, panel p at `right`. `next` is asked for meanwhile, `pace` words on at every step.
  void multiply(Kind kind, int64_t s, int64_t p, int64_t words, const float* left, int64_t row, int64_t col,
                const float* right, int64_t right_row, const float* next, int64_t pace, float alpha, bool add) {
    const int64_t j = p * nr_, height = height_of(s), most = kind == plan_.kind ? height : p_.level.mr;
    for (int64_t i = 0; i < height; i += most) {
      const Target out{sums_of(s) + i * sums_row_ + j - left_edge_,
                       sums_row_,
                       !add && o_.bias ? o_.bias + j : nullptr,
                       alpha,
                       add,
                       int(std::min<int64_t>(nr_, p_.n - j)),
                       next ? next : right,
                       pace,
                       next ? right_.leap() : 0,
                       next ? plan_.turns : 0};
      const auto& tiles = p_.level.tile[int(kind)][out.columns > p_.level.width];
      tiles[std::min(most, height - i) - 1](words, left + i * row, row, col, right, right_row, out);
    }
  }
  /// One row by columns that lie as rows in memory and are not packed. False where that is not so.
  bool one_row() const {
    const auto& b = p_.b;
    const auto row = p_.level.one_row[int(plan_.kind)];
    const int64_t half = 4 / int64_t(size_of(b.dtype));
    if (b.packed || b.row != 1 || !row || height_of(s0_) != 1 || p_.k % half || b.col % half) return false;
    const float* left = block_.left + s0_ * (plan_.left == LeftForm::strips ? strip_words(plan_) : plan_.left_row);
    for (int64_t p = first_; p < last_; ++p)
      for (int64_t x = 0; x == 0 || x < plan_.words; x += plan_.depth) {
        const int64_t j = p * nr_, column = plan_.numbers(x);
        const auto* from = static_cast<const float*>(at(b, column, j));
        const float* next = p + 1 < plan_.panels ? static_cast<const float*>(at(b, 0, j + nr_)) + column / half * nr_
                                                 : from;
        row(plan_.deep(x) / plan_.words_per_row, left + x, from, b.col / half,
            {sums_of(s0_) + j - left_edge_, sums_row_, x == 0 && o_.bias ? o_.bias + j : nullptr, o_.alpha, x > 0,
             int(std::min<int64_t>(nr_, p_.n - j)), next, 0});
      }
    return true;
  }
  /// The block along k from x on.
  void along(int64_t s, int64_t p, int64_t x, const Panels& right, const float* next, int64_t pace) {
    const float* panel = right.first + (p - first_) * right.apart;
    const int64_t height = height_of(s);
    if (plan_.left == LeftForm::strips)
      multiply(plan_.kind, s, p, plan_.deep(x), block_.left + s * strip_words(plan_) + x * height, 1, height, panel,
               right.row, next, pace, o_.alpha, x > 0);
    else
      multiply(plan_.kind, s, p, plan_.deep(x), block_.left + s * plan_.strip * plan_.left_row + x, plan_.left_row, 1,
               panel, right.row, next, pace, o_.alpha, x > 0);
  }

  void pack_low_rank() {
    const LowRank& update = *o_.low_rank;
    low_panels_ = low_scratch.floats(kGroup * update.rank * nr_);
    p_.level.pack[size_t(DType::f32)](at(update.right, 0, left_edge_), update.right.col, update.right.row, wide_,
                                      update.rank, low_panels_, nr_, update.rank * nr_);
  }
  /// What comes after the sums of a strip.
  void finish(int64_t s) {
    const int64_t i = block_.top + s * plan_.strip;
    if (const LowRank* update = o_.low_rank)
      for (int64_t p = first_; p < last_; ++p)
        multiply(Kind::f32, s, p, update->rank, update->left + i * update->rank, update->rank, 1,
                 low_panels_ + (p - first_) * update->rank * nr_, nr_, nullptr, 0, update->factor, true);
    follow(height_of(s), wide_, sums_of(s), sums_row_, p_.c, i, left_edge_, o_);
  }

  void by_panels(int64_t x, const Panels& panels) {
    for (int64_t p = first_; p < last_; ++p) {
      right_.prepare(p, x);
      for (int64_t s = s0_; s < s1_; ++s) along(s, p, x, panels, right_.soon(s - s0_, p, x), right_.pace());
    }
    if (x + plan_.deep(x) == plan_.words)
      for (int64_t s = s0_; s < s1_; ++s) finish(s);
  }
  void by_strips(int64_t x, const Panels& panels) {
    for (int64_t s = s0_; s < s1_; ++s) {
      // Where the right factor lies as it was, two strips ask for the two lines of each row of the next panel.
      for (int64_t p = first_; p < last_; ++p)
        along(s, p, x, panels,
              panels.lie ? panels.first + (p - first_ + 1) * panels.apart + (s - s0_) % 2 * kLine
                         : right_.later(s - s0_, p, x),
              panels.row);
      if (x + plan_.deep(x) == plan_.words) finish(s);
    }
  }

  const Matmul& p_;
  const Plan& plan_;
  const MatmulOptions& o_;
  const Block& block_;
  const int64_t nr_;
  const int64_t s0_, s1_;  // strips of the block
  const RightPanels right_;
  const int64_t first_, last_;      // panels
  const int64_t left_edge_, wide_;  // columns
  int64_t sums_row_;
  float* sums_;  // of the first strip's rows and of columns from left_edge_ on
  float* low_panels_ = nullptr;
};

}  // namespace

void matmul(int64_t m, int64_t n, int64_t k, Left a, Right b, Result c, MatmulOptions o) {
  if (m <= 0 || n <= 0) return;
  const Level& level = kernels::level();
  const Plan plan = kernels::plan(level, threads(), m, n, k, a, b, c.dtype, o.low_rank != nullptr);
  if (plan.few_rows) return few_rows(level, m, n, k, a, b, c, o);
  const Matmul call{level, plan, n, k, a, b, c, o};
  for (int64_t top = 0; top < m; top += plan.block) {
    const int64_t height = std::min(plan.block, m - top), cut = plan.strips_of_task(height);
    const Block block{top, height, cut, ceil_div(plan.strips(height), cut), prepare_left(call, top, height)};
    const int64_t cost = cut * plan.strip * std::min(n, plan.group * level.nr) * plan.words / kSpeed;
    parallel_for(plan.groups() * block.parts, cost, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) Task(call, block, task).run();
    });
  }
}

int64_t packed_bytes(int64_t n, int64_t k, DType dtype) {
  const Level& l = kernels::level();
  return ceil_div(n, l.nr) * l.nr * (dtype == DType::f32 ? k : ceil_div(k, 2)) * int64_t(sizeof(float));
}

void pack_right(int64_t n, int64_t k, Right b, void* out) {
  const Level& l = kernels::level();
  const bool pairs = b.dtype != DType::f32;
  const int64_t panel = l.nr * (pairs ? ceil_div(k, 2) : k);
  parallel_for(ceil_div(n, l.nr), k * l.nr, [&](int64_t begin, int64_t end) {
    (pairs ? l.pack_pairs : l.pack[0])(at(b, 0, begin * l.nr), b.col, b.row, std::min(n, end * l.nr) - begin * l.nr, k,
                                       static_cast<float*>(out) + begin * panel, l.nr, panel);
  });
}

Right rows_of(Right b, int64_t row, int64_t k) {
  const int64_t nr = kernels::level().nr, half = b.dtype == DType::f32 ? 1 : 2;
  b.data = at(b, row, 0);
  if (b.packed) {
    b.panel = ceil_div(k, half) * nr;
    b.packed = row % half ? nullptr : static_cast<const float*>(b.packed) + row / half * nr;
  }
  return b;
}

Right columns_of(Right b, int64_t col, int64_t k) {
  const int64_t nr = kernels::level().nr, half = b.dtype == DType::f32 ? 1 : 2;
  b.data = at(b, 0, col);
  if (b.packed) b.packed = col % nr ? nullptr : static_cast<const float*>(b.packed) + col / nr * ceil_div(k, half) * nr;
  return b;
}

}  // namespace mt
