#include "ops/embedding.h"

#include <algorithm>

#include "core/round.h"
#include "kernels/cuda/divider.h"
#include "kernels/cuda/rows.h"

namespace mt::cuda {
namespace {

// ---- kernels: a block per id and tile of columns, four columns per thread ----

constexpr int64_t kTile = 4 * kThreads;

template <typename T, typename Y>
__global__ void __launch_bounds__(kThreads)
    gather(const int32_t* ids, const T* table, Y* y, int64_t rows, int64_t width, Divider<uint32_t> tiles, bool whole,
           Fault* fault, unsigned what) {
  int64_t i = tiles.quotient(blockIdx.x), j = tiles.remainder(blockIdx.x) * kTile + 4 * threadIdx.x, id = ids[i];
  bool known = id >= 0 && id < rows;
  if (!known && threadIdx.x == 0) report(fault, what, id, rows);
  if (j >= width) return;
  float v[4] = {};
  if (known) load4(table + id * width + j, width - j, whole, v);
  store4(y + i * width + j, width - j, whole, v);
}

/// count[id]: how often the id occurs; first[id]: n − i for its first occurrence ids[i]. Both are 0 before.
__global__ void __launch_bounds__(kThreads) count_ids(const int32_t* ids, unsigned* count, unsigned* first, int64_t n,
                                                      int64_t rows, Fault* fault, unsigned what) {
  int64_t i = thread_index();
  if (i >= n) return;
  int64_t id = ids[i];
  if (id < 0 || id >= rows) return report(fault, what, id, rows);
  atomicAdd(&count[id], 1u);
  atomicMax(&first[id], unsigned(n - i));
}

/// The blocks of an id's first occurrence search for the later ones, kThreads at a time, and add up all in order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_gradients(const T* dy, const int32_t* ids, const unsigned* count, const unsigned* first, float* dtable,
                  int64_t n, int64_t rows, int64_t width, Divider<uint32_t> tiles, bool whole) {
  __shared__ unsigned found[kThreads / 32];
  int64_t begin = tiles.quotient(blockIdx.x), j = tiles.remainder(blockIdx.x) * kTile + 4 * threadIdx.x;
  int32_t id = ids[begin];
  if (id < 0 || id >= rows || first[id] != unsigned(n - begin)) return;
  float sum[4] = {};
  for (unsigned left = count[id]; left && begin < n; begin += kThreads) {
    int64_t mine = begin + threadIdx.x;
    unsigned hits = __ballot_sync(~0u, mine < n && ids[mine] == id);
    if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = hits;
    __syncthreads();
    for (int w = 0; w < kThreads / 32; ++w)
      for (unsigned bits = found[w]; bits; bits &= bits - 1) {
        int64_t i = begin + 32 * w + __ffs(int(bits)) - 1;
        --left;
        if (j >= width) continue;
        float v[4];
        load4(dy + i * width + j, width - j, whole, v);
        for (int k = 0; k < 4; ++k) sum[k] += v[k];
      }
    __syncthreads();
  }
  if (j < width) store4(dtable + id * width + j, width - j, whole, sum);
}

constexpr int64_t tiles_of(int64_t width) { return std::max<int64_t>(1, ceil_div(width, kTile)); }

}  // namespace

// ---- operators ----

void embedding_forward(const View& ids, const View& table, ActOut y) {
  int64_t rows = table.shape[0], width = table.shape[1], tiles = tiles_of(width);
  unsigned what;
  Fault* fault = current().fault(
      "embedding_forward: id %lld is outside the embedding's %lld rows; tokenizer and checkpoint do not belong "
      "together",
      &what);
  each_weight(table.dtype, [&](auto t) {
    each_activation(y.dtype, [&](auto u) {
      using T = decltype(t);
      using Y = decltype(u);
      const T* from = table.data<T>();
      Y* to = y.data<Y>();
      launch(gather<T, Y>, dim3(unsigned(ids.numel() * tiles)), dim3(kThreads), 0, (const int32_t*)ids.data<int32_t>(),
             from, to, rows, width, Divider<uint32_t>(tiles), fours(from, width) && fours(to, width), fault, what);
    });
  });
}

void embedding_backward(const Act& dy, const View& ids, Out dtable) {
  int64_t rows = dtable.shape[0], width = dtable.shape[1], tiles = tiles_of(width), n = ids.numel();
  unsigned what;
  Fault* fault = current().fault(
      "embedding_backward: id %lld is outside the embedding's %lld rows; tokenizer and checkpoint do not belong "
      "together",
      &what);
  const int32_t* id = ids.data<int32_t>();
  float* to = dtable.data<float>();
  if (rows && width)
    check(cudaMemsetAsync(to, 0, size_t(rows * width) * sizeof(float), current_stream()), "cudaMemsetAsync");
  Scratch counts(size_t(2 * rows) * sizeof(unsigned));
  unsigned *count = counts.as<unsigned>(), *first = count + rows;
  if (rows) check(cudaMemsetAsync(count, 0, size_t(2 * rows) * sizeof(unsigned), current_stream()), "cudaMemsetAsync");
  launch(count_ids, blocks(n), dim3(kThreads), 0, id, count, first, n, rows, fault, what);
  each_activation(dy.dtype, [&](auto t) {
    using T = decltype(t);
    const T* from = dy.data<T>();
    launch(add_gradients<T>, dim3(unsigned(n * tiles)), dim3(kThreads), 0, from, id, (const unsigned*)count,
           (const unsigned*)first, to, n, rows, width, Divider<uint32_t>(tiles),
           fours(from, width) && fours(to, width));
  });
}

}  // namespace mt::cuda
