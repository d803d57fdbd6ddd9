// Streams: made, waited for, the one in use on a thread.
#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "core/cuda_state.h"
#include "core/error.h"

namespace mt::cuda {

thread_local Stream* in_use = nullptr;

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

unsigned* Stream::counters() const { return state_->counters; }

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
