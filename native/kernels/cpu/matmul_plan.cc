#include "kernels/cpu/matmul_plan.h"

#include <algorithm>

#include "core/error.h"
#include "core/round.h"

namespace mt::kernels {
namespace {

constexpr int64_t kDepth = 320;              // words of a block along k: a tile's left rows then lie in the first cache
constexpr int64_t kLow = 256;                // rows up to which all meet a panel's block before the next panel's turn
constexpr int64_t kPieces = 6;               // tasks per thread that are aimed at
constexpr int64_t kPartRows = 48;            // at least, of a group's parts
constexpr int64_t kLeft = int64_t(4) << 20;  // words of the left factor in a block
constexpr int64_t kFewRows = 16;             // up to which a deep right factor is not worth packing
constexpr int64_t kDeep = 64;                // times as deep as there are rows: that pays for adding up a sum's lanes
constexpr int64_t kWideRows = 256;    // of float32 sums on their way to a bfloat16 result: they lie in the second cache
constexpr int64_t kLine = 16;         // words of a line of the cache
constexpr int64_t kTileWords = 16;    // words of a row of a tile register
constexpr int64_t kSameLines = 1024;  // words: rows that many apart share the lines of the first cache

/// The kind of tile for two factors.
Kind kind_of(const Level& l, const Left& a, const Right& b) {
  const bool narrow = a.dtype == DType::bf16 && (b.dtype == DType::bf16 || is_quantised(b.dtype));
  if (narrow && l.tile[int(Kind::dots)][0][0]) return Kind::dots;
  if (b.order != Order::packed) return Kind::f32;  // widened as it is packed
  return b.dtype == DType::bf16 ? Kind::bf16 : b.dtype == DType::f16 ? Kind::f16 : Kind::f32;
}

}  // namespace

int64_t Plan::groups() const { return ceil_div(panels, group); }
int64_t Plan::strips(int64_t rows) const { return ceil_div(rows, strip); }
int64_t Plan::strips_of_task(int64_t rows) const {
  const int64_t all = strips(rows), most_parts = std::max<int64_t>(1, rows / kPartRows);
  int64_t parts = threads == 1 ? 1 : std::clamp<int64_t>(ceil_div(kPieces * threads, groups()), 1, most_parts);
  if (narrow) parts = std::max(parts, ceil_div(all, ceil_div(kWideRows, strip)));
  return ceil_div(all, parts);
}

Plan plan(const Level& level, int threads, int64_t m, int64_t n, int64_t k, const Left& a, const Right& b, DType result,
          bool low_rank) {
  Plan p{};
  p.threads = threads;
  p.narrow = result == DType::bf16;
  p.few_rows = k > 0 && b.order != Order::packed && !low_rank && a.col == 1 && is_transposed(b, n) &&
               m <= std::clamp<int64_t>(k / kDeep, 1, kFewRows);
  p.kind = kind_of(level, a, b);
  const bool pairs = p.kind == Kind::dots;

  // Along k, in equal blocks.
  p.words = pairs ? ceil_div(k, 2) : k;
  p.words_per_row = p.kind == Kind::bf16 || p.kind == Kind::f16 ? 2 : 1;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(p.words, kDepth));
  // A turned factor's blocks begin where its panels do.
  const int64_t step = b.order == Order::turned ? level.nr
                       : is_quantised(b.dtype)  ? kBlockElements
                       : pairs && level.dots_mr ? kTileWords
                                                : p.words_per_row;
  p.depth = std::max(step, round_up(ceil_div(p.words, blocks), step));

  // The left factor's words are read where they lie if rows of them do. Rows of bfloat16 that meet float32 are widened
  // first, and rows that would all lie in the same lines of the first cache are copied to others.
  const bool widened = a.dtype == DType::bf16 && a.col == 1 && !pairs;
  const bool lies = a.col == 1 && (pairs ? a.row % 2 == 0 && k % 2 == 0 : widened || a.dtype == DType::f32);
  const int64_t row_words = pairs ? a.row / 2 : a.row;
  const int64_t most = pairs && lies ? std::max(level.mr, level.dots_mr) : level.mr;

  // Columns. Few rows wait for panels, which come from memory: a panel's block is multiplied by all rows while the next
  // one is fetched. Threads then share panels out, else rows too.
  p.panels = ceil_div(n, level.nr);
  p.panel_words = b.panel ? b.panel : ceil_div(p.words, p.words_per_row) * level.nr;
  const bool turns = b.turned && level.turn[pairs] && (pairs || b.dtype == DType::f32);
  p.turns = !turns ? 0 : pairs ? level.nr / 2 : level.nr;
  p.panel_by_panel = (p.turns || (b.packed && m > most)) && m <= kLow;
  p.group = p.panel_by_panel && threads > 1 ? std::clamp<int64_t>(p.panels / (kPieces * threads), 1, kGroup) : kGroup;

  // Rows, shared out evenly, so that the last tile of a block is not a sliver.
  const int64_t rows = std::min(m, std::max<int64_t>(most, kLeft / std::max<int64_t>(p.words, 1)));
  p.strip = ceil_div(rows, ceil_div(rows, most));
  p.block = rows < m ? rows / p.strip * p.strip : m;

  p.left = !lies                                                  ? LeftForm::strips
           : widened || (row_words % kSameLines == 0 && rows > 1) ? LeftForm::rows
                                                                  : LeftForm::lies;
  p.left_row = p.left == LeftForm::rows ? round_up(p.words, kLine) + kLine : row_words;
  return p;
}

std::string describe(const Plan& p, int64_t m) {
  if (p.few_rows) return "dot products";
  constexpr const char* kinds[] = {"float32", "pairs of bfloat16", "pairs of float16", "bfloat16 in pairs"};
  constexpr const char* forms[] = {"lies", "copied by rows", "packed in strips"};
  const int64_t rows = std::min(m, p.block), strips = p.strips(rows), cut = p.strips_of_task(rows);
  return text(kinds[int(p.kind)], ", left factor ", forms[int(p.left)], "; ", ceil_div(m, p.block), " x ", p.block,
              " rows, strips of ", p.strip, ", ", cut, " of ", strips, " in a task; ", p.panels, " panels, ", p.group,
              " in a task; ", p.words, " words along k, ", p.depth, " at a time", p.turns ? "; turned" : "",
              p.panel_by_panel ? "; panel by panel" : "", p.narrow ? "; sums narrowed" : "");
}

}  // namespace mt::kernels
