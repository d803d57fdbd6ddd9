#include "core/cuda.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/error.h"

#ifndef MT_CUDA_ARCHS
#define MT_CUDA_ARCHS ""
#endif

namespace mt::cuda {
namespace {

constexpr int kMostDevices = 64;
constexpr size_t kChunk = size_t(8) << 20;  // of pinned staging memory
constexpr unsigned kMessages = 64;

/// The state of a device, for the whole process.
struct Known {
  std::atomic<bool> lost{false};
  std::string why;  // written once, before `lost`
  std::atomic<size_t> bytes{0}, peak{0};
};
Known& known(int device) {
  static std::array<Known, kMostDevices>* all = new std::array<Known, kMostDevices>;
  return (*all)[size_t(device)];
}

std::string name(int device) { return Device{device}.name(); }

/// Sticky errors: the device's context is unusable afterwards.
bool sticky(cudaError_t e) {
  switch (int(e)) {
    case 214:
    case 219:
    case 220:
    case 226:
    case 700:
    case 702:
    case 709:
    case 710:
    case 714:
    case 715:
    case 716:
    case 717:
    case 718:
    case 719:
    case 999: return true;
    default: return false;
  }
}

[[noreturn]] void lose(int device, const std::string& why) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  Known& k = known(device);
  if (!k.lost) {
    k.why = why;
    k.lost = true;
  }
  throw std::runtime_error(
      text(name(device), " was lost: ", k.why, "; its tensors are gone, start a new process to use it again"));
}

void require_alive(int device) {
  if (known(device).lost) lose(device, "");
}

void count(int device, ptrdiff_t bytes) {
  Known& k = known(device);
  size_t now = k.bytes += size_t(bytes), peak = k.peak;
  while (now > peak && !k.peak.compare_exchange_weak(peak, now)) {}
}

std::string version(int v) { return text(v / 1000, ".", v % 1000 / 10); }

thread_local Stream* in_use = nullptr;
thread_local bool in_common = false;  // of Shared

}  // namespace

