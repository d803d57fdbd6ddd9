#include "kernels/cpu/matmul_panels.h"

#include <algorithm>

#include "core/blocks.h"
#include "core/round.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/quantised.h"

#include "kernels/cpu/each_isa.h"

namespace mt::kernels {
namespace {

constexpr int64_t kReads = 2;         // strips up to which an unpacked right factor is read where it lies
constexpr int64_t kNearRows = 16384;  // numbers between its first and last row up to which it is, however many strips
constexpr int64_t kLine = 16;         // words of a line of the cache
constexpr int64_t kUnpacked = 32;     // rows of a quantised matrix that are unpacked at a time: they lie in the cache

/// Kept for the next product on this thread.
thread_local Scratch panels_scratch, turn_scratch, row_scratch;

}  // namespace

RightPanels::RightPanels(const Product& p, int64_t group, int64_t strips)
    : first(group * p.plan.group),
      last(std::min(p.plan.panels, first + p.plan.group)),
      left_edge(first * p.level.nr),
      wide(std::min(p.n, last * p.level.nr) - left_edge),
      level_(p.level),
      plan_(p.plan),
      n_(p.n),
      k_(p.k),
      b_(p.right),
      nr_(p.level.nr),
      strips_(strips),
      pace_(ceil_div(nr_, strips)),
      ready_(static_cast<const float*>(b_.packed)),
      source_panel_(plan_.turns ? ceil_div(n_, nr_ / plan_.turns) * nr_ : 0) {}

Panels RightPanels::panels_at(int64_t x) const {
  if (ready_) return {ready_ + first * plan_.panel_words + x / plan_.words_per_row * nr_, nr_, plan_.panel_words};
  if (is_quantised(b_.dtype)) return unpacked(x);
  if (plan_.turns) return turned(x);
  const Right b = b_.turned ? rows_of_transpose(x) : b_;
  if (!b.turned && b.dtype == DType::f32 && b.col == 1 && wide % nr_ == 0 &&
      (k_ * b.row <= kNearRows || strips_ <= kReads))
    return {static_cast<const float*>(at(b, x, left_edge)), b.row, nr_, true};
  const int64_t apart = ceil_div(plan_.deep(x), plan_.words_per_row) * nr_;
  float* scratch = panels_scratch.floats(kGroup * plan_.depth * nr_);
  pack_block(b, b.turned ? 0 : plan_.numbers(x), numbers_from(x), b.turned ? 0 : left_edge, wide, scratch, apart);
  return {scratch, nr_, apart};
}

void RightPanels::prepare(int64_t p, int64_t x) const {
  if (plan_.turns) turn_panel(p, x, panels_scratch.floats(plan_.depth * nr_));
}

const float* RightPanels::panel_at(int64_t p, int64_t x) const {
  if (ready_) return ready_ + p * plan_.panel_words + x / plan_.words_per_row * nr_;
  float* scratch = panels_scratch.floats(plan_.depth * nr_);
  pack_block(b_, plan_.numbers(x), numbers_from(x), p * nr_, std::min(nr_, n_ - p * nr_), scratch, 0);
  return scratch;
}

/// Of the block that begins at x.
int64_t RightPanels::numbers_from(int64_t x) const {
  return std::min(plan_.numbers(plan_.deep(x)), k_ - plan_.numbers(x));
}

/// Rows and columns of the factor as panels that lie `apart` words apart.
void RightPanels::pack_block(const Right& b, int64_t row, int64_t rows, int64_t edge, int64_t columns, float* to,
                             int64_t apart) const {
  const bool pairs = plan_.kind != Kind::f32;
  (pairs ? level_.pack_pairs : level_.pack[size_t(b.dtype)])(at(b, row, edge), b.col, b.row, columns, rows, to, nr_,
                                                             apart);
}

// ---- out of the packed transpose ----

/// Rows from word x on, and the group's columns: in the transpose rows are columns of panels, and words run along the
/// columns. Blocks along k end where panels do.
Right RightPanels::rows_of_transpose(int64_t x) const {
  const int64_t half = b_.dtype == DType::f32 ? 1 : 2;
  const int64_t from = plan_.numbers(x), count = numbers_from(x);
  const int64_t panel = ceil_div(n_, half) * nr_, words = ceil_div(wide, half);
  const int64_t row = round_up(words, int64_t(level_.width));
  float* rows = turn_scratch.floats(round_up(count, nr_) * row);
  const float* packed = static_cast<const float*>(b_.turned) + left_edge / half * nr_;
  for (int64_t i = 0; i < count; i += nr_)
    level_.pack[size_t(DType::f32)](packed + (from + i) / nr_ * panel, nr_, 1, words, nr_, rows + i * row, row, 0);
  return {rows, b_.dtype, row * half, 1, nullptr, 0, rows};
}

/// The same by Level::turn, in one pass: all of the group's panels, or, panel by panel, one place, where each is turned
/// just before it is multiplied, so that it is still in cache.
Panels RightPanels::turned(int64_t x) const {
  const int64_t apart = plan_.panel_by_panel ? 0 : plan_.deep(x) * nr_;
  float* scratch = panels_scratch.floats((plan_.panel_by_panel ? 1 : kGroup) * plan_.depth * nr_);
  for (int64_t p = first; apart && p < last; ++p) turn_panel(p, x, scratch + (p - first) * apart);
  return {scratch, nr_, apart};
}

/// Panel p's columns are rows of each panel of the transpose, whose columns are rows of this one.
void RightPanels::turn_panel(int64_t p, int64_t x, float* to) const {
  const int64_t side = plan_.turns, rows = source_panel_ / nr_ - p * side;
  level_.turn[plan_.kind == Kind::dots](source_of(p, x), source_panel_, ceil_div(plan_.deep(x), side),
                                        std::min(side, rows), to);
}

/// Where panel p from x on lies in the packed transpose.
const float* RightPanels::source_of(int64_t p, int64_t x) const {
  return static_cast<const float*>(b_.turned) + x / plan_.turns * source_panel_ + p * plan_.turns * nr_;
}

// ---- out of a quantised matrix ----

/// The group's panels from x on, of a quantised matrix whose rows are columns of the factor, or its rows.
Panels RightPanels::unpacked(int64_t x) const {
  const Quantised& q = b_.quantised;
  const bool dots = plan_.kind == Kind::dots, transposed = is_transposed(b_, n_);
  const int64_t words = plan_.deep(x), apart = words * nr_, from = plan_.numbers(x), along = numbers_from(x);
  float* scratch = panels_scratch.floats(kGroup * plan_.depth * nr_);
  const int64_t rows = transposed ? wide : along, numbers = transposed ? along : wide;
  if (dots && level_.unpack && q.width % kUnpackWidth == 0) {
    level_.unpack(q, transposed, transposed ? left_edge : from, rows, transposed ? from : left_edge, numbers, scratch,
                  apart);
    return {scratch, nr_, apart};
  }
  // Rows of the matrix, a few at a time: a panel's columns, or a stretch along k.
  const int64_t ld = round_up(numbers, kLine) + kLine, height = transposed ? nr_ : kUnpacked;
  float* row = row_scratch.floats(height * ld + (dots ? ceil_div(height * ld, int64_t(2)) : 0));
  auto* narrow = reinterpret_cast<bf16*>(row + height * ld);
  for (int64_t r = 0; r < rows; r += height) {
    const int64_t count = std::min(height, rows - r);
    for (int64_t i = 0; i < count; ++i) {
      if (transposed) dequantise(q, left_edge + r + i, from, numbers, row + i * ld);
      else dequantise(q, from + r + i, left_edge, numbers, row + i * ld);
      if (dots) MT_FOR_ISA(narrow_row)(row + i * ld, narrow + i * ld, numbers);
    }
    const int64_t across = transposed ? ld : 1, step = transposed ? 1 : ld, n = transposed ? count : wide,
                  k = transposed ? along : count;
    float* to = scratch + (transposed ? r / nr_ * apart : r / plan_.numbers(1) * nr_);
    if (dots) level_.pack_pairs(narrow, across, step, n, k, to, nr_, apart);
    else level_.pack[size_t(DType::f32)](row, across, step, n, k, to, nr_, apart);
  }
  return {scratch, nr_, apart};
}

// ---- what is asked for in advance ----

const float* RightPanels::later(int64_t strip, int64_t p, int64_t x) const {
  const bool within = x + plan_.depth < plan_.words;
  if (!ready_ || strip < 1 || strip > 2 || (!within && p + plan_.group >= plan_.panels)) return nullptr;
  const int64_t words = within ? p * plan_.panel_words + (x + plan_.depth) / plan_.words_per_row * nr_
                               : (p + plan_.group) * plan_.panel_words;
  return ready_ + words + (strip - 1) * kLine;
}

const float* RightPanels::soon(int64_t strip, int64_t p, int64_t x) const {
  const bool across = p + 1 < last, within = x + plan_.deep(x) < plan_.words;
  if (!across && !within && last == plan_.panels) return nullptr;
  const int64_t panel = across ? p + 1 : within ? first : last, from = across ? x : within ? x + plan_.deep(x) : 0;
  if (plan_.turns) return source_of(panel, from) + strip * pace_ * plan_.turns;
  return ready_ + panel * plan_.panel_words + (from * nr_ + strip * pace_ * plan_.deep(x)) / plan_.words_per_row;
}

}  // namespace mt::kernels
