// The right factor of a matrix product as panels, in whatever form it lies: packed once and for all, read where it is,
// or brought into panels block by block along k, just before they are multiplied.
#pragma once
#include <cstdint>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_kernels.h"
#include "kernels/cpu/matmul_plan.h"

namespace mt::kernels {

/// A block along k of a group's panels: where the first starts, words between rows, and between panels.
struct Panels {
  const float* first;
  int64_t row, apart;
  bool lie = false;  // in the right factor as it is
};

/// A group of panels of a right factor, for a task of so many strips. What is packed here lies in memory of the
/// thread's own, up to the next call.
class RightPanels {
 public:
  struct Product {
    const Level& level;
    const Plan& plan;
    int64_t n, k;
    const Right& right;
  };
  RightPanels(const Product& product, int64_t group, int64_t strips);

  /// The group's from word x on.
  Panels panels_at(int64_t x) const;
  /// Panel by panel: makes panel p ready where panels_at(x) says, if it is not.
  void prepare(int64_t p, int64_t x) const;
  /// One panel from x on, packed once and for all or now.
  const float* panel_at(int64_t p, int64_t x) const;

  /// All panels a strip: lines of the panel that comes next along k, or in the next group, that the task's strip of
  /// that number, the second or third, asks for. May be null.
  const float* later(int64_t strip, int64_t p, int64_t x) const;
  /// Panel by panel: what is multiplied next, or turned for that, in equal parts by all strips, pace() words a step,
  /// leap() every Plan::turns steps. May be null.
  const float* soon(int64_t strip, int64_t p, int64_t x) const;
  int64_t pace() const { return pace_; }
  int64_t leap() const { return source_panel_; }

  const int64_t first, last;      // panels
  const int64_t left_edge, wide;  // columns

 private:
  void pack_block(const Right& b, int64_t row, int64_t rows, int64_t edge, int64_t columns, float* to,
                  int64_t apart) const;
  Panels turned(int64_t x) const;
  void turn_panel(int64_t p, int64_t x, float* to) const;
  Right rows_of_transpose(int64_t x) const;
  Panels unpacked(int64_t x) const;
  int64_t numbers_from(int64_t x) const;
  const float* source_of(int64_t p, int64_t x) const;

  const Level& level_;
  const Plan& plan_;
  const int64_t n_, k_;
  const Right& b_;
  const int64_t nr_, strips_, pace_;
  const float* ready_;    // packed, null where it is not
  int64_t source_panel_;  // words between panels of the transpose that is turned, 0: none is
};

}  // namespace mt::kernels
