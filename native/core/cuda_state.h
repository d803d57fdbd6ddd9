// What the parts of the CUDA runtime's side share: what is known of devices, the memory of graphs, a stream's state.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/cuda.h"

namespace mt::cuda {

/// Throws unless `e` is success. Called by launches too.
void check(cudaError_t e, const char* what);

// ---- devices: core/cuda_devices.cc ----

/// As in messages.
std::string device_name(int device);
/// Throws where the device was lost.
void require_alive(int device);
/// Adds to the bytes that are allocated there.
void count(int device, ptrdiff_t bytes);

/// The stream in use on this thread; null: none.
extern thread_local Stream* in_use;

// ---- graphs: core/cuda_graphs.cc ----

/// A pool of device memory for graphs. It only grows; every capture divides it anew.
class Arena {
 public:
  explicit Arena(int device) : device_(device) {}
  ~Arena();
  /// A new segment of at least `size` bytes; false where the device has no such memory.
  bool grow(size_t size);

  std::vector<std::pair<char*, size_t>> segments;
  std::atomic<size_t> bytes{0};

 private:
  static constexpr size_t kLeast = size_t(64) << 10, kMost = size_t(64) << 20;
  int device_;
};

/// Memory that is released during a capture is reused later in it, since the graph always runs in this order. Graphs of
/// one arena use the same memory, one after another.
class Graph {
 public:
  Graph(int device, std::shared_ptr<Arena> arena);
  ~Graph();
  /// Null where the device has no such memory.
  void* allocate(size_t bytes);
  void release(void* data);
  size_t bytes() const { return arena_->bytes; }

  cudaGraphExec_t exec = nullptr;
  std::vector<std::shared_ptr<void>> retained;

 private:
  void add_segment(char* p, size_t size);
  std::map<char*, size_t>::iterator smallest(size_t size);

  int device_;
  std::shared_ptr<Arena> arena_;
  std::mutex mutex_;
  std::map<char*, size_t> free_, used_;  // by address
  std::set<char*> starts_;               // starts of segments; pieces do not cross them
};

// ---- streams ----

struct Stream::State {
  cudaStream_t stream = nullptr;
  /// Pinned chunks that uploads and downloads go through, in turn.
  struct Chunk {
    char* data = nullptr;
    cudaEvent_t done = nullptr;
  } chunks[2];
  size_t next = 0;
  Fault* fault = nullptr;                // on the device
  unsigned* counters = nullptr;          // on the device too
  std::vector<std::string> messages;     // of Stream::fault; kept for ever, since a graph may report them
  std::mutex mutex;                      // release() comes from any thread; also held where a capture begins and ends
  std::weak_ptr<Arena> arena;            // of the graphs that share one
  cudaEvent_t before_capture = nullptr;  // after everything that was queued before the capture
  std::vector<Block> deferred;           // released during a capture, but not part of it

  /// The next chunk, once nothing uses it.
  Chunk& chunk();
};

}  // namespace mt::cuda
