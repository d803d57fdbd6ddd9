// How a matrix product is cut into tasks, decided once from its sizes, layouts and the number of threads.
#pragma once
#include <algorithm>
#include <string>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_kernels.h"

namespace mt::kernels {

inline constexpr int64_t kGroup = 8;     // panels per task: a block of them lies in the second cache
inline constexpr int64_t kPadding = 16;  // words after a packed left panel, see Level::pack

/// How tiles read the left factor.
enum class LeftForm : uint8_t {
  lies,    // where it is
  rows,    // rows copied: widened from bfloat16, or moved out of each other's lines of the first cache
  strips,  // packed, strip by strip
};

/// Blocks of rows, whose left factor is brought into its form at a time, consist of strips as high as a tile; groups of
/// columns of panels as wide as one. A task computes a group for a part of a block's strips, block by block along k.
/// Along k everything is counted in words of the left factor: numbers, or pairs of them (Kind::dots).
struct Plan {
  Kind kind;
  LeftForm left;
  bool few_rows;        // no tasks of tiles: dot products, which read the right factor once and as it lies
  bool narrow;          // the result is bfloat16: sums lie in memory of the thread's own first
  bool panel_by_panel;  // all strips meet a panel before the next panel's turn; else all panels a strip
  int64_t turns;  // panels are turned out of the packed transpose by Level::turn: so many rows of a panel there are the
                  // columns of one here; 0: they are not
  int64_t words, depth;   // along k: all, and of a block
  int64_t words_per_row;  // of a panel: 2 where it holds pairs and the left factor numbers
  int64_t panels, group;  // of columns: all, and of a task
  int64_t panel_words;    // between packed panels
  int64_t strip, block;   // rows of a strip, and of a block
  int64_t left_row;       // words between rows of the left factor, unless it is packed in strips
  int threads;

  /// Words of the block along k that begins at x.
  int64_t deep(int64_t x) const { return std::min(depth, words - x); }
  /// Numbers that words along k stand for.
  int64_t numbers(int64_t of) const { return kind == Kind::dots ? 2 * of : of; }
  int64_t groups() const;
  int64_t strips(int64_t rows) const;
  /// Strips of a task in a block of so many rows. Few groups are cut by rows too, each part packing its own copy of the
  /// panels.
  int64_t strips_of_task(int64_t rows) const;
};

Plan plan(const Level& level, int threads, int64_t m, int64_t n, int64_t k, const Left& a, const Right& b, DType result,
          bool low_rank);

/// For people: "f32, left lies, 2 blocks of 320 words, 13 panels in groups of 8, …".
std::string describe(const Plan& plan, int64_t m);

}  // namespace mt::kernels
