// Time on a CUDA stream: an event before and one after each piece of work, read once both have completed.
#pragma once
#include <chrono>
#include <functional>
#include <memory>

#include "core/cuda.h"

namespace mt::cuda {

class Stopwatch {
 public:
  /// Called for each piece of work, in order, with its start in nanoseconds since `zero` and its duration.
  using Told = std::function<void(size_t id, int64_t start, int64_t duration)>;

  /// Waits for the stream, so that its clock and the host's are read at the same time.
  Stopwatch(std::shared_ptr<Stream> stream, std::chrono::steady_clock::time_point zero, Told told);
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;

  const Stream* stream() const { return stream_.get(); }
  /// Around the calls that enqueue the work, which tools that read NVTX see as a range of this name. Now and then
  /// start() waits for work of long ago, so that there is never more than some thousand events.
  void start(size_t id, const char* name);
  void stop() noexcept;
  /// Waits for all work. Work whose times CUDA does not give is left out.
  void finish() noexcept;

 private:
  struct State;
  /// Reports the first `count`.
  void read(size_t count) noexcept;
  std::shared_ptr<Stream> stream_;
  std::unique_ptr<State> state_;
};

}  // namespace mt::cuda
