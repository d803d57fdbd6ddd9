// CUDA as the rest of the core sees it: devices, one queue of work for each JavaScript thread and device, captured
// graphs. core/cuda.cc does it with the CUDA runtime (or the emulator's), core/cuda_absent.cc says that this build has
// none.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace mt::cuda {

struct Availability {
  bool built;                 // whether this addon holds CUDA kernels
  bool emulated;              // whether they run on the CPU
  int count;                  // devices that can be used
  std::string reason;         // why there is none; empty where there is one
  std::string architectures;  // that kernels were compiled for
};
Availability availability();
/// What an emulated runtime was asked for since the process began, by name (emulator/counts.h). Empty on a real one.
std::map<std::string, uint64_t> counts();

struct DeviceInfo {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  size_t memory, free;  // bytes
};
/// Throws std::runtime_error if there is no such device, or it was lost.
DeviceInfo device_info(int device);

/// Whether an error left the device unusable for this process.
bool lost(int device);

/// Counters of one device, over all its queues.
struct Memory {
  size_t bytes, peak;  // allocated now, and the most at one time
};
Memory memory(int device);
void reset_peak(int device);

/// What a kernel found wrong in its data; the first of them is reported by the next wait. Lies in device memory.
struct Fault {
  unsigned set, what;
  long long value, bound;
};

/// Captured work, the memory it computes in, and the tensors it uses from outside.
class Graph;

/// Memory of a device: of a queue, or of the graph that it was allocated in the capture of.
struct Block {
  void* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<Graph> graph;
};

/// A stream: runs what is called on it in order, beside the host. Calls are of one thread at a time, but release().
/// Every function throws std::runtime_error where CUDA fails. An error that leaves a device unusable marks it lost:
/// later calls for it say so at once.
class Queue {
 public:
  explicit Queue(int device);
  ~Queue();
  Queue(const Queue&) = delete;

  int device() const { return device_; }
  /// The cudaStream_t behind it.
  void* stream() const;
  /// Memory for work queued from now on; release() takes effect after the work queued before it. release() never
  /// throws and may be called from any thread.
  Block allocate(size_t bytes);
  void release(Block block) noexcept;
  /// Pageable host memory to the device, through pinned staging: `from` is free again on return.
  void upload(void* to, const void* from, size_t bytes);
  /// To pageable host memory. Waits.
  void download(void* to, const void* from, size_t bytes);
  /// Blocks until all is done. Throws what went wrong since the last wait: CUDA errors, and faults in data.
  void wait();
  /// Where kernels report faults in data. `message` has the form "id %lld is outside %lld rows"; Fault::what is set to
  /// `what`.
  Fault* fault(const char* message, unsigned* what);

  /// Between begin and end nothing runs: work, and memory it needs, is recorded into a graph. What was recorded is
  /// dropped unless it is `whole`: then the graph is null.
  void begin_capture();
  std::shared_ptr<Graph> end_capture(bool whole);
  bool capturing() const { return capture_ != nullptr; }
  /// While capturing: the graph needs this as long as it lives, unless it is the graph's own.
  void keep(const Block& block, std::shared_ptr<void> owner);
  void replay(const Graph& graph);

 private:
  friend class Use;
  struct State;
  void require_running(const char* what) const;
  int device_;
  std::shared_ptr<Graph> capture_;
  std::unique_ptr<State> state_;
};

/// Makes a queue the one that operators on this thread launch into, for as long as it lives.
class Use {
 public:
  explicit Use(Queue& queue);
  ~Use();
  Use(const Use&) = delete;

 private:
  Queue* before_;
};
/// The queue in use on this thread. Only inside Use.
Queue& current();

/// Memory of the current queue for as long as an operator needs it.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : queue_(current()), block_(bytes ? queue_.allocate(bytes) : Block{}) {}
  ~Scratch() {
    if (block_.data) queue_.release(std::move(block_));
  }
  Scratch(const Scratch&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(block_.data);
  }

 private:
  Queue& queue_;
  Block block_;
};

}  // namespace mt::cuda
