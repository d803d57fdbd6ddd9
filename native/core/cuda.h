// The core's interface to CUDA: devices, one stream for each JavaScript thread and device, captured graphs.
// core/cuda_*.cc implement it with the CUDA runtime (or the emulator's), core/no_cuda.cc in builds without CUDA.
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
/// Calls into an emulated runtime since the process began, by name (emulator/counts.h). Empty on a real one.
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

/// Counters of one device, over all its streams.
struct Memory {
  size_t bytes, peak;  // allocated now, and the most at one time
};
Memory memory(int device);
void reset_peak(int device);

/// A fault that a kernel found in its data, in device memory. The next wait reports the first one.
struct Fault {
  unsigned set, what;
  long long value, bound;
};

/// Captured work, its memory pool, and the outside tensors that it uses.
class Graph;

/// Device memory: of a stream, or of the graph during whose capture it was allocated.
struct Block {
  void* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<Graph> graph;
};

inline constexpr int kCounters = 4096;

/// A CUDA stream: runs its calls in order, asynchronously to the host. Except for release(), calls come from one thread
/// at a time. Every function throws std::runtime_error where CUDA fails. An error that leaves a device unusable marks
/// it lost: later calls fail at once.
class Stream {
 public:
  explicit Stream(int device);
  ~Stream();
  Stream(const Stream&) = delete;

  int device() const { return device_; }
  /// The cudaStream_t behind it.
  void* handle() const;
  /// Memory for work queued from now on; release() takes effect after the work queued before it. release() never
  /// throws and may be called from any thread.
  Block allocate(size_t bytes);
  void release(Block block) noexcept;
  /// Copies pageable host memory to the device through pinned staging: `from` may be reused on return.
  void upload(void* to, const void* from, size_t bytes);
  /// Copies to pageable host memory. Waits.
  void download(void* to, const void* from, size_t bytes);
  /// Waits until everything is done. Throws the failures since the last wait: CUDA errors, and faults in data.
  void wait();
  /// Where kernels report faults in data. `message` has the form "id %lld is outside %lld rows"; Fault::what is set to
  /// `what`.
  Fault* fault(const char* message, unsigned* what);

  /// kCounters counters on the device, for kernels whose blocks count each other. They are 0 when a kernel begins and
  /// when it ends. A stream runs one kernel after the other, also those of graphs, so all of them share the counters.
  unsigned* counters() const;

  /// Between begin and end nothing runs: work, and its memory, is recorded into a graph. Unless `complete`, the
  /// recording is dropped and the graph is null.
  void begin_capture();
  std::shared_ptr<Graph> end_capture(bool complete);
  bool capturing() const { return capture_ != nullptr; }
  /// While capturing: the graph keeps this alive, unless it is the graph's own.
  void retain(const Block& block, std::shared_ptr<void> owner);
  void replay(const Graph& graph);

 private:
  friend class Use;
  struct State;
  void require_running(const char* what) const;
  int device_;
  std::shared_ptr<Graph> capture_;
  std::unique_ptr<State> state_;
};

/// While it lives, operators on this thread launch into its stream.
class Use {
 public:
  explicit Use(Stream& stream);
  ~Use();
  Use(const Use&) = delete;

 private:
  Stream* before_;
};
/// The stream in use on this thread. Only inside Use.
Stream& current();

/// Scratch memory of the current stream, for one operator.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : stream_(current()), block_(bytes ? stream_.allocate(bytes) : Block{}) {}
  ~Scratch() {
    if (block_.data) stream_.release(std::move(block_));
  }
  Scratch(const Scratch&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(block_.data);
  }

 private:
  Stream& stream_;
  Block block_;
};

}  // namespace mt::cuda