/// Throws unless `e` is success. Called by launches too.
void check(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  cudaGetLastError();  // clears an error that is not sticky
  int device = in_use ? in_use->device() : 0;
  std::string why = text(what, ": ", cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
  if (sticky(e)) lose(device, why);
  throw std::runtime_error(text(name(device), ": ", why));
}

// ---- devices ----

Availability availability() {
  static const Availability found = [] {
    Availability a{true, false, 0, "", MT_CUDA_ARCHS};
#ifdef MT_CUDA_EMULATED
    a.emulated = true;
#endif
    cudaError_t e = cudaGetDeviceCount(&a.count);
    cudaGetLastError();
    if (e == cudaSuccess && a.count == 0) e = cudaErrorNoDevice;
    if (e == cudaSuccess) {
      a.count = std::min(a.count, kMostDevices);
      return a;
    }
    a.count = 0;
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    if (driver == 0) a.reason = "no NVIDIA driver is installed";
    else if (e == cudaErrorInsufficientDriver)
      a.reason = text("the NVIDIA driver knows CUDA ", version(driver), " at most, and this build needs ",
                      version(runtime), "; update the driver");
    else if (e == cudaErrorNoDevice) a.reason = "no CUDA device was found";
    else a.reason = text(cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
    return a;
  }();
  return found;
}

std::map<std::string, uint64_t> counts() {
#ifdef MT_CUDA_EMULATED
  return simt::counts();
#else
  return {};
#endif
}

DeviceInfo device_info(int device) {
  Availability a = availability();
  if (device < 0 || device >= a.count)
    throw std::runtime_error(
        text(name(device), " does not exist: ",
             a.count ? text("there ", a.count == 1 ? "is 1 device, cuda:0"
                                                   : text("are ", a.count, " devices, cuda:0 to cuda:", a.count - 1))
                     : a.reason));
  require_alive(device);
  DeviceInfo info{};
  cudaDeviceProp p;
  check(cudaSetDevice(device), "cudaSetDevice");
  check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
  check(cudaMemGetInfo(&info.free, &info.memory), "cudaMemGetInfo");
  info.name = p.name;
  info.major = p.major;
  info.minor = p.minor;
  info.multiprocessors = p.multiProcessorCount;
  return info;
}

bool lost(int device) { return device >= 0 && device < kMostDevices && known(device).lost; }

Memory memory(int device) { return {known(device).bytes, known(device).peak}; }
void reset_peak(int device) { known(device).peak = known(device).bytes.load(); }

// ---- graphs ----

/// A pool of device memory for graphs. It only grows; every capture divides it anew.
class Arena {
 public:
  explicit Arena(int device) : device_(device) {}
  ~Arena() {
    cudaSetDevice(device_);
    for (auto [p, size] : segments) {
      cudaFree(p);
      count(device_, -ptrdiff_t(size));
    }
  }
  /// A new segment of at least `size` bytes; false where the device has no such memory.
  bool grow(size_t size) {
    // As much again as there is, so that a large graph needs few segments.
    for (size_t wanted : {std::max(size, std::clamp(bytes.load(), kLeast, kMost)), size}) {
      void* p = nullptr;
      cudaError_t e = cudaMalloc(&p, wanted);
      if (e == cudaSuccess) {
        segments.emplace_back(static_cast<char*>(p), wanted);
        bytes += wanted;
        count(device_, ptrdiff_t(wanted));
        return true;
      }
      if (e != cudaErrorMemoryAllocation) check(e, "cudaMalloc");
      cudaGetLastError();
    }
    return false;
  }

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
  Graph(int device, std::shared_ptr<Arena> arena) : device_(device), arena_(std::move(arena)) {
    for (auto [p, size] : arena_->segments) add_segment(p, size);
  }
  ~Graph() {
    cudaSetDevice(device_);
    if (exec) cudaGraphExecDestroy(exec);
  }
  /// Null where the device has no such memory.
  void* allocate(size_t bytes) {
    const size_t size = (bytes + 511) / 512 * 512;
    std::lock_guard lock(mutex_);
    auto it = smallest(size);
    if (it == free_.end()) {
      if (!arena_->grow(size)) return nullptr;
      add_segment(arena_->segments.back().first, arena_->segments.back().second);
      it = smallest(size);
    }
    auto [p, room] = *it;
    free_.erase(it);
    if (room > size) free_.emplace(p + size, room - size);
    used_.emplace(p, size);
    return p;
  }
  void release(void* data) {
    std::lock_guard lock(mutex_);
    auto it = used_.find(static_cast<char*>(data));
    if (it == used_.end() || exec) return;
    auto [p, size] = *it;
    used_.erase(it);
    auto next = free_.lower_bound(p);
    if (next != free_.end() && next->first == p + size && !starts_.contains(next->first)) {
      size += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin() && !starts_.contains(p)) {
      if (auto before = std::prev(next); before->first + before->second == p) {
        before->second += size;
        return;
      }
    }
    free_.emplace_hint(next, p, size);
  }
  size_t bytes() const { return arena_->bytes; }

  cudaGraphExec_t exec = nullptr;
  std::vector<std::shared_ptr<void>> retained;

 private:
  void add_segment(char* p, size_t size) {
    free_.emplace(p, size);
    starts_.insert(p);
  }
  std::map<char*, size_t>::iterator smallest(size_t size) {
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if (it->second >= size && (best == free_.end() || it->second < best->second)) best = it;
    return best;
  }

  int device_;
  std::shared_ptr<Arena> arena_;
  std::mutex mutex_;
  std::map<char*, size_t> free_, used_;  // by address
  std::set<char*> starts_;               // starts of segments; pieces do not cross them
};

size_t graph_bytes(const Graph& graph) { return graph.bytes(); }

Shared::Shared(bool shared) : before_(std::exchange(in_common, shared)) {}
Shared::~Shared() { in_common = before_; }

// ---- streams ----

namespace {

/// Returns the pool's cached memory to the device. Memory that the stream may still use is not free.
void trim_pool(int device) {
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
}

}  // namespace

struct Stream::State {
  cudaStream_t stream = nullptr;
  /// Pinned chunks that uploads and downloads go through, in turn.
  struct Chunk {
    char* data = nullptr;
    cudaEvent_t done = nullptr;
  } chunks[2];
  size_t next = 0;
  Fault* fault = nullptr;                // on the device
  std::vector<std::string> messages;     // of Stream::fault; none is ever dropped, since a graph may report it
  std::mutex mutex;                      // release() comes from any thread; also held where a capture begins and ends
  std::weak_ptr<Arena> arena;            // of the graphs that share one
  cudaEvent_t before_capture = nullptr;  // after everything that was queued before the capture
  std::vector<Block> deferred;           // released during a capture, but not part of it

  Chunk& chunk() {
    Chunk& c = chunks[next++ % 2];
    if (!c.data) {
      check(cudaMallocHost(reinterpret_cast<void**>(&c.data), kChunk), "cudaMallocHost");
      check(cudaEventCreateWithFlags(&c.done, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    } else {
      check(cudaEventSynchronize(c.done), "cudaEventSynchronize");
    }
    return c;
  }
};

Stream::Stream(int device) : device_(device), state_(std::make_unique<State>()) {
  device_info(device);  // throws where there is none
  State& s = *state_;
  check(cudaSetDevice(device), "cudaSetDevice");
  check(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  cudaMemPool_t pool;
  uint64_t keep = UINT64_MAX;  // freed memory stays with the process for the next allocation
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
  check(cudaMalloc(reinterpret_cast<void**>(&s.fault), sizeof(Fault)), "cudaMalloc");
  check(cudaMemsetAsync(s.fault, 0, sizeof(Fault), s.stream), "cudaMemsetAsync");
  check(cudaMalloc(reinterpret_cast<void**>(&s.counters), kCounters * sizeof(unsigned)), "cudaMalloc");
  check(cudaMemsetAsync(s.counters, 0, kCounters * sizeof(unsigned), s.stream), "cudaMemsetAsync");
}

Stream::~Stream() {
  State& s = *state_;
  if (cudaSetDevice(device_) != cudaSuccess) return;
  if (s.stream) cudaStreamSynchronize(s.stream);
  for (auto& c : s.chunks) {
    if (c.done) cudaEventDestroy(c.done);
    if (c.data) cudaFreeHost(c.data);
  }
  if (s.before_capture) cudaEventDestroy(s.before_capture);
  if (s.fault) cudaFree(s.fault);
  if (s.counters) cudaFree(s.counters);
  if (s.stream) cudaStreamDestroy(s.stream);
  cudaGetLastError();
}

void* Stream::handle() const { return state_->stream; }

void Stream::require_running(const char* what) const {
  require_alive(device_);
  if (capture_) throw std::runtime_error(text(what, " cannot be part of a captured graph; do it before or after"));
}

Block Stream::allocate(size_t bytes) {
  require_alive(device_);
  bytes = std::max<size_t>(bytes, 1);
  void* p = nullptr;
  if (capture_) {
    if (!(p = capture_->allocate(bytes))) {
      // The pool may cache the memory that is missing: eager steps needed the same.
      check(cudaEventSynchronize(state_->before_capture), "cudaEventSynchronize");
      trim_pool(device_);
      p = capture_->allocate(bytes);
    }
    if (!p)
      throw std::runtime_error(text("out of memory on ", name(device_), ": ", bytes,
                                    " bytes were asked for while a graph was captured; use a smaller batch or fewer "
                                    "frames, or switch graphs off"));
    return {p, bytes, capture_};
  }
  cudaError_t e = cudaMallocAsync(&p, bytes, state_->stream);
  if (e == cudaErrorMemoryAllocation) {
    // A wait frees memory whose release is still queued; a trim frees what the pool caches in pieces.
    cudaGetLastError();
    check(cudaStreamSynchronize(state_->stream), "cudaStreamSynchronize");
    trim_pool(device_);
    e = cudaMallocAsync(&p, bytes, state_->stream);
  }
  if (e == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    cudaGetLastError();
    throw std::runtime_error(text("out of memory on ", name(device_), ": ", bytes,
                                  " bytes were asked for while tensors hold ", memory(device_).bytes, " of its ", total,
                                  " bytes; use a smaller batch or fewer frames"));
  }
  check(e, "cudaMallocAsync");
  count(device_, ptrdiff_t(bytes));
  return {p, bytes, nullptr};
}

void Stream::release(Block block) noexcept {
  if (block.graph) return block.graph->release(block.data);
  count(device_, -ptrdiff_t(block.bytes));
  if (known(device_).lost) return;
  std::lock_guard lock(state_->mutex);
  if (capture_) return state_->deferred.push_back(std::move(block));
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(device_);
  cudaFreeAsync(block.data, state_->stream);
  cudaSetDevice(before);
  cudaGetLastError();
}

void Stream::upload(void* to, const void* from, size_t bytes) {
  require_running("an upload");
  for (size_t at = 0; at < bytes; at += kChunk) {
    size_t n = std::min(kChunk, bytes - at);
    State::Chunk& c = state_->chunk();
    std::memcpy(c.data, static_cast<const char*>(from) + at, n);
    check(cudaMemcpyAsync(static_cast<char*>(to) + at, c.data, n, cudaMemcpyHostToDevice, state_->stream),
          "cudaMemcpyAsync");
    check(cudaEventRecord(c.done, state_->stream), "cudaEventRecord");
  }
}

void Stream::download(void* to, const void* from, size_t bytes) {
  require_running("a download");
  struct Piece {
    State::Chunk* chunk;
    size_t at, bytes;
  };
  auto finish = [&](const Piece& p) {
    check(cudaEventSynchronize(p.chunk->done), "a download");
    std::memcpy(static_cast<char*>(to) + p.at, p.chunk->data, p.bytes);
  };
  Piece before{nullptr, 0, 0};
  for (size_t at = 0; at < bytes; at += kChunk) {
    Piece p{&state_->chunk(), at, std::min(kChunk, bytes - at)};
    check(cudaMemcpyAsync(p.chunk->data, static_cast<const char*>(from) + at, p.bytes, cudaMemcpyDeviceToHost,
                          state_->stream),
          "cudaMemcpyAsync");
    check(cudaEventRecord(p.chunk->done, state_->stream), "cudaEventRecord");
    if (before.chunk) finish(before);
    before = p;
  }
  if (before.chunk) finish(before);
}

void Stream::wait() {
  require_running("a wait");
  if (state_->messages.empty()) return check(cudaStreamSynchronize(state_->stream), "queued work");
  Fault found;
  download(&found, state_->fault, sizeof found);
  if (!found.set) return;
  std::string message(256, '\0');
  message.resize(size_t(
      std::snprintf(message.data(), message.size(), state_->messages[found.what].c_str(), found.value, found.bound)));
  check(cudaMemsetAsync(state_->fault, 0, sizeof(Fault), state_->stream), "cudaMemsetAsync");
  throw std::runtime_error(message);
}

Fault* Stream::fault(const char* message, unsigned* what) {
  auto& all = state_->messages;
  auto it = std::find(all.begin(), all.end(), message);
  if (it == all.end()) it = all.insert(all.end(), message);
  *what = unsigned(it - all.begin());
  return state_->fault;
}

void Stream::begin_capture() {
  require_running("a capture");
  State& s = *state_;
  if (!s.before_capture)
    check(cudaEventCreateWithFlags(&s.before_capture, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaEventRecord(s.before_capture, s.stream), "cudaEventRecord");
  auto arena = in_common ? s.arena.lock() : nullptr;
  if (!arena) arena = std::make_shared<Arena>(device_);
  if (in_common) s.arena = arena;
  auto graph = std::make_shared<Graph>(device_, std::move(arena));
  // A release() in between would become part of the capture, or invalidate it.
  std::lock_guard lock(s.mutex);
  check(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  capture_ = std::move(graph);
}

std::shared_ptr<Graph> Stream::end_capture(bool complete) {
  if (!capture_) throw std::runtime_error("no graph is being captured");
  std::shared_ptr<Graph> graph;
  std::vector<Block> deferred;
  cudaGraph_t recorded = nullptr;
  cudaError_t e;
  {
    std::lock_guard lock(state_->mutex);
    e = cudaStreamEndCapture(state_->stream, &recorded);
    graph = std::exchange(capture_, nullptr);
    deferred = std::exchange(state_->deferred, {});
  }
  for (Block& b : deferred) {
    count(device_, ptrdiff_t(b.bytes));
    release(std::move(b));
  }
  if (complete) check(e, "cudaStreamEndCapture");
  if (complete) e = cudaGraphInstantiate(&graph->exec, recorded, 0);
  if (recorded) cudaGraphDestroy(recorded);
  if (!complete) {
    cudaGetLastError();  // what failed has been told
    return nullptr;
  }
  check(e, "cudaGraphInstantiate");
  return graph;
}

void Stream::retain(const Block& block, std::shared_ptr<void> owner) {
  if (block.graph != capture_) capture_->retained.push_back(std::move(owner));
}

void Stream::replay(const Graph& graph) {
  require_running("a graph");
  check(cudaGraphLaunch(graph.exec, state_->stream), "cudaGraphLaunch");
}

// ---- the stream in use ----

Use::Use(Stream& stream) : before_(std::exchange(in_use, &stream)) {
  try {
    require_alive(stream.device());
    check(cudaSetDevice(stream.device()), "cudaSetDevice");
  } catch (...) {
    in_use = before_;
    throw;
  }
}
Use::~Use() { in_use = before_; }

Stream& current() {
  if (!in_use) throw std::runtime_error("a CUDA operator was called outside a stream");
  return *in_use;
}
cudaStream_t current_stream() { return static_cast<cudaStream_t>(current().handle()); }

}  // namespace mt::cuda
