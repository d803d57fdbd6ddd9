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
using kernels::Plan;
using kernels::Target;

constexpr int64_t kReads = 2;         // strips up to which an unpacked right factor is read where it lies
constexpr int64_t kNearRows = 16384;  // numbers between its first and last row up to which it is, however many strips
constexpr int64_t kStretch = 64;      // words of a row packed in one go
constexpr int64_t kLine = 16;         // words of a line of the cache
constexpr int64_t kSoon = 512;        // words between what is read and what is asked for where memory is the limit
constexpr int64_t kUnpacked = 32;     // rows of a quantised matrix that are unpacked at a time: they lie in the cache
constexpr int64_t kSpeed = 16;        // multiply-adds in the time of one scalar operation

/// Kept for the next product on this thread.
thread_local Scratch left_scratch, right_scratch, low_scratch, wide_scratch, turn_scratch, row_scratch;

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

/// Each column's dot products, the right factor read once and as it lies.
void few_rows(const Level& l, int64_t m, int64_t n, int64_t k, Left a, const Right& b, const Result& c,
              const MatmulOptions& o) {
  using kernels::kDotColumns;
  using kernels::kDotRows;
  const bool unpack = is_quantised(b.dtype);
  std::vector<float> wide, ordered;  // the left factor as float32, and as codes want it
  if (a.dtype == DType::bf16) {
    wide.resize(size_t(m * k));
    for (int64_t i = 0; i < m; ++i)
      MT_FOR_ISA(widen_row)(static_cast<const bf16*>(at(a, i, 0)), wide.data() + i * k, k);
    a = {wide.data(), DType::f32, k, 1};
  }
  const float* left = static_cast<const float*>(a.data);
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
      for (int64_t i = 0, count; i < m; i += count) {
        count = std::min<int64_t>(kDotRows, m - i);
        if (unpack) kernels::quantised_dots(b.quantised, j, columns, left + i * a.row, a.row, count, unpacked, sums);
        else
          l.dot[size_t(b.dtype)][columns > 1][count - 1](k, left + i * a.row, a.row, at(b, 0, j), b.col,
                                                         at(b, 0, j + 2 * columns <= n ? j + columns : j), sums);
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
      : p_(call), plan_(call.plan), o_(call.options), block_(block), nr_(call.level.nr) {
    first_ = number / block.parts * plan_.group, last_ = std::min(plan_.panels, first_ + plan_.group);
    s0_ = number % block.parts * block.cut, s1_ = std::min(plan_.strips(block.height), s0_ + block.cut);
    left_edge_ = first_ * nr_, wide_ = std::min(p_.n, last_ * nr_) - left_edge_;
    sums_row_ = plan_.narrow ? plan_.group * nr_ : p_.c.row;
    sums_ = plan_.narrow ? wide_scratch.floats(block.cut * plan_.strip * sums_row_)
                         : static_cast<float*>(p_.c.data) + (block.top + s0_ * plan_.strip) * sums_row_ + left_edge_;
    ready_ = static_cast<const float*>(p_.b.packed);
    pace_ = ceil_div(int64_t(nr_), s1_ - s0_);
    source_panel_ = plan_.turns ? ceil_div(p_.n, int64_t(2)) * nr_ : 0;
  }

  void run() {
    if (o_.low_rank) pack_low_rank();
    // A single strip reads each panel from end to end, as it lies in memory, and asks for what it will read soon.
    if (p_.b.order == Order::packed && s1_ - s0_ == 1) {
      for (int64_t p = first_; p < last_; ++p)
        for (int64_t x = 0; x == 0 || x < plan_.words; x += plan_.depth) {
          const float* right = panel_at(p, x);
          // Of what is packed next, a line a step.
          const float* coming = ready_ ? right + kSoon
                                       : static_cast<const float*>(at(p_.b, 0, (p + 1) * nr_)) + x * kLine;
          along(s0_, p, x, {right, nr_, 0}, coming, ready_ ? nr_ : kLine);
        }
      return finish(s0_);
    }
    for (int64_t x = 0; x == 0 || x < plan_.words; x += plan_.depth) {
      const Panels right = panels_at(x);
      if (plan_.panel_by_panel) by_panels(x, right);
      else by_strips(x, right);
    }
  }

 private:
  /// A block along k of the group's panels: where the first starts, words between rows, and between panels.
  struct Panels {
    const float* first;
    int64_t row, apart;
    bool lie = false;  // in the right factor as it is
  };

  int64_t height_of(int64_t s) const { return std::min(plan_.strip, block_.height - s * plan_.strip); }
  /// Words of the block along k that begins at x.
  int64_t deep(int64_t x) const { return std::min(plan_.depth, plan_.words - x); }
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
                       next ? source_panel_ : 0};
      const auto& tiles = p_.level.tile[int(kind)][out.columns > p_.level.width];
      tiles[std::min(most, height - i) - 1](words, left + i * row, row, col, right, right_row, out);
    }
  }
  /// The block along k from x on.
  void along(int64_t s, int64_t p, int64_t x, const Panels& right, const float* next, int64_t pace) {
    const float* panel = right.first + (p - first_) * right.apart;
    const int64_t height = height_of(s);
    if (plan_.left == LeftForm::strips)
      multiply(plan_.kind, s, p, deep(x), block_.left + s * strip_words(plan_) + x * height, 1, height, panel,
               right.row, next, pace, o_.alpha, x > 0);
    else
      multiply(plan_.kind, s, p, deep(x), block_.left + s * plan_.strip * plan_.left_row + x, plan_.left_row, 1, panel,
               right.row, next, pace, o_.alpha, x > 0);
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

  /// The group's panels from x on: packed once and for all, or where they lie, or packed now.
  Panels panels_at(int64_t x) const {
    if (ready_) return {ready_ + first_ * plan_.panel_words + x / plan_.words_per_row * nr_, nr_, plan_.panel_words};
    if (is_quantised(p_.b.dtype)) return unpacked(x);
    if (plan_.turns) return turned(x);
    const Right b = p_.b.turned ? turn(p_.b, x) : p_.b;
    if (!b.turned && b.dtype == DType::f32 && b.col == 1 && wide_ % nr_ == 0 &&
        (p_.k * b.row <= kNearRows || s1_ - s0_ <= kReads))
      return {static_cast<const float*>(at(b, x, left_edge_)), b.row, nr_, true};
    const int64_t words = deep(x), apart = ceil_div(words, plan_.words_per_row) * nr_;
    float* scratch = right_scratch.floats(kGroup * plan_.depth * nr_);
    pack_block(b, b.turned ? 0 : numbers(x), numbers_from(x), b.turned ? 0 : left_edge_, wide_, scratch, apart);
    return {scratch, nr_, apart};
  }
  /// Numbers along k that words stand for, and of the block that begins at x.
  int64_t numbers(int64_t words) const { return plan_.kind == Kind::dots ? 2 * words : words; }
  int64_t numbers_from(int64_t x) const { return std::min(numbers(deep(x)), p_.k - numbers(x)); }
  /// One panel from x on, packed once and for all or now.
  const float* panel_at(int64_t p, int64_t x) const {
    if (ready_) return ready_ + p * plan_.panel_words + x / plan_.words_per_row * nr_;
    float* scratch = right_scratch.floats(plan_.depth * nr_);
    pack_block(p_.b, numbers(x), numbers_from(x), p * nr_, std::min(nr_, p_.n - p * nr_), scratch, 0);
    return scratch;
  }
  /// Rows and columns of the factor as panels that lie `apart` words apart.
  void pack_block(const Right& b, int64_t row, int64_t rows, int64_t edge, int64_t columns, float* to,
                  int64_t apart) const {
    const bool pairs = plan_.kind != Kind::f32;
    (pairs ? p_.level.pack_pairs : p_.level.pack[size_t(b.dtype)])(at(b, row, edge), b.col, b.row, columns, rows, to,
                                                                   nr_, apart);
  }

  /// Rows from word x on, and the group's columns, out of the packed transpose: there the rows are columns of panels,
  /// and words run along the columns. Blocks along k end where panels do.
  Right turn(const Right& b, int64_t x) const {
    const int64_t half = b.dtype == DType::f32 ? 1 : 2, pairs = plan_.kind == Kind::dots ? 2 : 1;
    const int64_t first = x * pairs, count = std::min(deep(x) * pairs, p_.k - first);
    const int64_t panel = ceil_div(p_.n, half) * nr_, wide = ceil_div(wide_, half);
    const int64_t row = round_up(wide, int64_t(p_.level.width));
    float* rows = turn_scratch.floats(round_up(count, int64_t(nr_)) * row);
    const float* packed = static_cast<const float*>(b.turned) + left_edge_ / half * nr_;
    for (int64_t i = 0; i < count; i += nr_)
      p_.level.pack[size_t(DType::f32)](packed + (first + i) / nr_ * panel, nr_, 1, wide, nr_, rows + i * row, row, 0);
    return {rows, b.dtype, row * half, 1, nullptr, 0, rows};
  }

  /// The same by Level::turn, in one pass: all of the group's panels, or, panel by panel, one place, where each is
  /// turned just before it is multiplied, so that it is still in cache.
  Panels turned(int64_t x) const {
    const int64_t apart = plan_.panel_by_panel ? 0 : deep(x) * nr_;
    float* scratch = right_scratch.floats((plan_.panel_by_panel ? 1 : kGroup) * plan_.depth * nr_);
    for (int64_t p = first_; apart && p < last_; ++p) turn_panel(p, x, scratch + (p - first_) * apart);
    return {scratch, nr_, apart};
  }
  /// Panel p's columns are rows of each panel of the transpose, whose columns are rows of this one.
  void turn_panel(int64_t p, int64_t x, float* to) const {
    const int64_t half = nr_ / 2, rows = ceil_div(p_.n, int64_t(2)) - p * half;
    p_.level.turn(source_of(p, x), source_panel_, ceil_div(deep(x), half), std::min(half, rows), to);
  }

  /// The group's panels from x on, of a quantised matrix whose rows are columns of the factor, or its rows.
  Panels unpacked(int64_t x) const {
    const Quantised& q = p_.b.quantised;
    const bool dots = plan_.kind == Kind::dots, transposed = is_transposed(p_.b, p_.n);
    const int64_t words = deep(x), apart = words * nr_, each = dots ? 2 : 1, from = x * each,
                  along = std::min(words * each, p_.k - from);
    float* scratch = right_scratch.floats(kGroup * plan_.depth * nr_);
    // Rows of the matrix, a few at a time: a panel's columns, or a stretch along k.
    const int64_t rows = transposed ? wide_ : along, numbers = transposed ? along : wide_;
    const int64_t ld = round_up(numbers, kLine) + kLine, height = transposed ? nr_ : kUnpacked;
    float* row = row_scratch.floats(height * ld + (dots ? ceil_div(height * ld, int64_t(2)) : 0));
    auto* narrow = reinterpret_cast<bf16*>(row + height * ld);
    for (int64_t first = 0; first < rows; first += height) {
      const int64_t count = std::min(height, rows - first);
      for (int64_t i = 0; i < count; ++i) {
        if (transposed) kernels::dequantise(q, left_edge_ + first + i, from, numbers, row + i * ld);
        else kernels::dequantise(q, from + first + i, left_edge_, numbers, row + i * ld);
        if (dots) MT_FOR_ISA(narrow_row)(row + i * ld, narrow + i * ld, numbers);
      }
      const int64_t across = transposed ? ld : 1, step = transposed ? 1 : ld, n = transposed ? count : wide_,
                    k = transposed ? along : count;
      float* to = scratch + (transposed ? first / nr_ * apart : first / each * nr_);
      if (dots) p_.level.pack_pairs(narrow, across, step, n, k, to, nr_, apart);
      else p_.level.pack[size_t(DType::f32)](row, across, step, n, k, to, nr_, apart);
    }
    return {scratch, nr_, apart};
  }

  void by_panels(int64_t x, const Panels& right) {
    for (int64_t p = first_; p < last_; ++p) {
      if (plan_.turns) turn_panel(p, x, right_scratch.floats(plan_.depth * nr_));  // at right.first
      for (int64_t s = s0_; s < s1_; ++s) along(s, p, x, right, soon(s - s0_, p, x), pace_);
    }
    if (x + deep(x) == plan_.words)
      for (int64_t s = s0_; s < s1_; ++s) finish(s);
  }
  void by_strips(int64_t x, const Panels& right) {
    for (int64_t s = s0_; s < s1_; ++s) {
      // Where the right factor lies as it was, two strips ask for the two lines of each row of the next panel.
      for (int64_t p = first_; p < last_; ++p)
        along(s, p, x, right,
              right.lie ? right.first + (p - first_ + 1) * right.apart + (s - s0_) % 2 * kLine : later(s - s0_, p, x),
              right.row);
      if (x + deep(x) == plan_.words) finish(s);
    }
  }

  /// While the second and third strip are multiplied, lines of the panel that comes next along k, or in the next group.
  const float* later(int64_t turn, int64_t p, int64_t x) const {
    const bool within = x + plan_.depth < plan_.words;
    if (!ready_ || turn < 1 || turn > 2 || (!within && p + plan_.group >= plan_.panels)) return nullptr;
    const int64_t at = within ? p * plan_.panel_words + (x + plan_.depth) / plan_.words_per_row * nr_
                              : (p + plan_.group) * plan_.panel_words;
    return ready_ + at + (turn - 1) * kLine;
  }
  /// The block of a panel that is multiplied next, in equal parts by all strips.
  const float* soon(int64_t turn, int64_t p, int64_t x) const {
    const bool across = p + 1 < last_, within = x + deep(x) < plan_.words;
    if (!across && !within && last_ == plan_.panels) return nullptr;
    const int64_t panel = across ? p + 1 : within ? first_ : last_, from = across ? x : within ? x + deep(x) : 0;
    if (plan_.turns) return source_of(panel, from) + turn * pace_ * nr_ / 2;
    return ready_ + panel * plan_.panel_words + (from * nr_ + turn * pace_ * deep(x)) / plan_.words_per_row;
  }
  /// Where panel p from x on lies in the packed transpose.
  const float* source_of(int64_t p, int64_t x) const {
    return static_cast<const float*>(p_.b.turned) + x / (nr_ / 2) * source_panel_ + p * (nr_ / 2) * nr_;
  }

  const Matmul& p_;
  const Plan& plan_;
  const MatmulOptions& o_;
  const Block& block_;
  const int64_t nr_;
  int64_t first_, last_, s0_, s1_;  // panels, and strips of the block
  int64_t left_edge_, wide_;        // columns
  int64_t sums_row_, pace_;
  int64_t source_panel_;  // words between panels of the transpose that is turned, 0: none is
  float* sums_;           // of the first strip's rows and of columns from left_edge_ on
  float* low_panels_ = nullptr;
  const float* ready_;  // the right factor packed, null where it is not
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
