// How a matrix product is cut up, decided from sizes alone: the tile of the own kernels and the pieces of the inner
// dimension whose slowest multiprocessor is done first, and whether cuBLASLt would be done before that. Host code
// without CUDA, so that it can be tested, and printed, by itself (test/cuda/matmul-plan.test.ts).
#pragma once
#include <cstdint>
#include <iterator>
#include <span>
#include <string>

namespace mt::cuda {

struct Tile {
  int rows, cols;
  float speed;  // of its arithmetic, to the largest of its kernel
};
/// matmul_simt.cu: float32 arithmetic; steps of 16 along the inner dimension.
inline constexpr int kSimtStep = 16;
inline constexpr Tile kSimtTile = {64, 64, 1.0f};
/// matmul_mma.cu: tensor cores; steps of 32.
inline constexpr int kMmaStep = 32;
inline constexpr int kNarrow = 32;  // columns of a tile for low-rank factors, which it reads as they are, float32
inline constexpr Tile kTiles[] = {{128, 128, 1.0f}, {64, 128, 0.85f}, {16, 128, 0.4f}, {64, kNarrow, 0.45f}};
inline constexpr int kTileCount = int(std::size(kTiles));
inline constexpr int64_t kMostCounted = 4096;  // tiles of c whose pieces can be counted

/// c [m,n] of an inner size that is `steps` steps of `step` numbers.
struct Extent {
  int64_t m, n, steps, step;
};
/// A device, as far as a plan depends on it.
struct Machine {
  int64_t processors;           // multiprocessors
  std::span<const int> blocks;  // of each tile's kernel, that one multiprocessor holds at a time
};

struct Plan {
  int tile = 0;
  int64_t splits = 1;  // of the inner dimension, whose sums the last block of a tile adds up
  double time = 0;     // microseconds, as the model has it
};
/// `cores`: on tensor cores (kTiles), else in float32 (kSimtTile).
Plan choose(const Machine& machine, bool cores, const Extent& e);

/// Whether rounding a factor to bfloat16 rows of 16 bytes first, of `size` bytes an element now, is shorter than doing
/// so for every tile that is read.
bool packing_pays(int64_t elements, int64_t size, const Plan& plan);

/// How cuBLASLt computes a product, or that the own kernels do.
enum class Way {
  own,
  direct,  // all of it: c = alpha·a·b + bias + residual
  onto,    // c is made of everything but a·b by an own kernel, and a·b is added to it
  sums,    // a·b in float32, of which an own kernel makes c
};
/// What a product consists of besides a·b.
struct Extras {
  bool bias = false;      // float32, to be rounded first
  bool low_rank = false;  // a second pair
  bool gelu = false;
  int64_t size = 4;  // bytes of an element of c
};
/// The way that the model finds shortest; `own` is the plan without the library. A product without extras is the
/// library's.
Way choose_way(int64_t m, int64_t n, const Extras& extras, const Plan& own);

std::string describe(bool cores, const Plan& plan);

}  // namespace mt::cuda
