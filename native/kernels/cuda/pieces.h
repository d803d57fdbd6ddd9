// Sums that several blocks form in pieces: each block writes its own, and the last of a tile to come adds them all up.
// No launch of its own does so, and they are added in the order of the pieces, whichever block is last: the same bits
// in every run.
#pragma once
#include "kernels/cuda/device.h"

namespace mt::cuda {

/// How the sums of each of some tiles are cut up.
struct Pieces {
  int count;           // of a tile: with one, there is nothing to add
  float* sums;         // of every tile, of every piece of it: the sums of a block, four of every thread side by side
  unsigned* counters;  // Stream::counters(): of every tile, the blocks that have come
};

/// Memory for that. Of the current queue, which runs one kernel after the other.
class PieceMemory {
 public:
  /// `each`: sums of a block.
  PieceMemory(int64_t tiles, int64_t count, int64_t each)
      : count_(int(count)), sums_(count > 1 ? size_t(tiles * count * each) * sizeof(float) : 0) {}
  Pieces pieces() const { return {count_, sums_.as<float>(), current().counters()}; }

 private:
  int count_;
  Scratch sums_;
};

/// Whether the calling block is the last of `count` that count themselves in `counter`, which is 0 again then. It sees
/// all that these wrote to global memory before. All of its threads call this.
__device__ inline bool is_last(unsigned* counter, int count) {
  __syncthreads();  // the block has written
  bool last = false;
  if (threadIdx.x == 0) {
    __threadfence();  // that is seen before it is counted
    last = atomicInc(counter, unsigned(count - 1)) == unsigned(count - 1);
    __threadfence();  // what others wrote is read after they are counted
  }
  return __syncthreads_or(last);
}

/// Makes of the sums of a piece those of its tile: 4·n of each of the `threads` threads. False where another block
/// does it, and the calling one is done.
template <int threads, int n>
__device__ inline bool collect(const Pieces& p, int64_t tile, int64_t piece, float (&sum)[n][4]) {
  if (p.count == 1) return true;
  float4* const of_tile = reinterpret_cast<float4*>(p.sums) + tile * p.count * (n * threads) + threadIdx.x;
  float4* const mine = of_tile + piece * (n * threads);
#pragma unroll
  for (int i = 0; i < n; ++i) mine[i * threads] = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  if (!is_last(p.counters + tile, p.count)) return false;
  constexpr int ahead = 16, some = n < ahead ? n : ahead;  // on their way at once, for which there are registers
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
