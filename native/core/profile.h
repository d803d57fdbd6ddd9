// Profiles: during a recording, each operator that the queue runs adds its name, time and bytes. Without one, an
// operator costs one pointer check.
#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/stopwatch.h"

namespace mt::profile {

struct Bytes {
  int64_t read = 0, written = 0;
};

/// One operator. Times are nanoseconds since the recording began: on the CPU, the time of its task on the queue's
/// thread; on a CUDA device, the stream's time from the end of the previous work to its end.
struct Event {
  const char* name;  // lives as long as the program
  int device;        // as in core/device.h
  int64_t start, duration;
  Bytes bytes;
};

/// A recording of one queue, in the order of its operators. It begins and ends on the queue's thread, and is read
/// afterwards.
class Recorder {
 public:
  /// Keeps the first `most` events, and counts the others.
  explicit Recorder(size_t most) : most_(most) {}

  void begin();
  /// Waits for the operators that a GPU still runs. Failed ones, and those on a lost device, count as dropped.
  void end() noexcept;

  /// Whether the rest may be read, by any thread.
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  const std::vector<Event>& events() const { return events_; }
  int64_t dropped() const { return dropped_; }
  /// Nanoseconds from beginning to end.
  int64_t elapsed() const { return elapsed_; }

 private:
  friend class Span;
  bool open(const char* name, const std::shared_ptr<cuda::Stream>& stream, Bytes bytes);
  void close() noexcept;
  int64_t now() const { return std::chrono::nanoseconds(std::chrono::steady_clock::now() - zero_).count(); }

  size_t most_;
  std::chrono::steady_clock::time_point zero_;
  std::vector<Event> events_;
  std::vector<std::unique_ptr<cuda::Stopwatch>> stopwatches_;  // one for each stream that was seen
  cuda::Stopwatch* running_ = nullptr;
  int64_t dropped_ = 0, elapsed_ = 0;
  std::atomic<bool> ended_{false};
};

/// The record that this thread's queue writes to; null: none.
inline thread_local Recorder* recording = nullptr;

/// The scope of one operator. Work that is captured into a graph does not run and is not recorded.
class Span {
 public:
  /// @param stream the device's, null for the CPU
  /// @param bytes returns the bytes that the operator moves; called only during a recording
  template <typename F>
  Span(const char* name, const std::shared_ptr<cuda::Stream>& stream, F bytes) {
    if (!recording) [[likely]]
      return;
    if (stream && stream->capturing()) return;
    if (recording->open(name, stream, bytes())) recorder_ = recording;
  }
  ~Span() {
    if (recorder_) recorder_->close();
  }
  Span(const Span&) = delete;

 private:
  Recorder* recorder_ = nullptr;
};

}  // namespace mt::profile
