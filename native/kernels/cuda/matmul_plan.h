// How a matrix product is divided among blocks, decided from sizes alone by a model of its time: the tile, the pieces
// of the inner dimension, and whether cuBLASLt would be faster. Host code without CUDA, so that
// test/cuda/matmul-plan.test.ts compiles it alone and prints plans.
#pragma once
#include <cstdint>
#include <iterator>
#include <span>
#include <string>

namespace mt::cuda {

struct Tile {
  int rows, cols;
  float speed;  // of its arithmetic, relative to the largest tile
};
/// matmul_simt.cu: float32 arithmetic; steps of 16 along the inner dimension.
inline constexpr int kSimtStep = 16;
inline constexpr Tile kSimtTile = {64, 64, 1.0f};
/// matmul_mma.cu: tensor cores; steps of 32.
inline constexpr int kMmaStep = 32;
inline constexpr int kNarrow = 32;  // columns of the tile for low-rank factors, which it reads as float32
inline constexpr Tile kTiles[] = {{128, 128, 1.0f}, {64, 128, 0.85f}, {16, 128, 0.4f}, {64, kNarrow, 0.45f}};
inline constexpr int kTileCount = int(std::size(kTiles));
inline constexpr int64_t kMostCounted = 4096;  // tiles of c whose pieces can be counted

/// c [m,n], and the inner size as `steps` steps of `step` elements.
struct Extent {
  int64_t m, n, steps, step;
};
/// What a plan depends on of the device.
struct Machine {
  int64_t processors;           // multiprocessors
  std::span<const int> blocks;  // for each tile, how many blocks of its kernel a multiprocessor holds
};

struct Plan {
  int tile = 0;
  int64_t splits = 1;  // pieces of the inner dimension; the last block of a tile adds up their sums
  double time = 0;     // microseconds, by the model
};
/// `cores`: on tensor cores (kTiles), else in float32 (kSimtTile).
Plan choose(const Machine& machine, bool cores, const Extent& e);

/// Whether it is faster to round a factor of `size` bytes an element to aligned rows of bfloat16 first than to round
/// every tile as it is read.
bool packing_pays(int64_t elements, int64_t size, const Plan& plan);

/// What cuBLASLt computes of a product.
enum class Way {
  own,     // nothing: the project's own kernels do
  direct,  // all: c = alpha·a·b + bias + residual
  onto,    // an own kernel writes all terms but a·b to c, then the library adds a·b
  sums,    // a·b in float32, from which an own kernel makes c
};
/// The terms of a product besides a·b.
struct Extras {
  bool bias = false;      // float32, which has to be rounded first
  bool low_rank = false;  // a second pair
  bool gelu = false;
  int64_t size = 4;  // bytes of an element of c
};
/// The fastest way, by the model; `own` is the plan without the library. The library computes all products without
/// extras.
Way choose_way(int64_t m, int64_t n, const Extras& extras, const Plan& own);

std::string describe(bool cores, const Plan& plan);

}  // namespace mt::cuda
