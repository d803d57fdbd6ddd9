// Graphs: their memory, their capture on a stream, their replay.
#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "core/cuda_state.h"
#include "core/error.h"

namespace mt::cuda {
namespace {

thread_local bool in_common = false;  // of Shared

}  // namespace

// ---- memory ----

Arena::~Arena() {
  cudaSetDevice(device_);
  for (auto [p, size] : segments) {
    cudaFree(p);
    count(device_, -ptrdiff_t(size));
  }
}

bool Arena::grow(size_t size) {
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

Graph::Graph(int device, std::shared_ptr<Arena> arena) : device_(device), arena_(std::move(arena)) {
  for (auto [p, size] : arena_->segments) add_segment(p, size);
}

Graph::~Graph() {
  cudaSetDevice(device_);
  if (exec) cudaGraphExecDestroy(exec);
}

void* Graph::allocate(size_t bytes) {
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

void Graph::release(void* data) {
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

void Graph::add_segment(char* p, size_t size) {
  free_.emplace(p, size);
  starts_.insert(p);
}

std::map<char*, size_t>::iterator Graph::smallest(size_t size) {
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it)
    if (it->second >= size && (best == free_.end() || it->second < best->second)) best = it;
  return best;
}

size_t graph_bytes(const Graph& graph) { return graph.bytes(); }

Shared::Shared(bool shared) : before_(std::exchange(in_common, shared)) {}
Shared::~Shared() { in_common = before_; }

// ---- capture and replay ----

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
    cudaGetLastError();  // the failure was reported already
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

}  // namespace mt::cuda
