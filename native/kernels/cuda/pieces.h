// Sums of a tile that several blocks form, a piece each: every block writes its sums, and the tile's last one adds up
// all of them, so that no second launch is needed. It adds them in the order of the pieces, whichever block is last:
// the same bits in every run.
#pragma once
#include "kernels/cuda/device.h"

namespace mt::cuda {

/// How each tile's sums are cut into pieces.
struct Pieces {
  int count;           // pieces of a tile
  float* sums;         // (tile, piece): the sums of a block, four of a thread together
  unsigned* counters;  // (tile): blocks that are done; Stream::counters()
};

/// Memory for the pieces, of the current stream, which runs one kernel after the other.
class PieceMemory {
 public:
  /// `each`: how many sums a block has.
  PieceMemory(int64_t tiles, int64_t count, int64_t each)
      : count_(int(count)), sums_(count > 1 ? size_t(tiles * count * each) * sizeof(float) : 0) {}
  Pieces pieces() const { return {count_, sums_.as<float>(), current().counters()}; }

 private:
  int count_;
  Scratch sums_;
};

/// Whether the calling block is the last of the `count` blocks that call this with one counter, which is 0 again then.
/// The last one sees all that the others wrote to global memory before. All threads of a block call it.
__device__ inline bool is_last(unsigned* counter, int count) {
  __syncthreads();  // the block has written
  bool last = false;
  if (threadIdx.x == 0) {
    __threadfence();  // its sums are visible before it is counted
    last = atomicInc(counter, unsigned(count - 1)) == unsigned(count - 1);
    __threadfence();  // the others' sums are read after they were counted
  }
  return __syncthreads_or(last);
}

/// Turns the sums of a piece, 4·n in each of the `threads` threads, into those of its tile. False where another block
/// does so, and this one has nothing left to do.
template <int threads, int n>
__device__ inline bool collect(const Pieces& p, int64_t tile, int64_t piece, float (&sum)[n][4]) {
  if (p.count == 1) return true;
  float4* const of_tile = reinterpret_cast<float4*>(p.sums) + tile * p.count * (n * threads) + threadIdx.x;
  float4* const mine = of_tile + piece * (n * threads);
#pragma unroll
  for (int i = 0; i < n; ++i) mine[i * threads] = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  if (!is_last(p.counters + tile, p.count)) return false;
  constexpr int ahead = 16, some = n < ahead ? n : ahead;  // loads in flight, as many as there are registers for
  static_assert(n % some == 0);
#pragma unroll
  for (int first = 0; first < n; first += some) {
#pragma unroll
    for (int i = first; i < first + some; ++i) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;
    const float4* from = of_tile;
#pragma unroll(ahead / some)
    for (int s = 0; s < p.count; ++s, from += n * threads)
#pragma unroll
      for (int i = first; i < first + some; ++i) {
        const float4 x = from[i * threads];
        sum[i][0] += x.x, sum[i][1] += x.y, sum[i][2] += x.z, sum[i][3] += x.w;
      }
  }
  return true;
}

}  // namespace mt::cuda
