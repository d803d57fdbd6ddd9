#include "core/stopwatch.h"

#ifdef MT_CUDA
#include <cuda_runtime.h>
// NVTX is headers alone: it looks for a tool at run time, and does nothing where there is none.
#if !defined(MT_CUDA_EMULATED) && __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define MT_NVTX
#endif
#endif

#include <deque>
#include <utility>
#include <vector>

namespace mt::cuda {

#ifdef MT_CUDA

void check(cudaError_t e, const char* what);

namespace {

constexpr size_t kInFlight = 4096;

void range(const char* name) {
#ifdef MT_NVTX
  name ? nvtxRangePushA(name) : nvtxRangePop();
#else
  (void)name;
#endif
}

}  // namespace

struct Stopwatch::State {
  struct Lap {
    size_t id;
    cudaEvent_t from, to;
  };
  std::deque<Lap> laps;
  std::vector<cudaEvent_t> all, free;
  Told told;
  /// Times are counted from an event not long ago, because CUDA gives them as float32 milliseconds.
  cudaEvent_t anchor = nullptr;
  double anchored = 0;  // nanoseconds

  ~State() {
    for (cudaEvent_t e : all) cudaEventDestroy(e);
    cudaGetLastError();
  }
  cudaEvent_t take() {
    if (free.empty()) {
      cudaEvent_t made;
      check(cudaEventCreateWithFlags(&made, cudaEventDefault), "cudaEventCreateWithFlags");
      all.push_back(made);
      free.push_back(made);
    }
    cudaEvent_t e = free.back();
    free.pop_back();
    return e;
  }
};

Stopwatch::Stopwatch(std::shared_ptr<Stream> stream, std::chrono::steady_clock::time_point zero, Told told)
    : stream_(std::move(stream)), state_(std::make_unique<State>()) {
  Use use(*stream_);
  State& s = *state_;
  s.told = std::move(told);
  s.anchor = s.take();
  check(cudaEventRecord(s.anchor, static_cast<cudaStream_t>(stream_->handle())), "cudaEventRecord");
  check(cudaEventSynchronize(s.anchor), "cudaEventSynchronize");
  s.anchored = double(std::chrono::nanoseconds(std::chrono::steady_clock::now() - zero).count());
}
Stopwatch::~Stopwatch() = default;

void Stopwatch::start(size_t id, const char* name) {
  State& s = *state_;
  Use use(*stream_);
  if (s.laps.size() >= kInFlight) read(kInFlight / 2);
  cudaEvent_t from = s.take(), to = s.take();
  check(cudaEventRecord(from, static_cast<cudaStream_t>(stream_->handle())), "cudaEventRecord");
  s.laps.push_back({id, from, to});
  range(name);
}

void Stopwatch::stop() noexcept {
  range(nullptr);
  cudaEventRecord(state_->laps.back().to, static_cast<cudaStream_t>(stream_->handle()));
  cudaGetLastError();  // if it failed, so does every query of its time
}

/// Errors are reported by the wait for the work itself.
void Stopwatch::read(size_t count) noexcept {
  State& s = *state_;
  auto between = [](cudaEvent_t a, cudaEvent_t b, double& ns) {
    float ms = 0;
    const bool known = cudaEventSynchronize(b) == cudaSuccess && cudaEventElapsedTime(&ms, a, b) == cudaSuccess;
    ns = double(ms) * 1e6;
    return known;
  };
  for (; count; --count) {
    const State::Lap lap = s.laps.front();
    s.laps.pop_front();
    double before, duration, until;
    if (between(s.anchor, lap.from, before) && between(lap.from, lap.to, duration))
      s.told(lap.id, int64_t(s.anchored + before), int64_t(duration));
    s.free.push_back(lap.from);
    // The last event becomes the anchor, once for many events, so that CUDA's rounding does not accumulate.
    if (count == 1 && between(s.anchor, lap.to, until)) {
      s.anchored += until;
      s.free.push_back(std::exchange(s.anchor, lap.to));
    } else {
      s.free.push_back(lap.to);
    }
  }
  cudaGetLastError();
}

void Stopwatch::finish() noexcept { read(state_->laps.size()); }

#else

struct Stopwatch::State {};
Stopwatch::Stopwatch(std::shared_ptr<Stream>, std::chrono::steady_clock::time_point, Told) {}
Stopwatch::~Stopwatch() = default;
void Stopwatch::start(size_t, const char*) {}
void Stopwatch::stop() noexcept {}
void Stopwatch::finish() noexcept {}

#endif

}  // namespace mt::cuda
