#include "core/profile.h"

#include <algorithm>

#include "core/device.h"

namespace mt::profile {

namespace {
constexpr int64_t kUnknown = -1;  // a duration that was not measured
}

void Recorder::begin() {
  zero_ = std::chrono::steady_clock::now();
  recording = this;
}

void Recorder::end() noexcept {
  if (recording == this) recording = nullptr;
  for (auto& s : stopwatches_) s->finish();
  elapsed_ = now();
  stopwatches_.clear();
  dropped_ += int64_t(std::erase_if(events_, [](const Event& e) { return e.duration == kUnknown; }));
  ended_.store(true, std::memory_order_release);
}

bool Recorder::open(const char* name, const std::shared_ptr<cuda::Stream>& stream, Bytes bytes) {
  if (events_.size() >= most_) return ++dropped_, false;
  const size_t id = events_.size();
  events_.push_back({name, stream ? stream->device() : Device::kCpu, 0, kUnknown, bytes});
  running_ = nullptr;
  if (stream) {
    auto it = std::find_if(stopwatches_.begin(), stopwatches_.end(),
                           [&](auto& s) { return s->stream() == stream.get(); });
    if (it == stopwatches_.end())
      it = stopwatches_.insert(
          it, std::make_unique<cuda::Stopwatch>(stream, zero_, [this](size_t i, int64_t start, int64_t duration) {
            events_[i].start = start, events_[i].duration = duration;
          }));
    running_ = it->get();
    running_->start(id, name);
  } else {
    events_[id].start = now();
  }
  return true;
}

void Recorder::close() noexcept {
  if (running_) return running_->stop();
  Event& e = events_.back();
  e.duration = now() - e.start;
}

}  // namespace mt::profile
