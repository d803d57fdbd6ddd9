// The kernels of the matrix product for each instruction set, and the choice between them.
#pragma once
#include <cstdint>

#include "core/quantised.h"

namespace mt::kernels {

/// The operand types of a tile. Panels of 16-bit numbers hold pairs, elements k and k + 1 of a column side by side,
/// padded by 0 at an odd end, so that one load serves two steps.
enum class Kind : uint8_t {
  f32,   // float32 by float32
  bf16,  // float32 by pairs of bfloat16
  f16,   // float32 by pairs of float16
  dots,  // pairs of bfloat16 by pairs of bfloat16: `k` counts pairs
};
inline constexpr int kKinds = 4;

/// Two neighbours along k of a 16-bit matrix.
struct Pair {
  uint16_t low, high;
};

/// The destination of a tile: c = alpha·sum + bias, plus c where `add`.
struct Target {
  float* c;
  int64_t ldc;
  const float* bias;  // may be null
  float alpha;
  bool add;
  int columns;        // of the tile, at most `nr`
  const float* next;  // prefetched meanwhile, `pace` words further at every step, or in one_row as many as it reads:
                      // what a later tile reads, or the tile's own panel
  int64_t pace;
  int64_t leap = 0, every = 0;  // words further every so many steps; 0: as many as by the pace
};

inline constexpr int kMaxRows = 32;    // bound on the rows of a tile
inline constexpr int kDotRows = 4;     // left rows per dot
inline constexpr int kDotColumns = 4;  // right columns per dot, or 1

using Tile = void (*)(int64_t k, const float* a, int64_t row, int64_t col, const float* b, int64_t ldb,
                      const Target& out);
using OneRow = void (*)(int64_t words, const float* a, const float* b, int64_t across, const Target& out);
using DotPairs = void (*)(int64_t words, const float* a, int64_t lda, const float* b, int64_t ldb, const float* next,
                          float* sums);
struct Tiles {
  Tile tile[2][kMaxRows];
  OneRow one_row = nullptr;
  DotPairs dot[2][kDotRows] = {};
};

struct Level {
  int mr, nr, width;  // a tile's rows and columns; floats of a vector
  int dots_mr = 0;    // rows of a tile of Kind::dots, where rows of the left factor lie; 0: as many as of others
  /// tile[kind][vectors - 1][rows - 1]: element (i, k) of the left factor at a[i·row + k·col], k-th row of the panel
  /// (of pairs: k/2-th) `ldb` 32-bit words after the one before. Null for a kind without an instruction on this
  /// machine.
  Tile tile[kKinds][2][kMaxRows];
  /// one_row[kind]: one row by a panel's columns that lie as rows in memory, `across` words apart, with the bits of the
  /// tile. Numbers of 16 bits are words in pairs. May be null.
  OneRow one_row[kKinds];
  /// pack[dtype]: element (i, k) of n by k, at in[i·across + k·along], goes to out[k·ld + i], or where n > ld into
  /// panels of ld that lie `panel` apart. Whole vectors are written, padded with zeros. For a left panel, whose ld is
  /// not a multiple of the vector, the padding is overwritten by the next row or lies after the last.
  using Pack = void (*)(const void* in, int64_t across, int64_t along, int64_t n, int64_t k, float* out, int64_t ld,
                        int64_t panel);
  Pack pack[3];
  /// The same for 16-bit numbers in pairs: words of out are pairs, (k + 1) / 2 rows of them.
  Pack pack_pairs;
  /// dot[dtype][columns > 1][rows - 1]: sums[i·columns + j] = Σ a[i·lda + k] b[j·ldb + k]. The columns at `next`
  /// follow: they are prefetched.
  using Dot = void (*)(int64_t k, const float* a, int64_t lda, const void* b, int64_t ldb, const void* next,
                       float* sums);
  Dot dot[3][2][kDotRows];
  /// The same of pairs of bfloat16 by pairs, where `k`, `lda` and `ldb` count words. May be null.
  DotPairs dot_pairs[2][kDotRows] = {};
  /// turn[0]: out of `panels` packed panels that lie `panel` words apart, `rows` rows of each from `in` on, at most nr,
  /// become nr columns of their transpose, and the panels' columns its rows. turn[1]: the same of pairs, at most nr / 2
  /// rows, which become pairs again; only with tiles of Kind::dots, else null.
  using Turn = void (*)(const float* in, int64_t panel, int64_t panels, int64_t rows, float* out);
  Turn turn[2] = {};
  /// Packed panels of pairs, `panel` words apart, out of rows and columns of a quantised matrix: its rows are columns
  /// of the panels (`transposed`), n and col multiples of kUnpackWidth, where blocks along k begin and end, or rows of
  /// them, n and col multiples of a panel's width.
  /// The matrix's width is a multiple of kUnpackWidth. Only with tiles of Kind::dots; else null.
  using Unpack = void (*)(const Quantised& q, bool transposed, int64_t row, int64_t rows, int64_t col, int64_t n,
                          float* out, int64_t panel);
  Unpack unpack = nullptr;
};
inline constexpr int64_t kUnpackWidth = 128;

extern const Tiles bf16_dots;  // matmul_avx512_bf16.cc: of Kind::dots, where has_bfloat16_dots()
extern const Tiles amx_dots;   // matmul_amx.cc: the same, where has_bfloat16_tiles()

// panels_avx512_bf16.cc: Level::turn[1] and Level::unpack, where has_bfloat16_dots().
void turn_pairs(const float* in, int64_t panel, int64_t panels, int64_t rows, float* out);
void unpack_pairs(const Quantised& q, bool transposed, int64_t row, int64_t rows, int64_t col, int64_t n, float* out,
                  int64_t panel);

/// Repeats four of AMX's products, for the rate of the machine: 4·2·16·16·32 operations a step.
float tile_products(int64_t steps);

/// The best level of this machine, or the lower one that MT_CPU names.
const Level& level();

}  // namespace mt::kernels
