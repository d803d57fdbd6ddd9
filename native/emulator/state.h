// State that the emulated runtime's files share: modes, errors, streams. Private to native/emulator.
#pragma once
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "emulator/cuda_runtime.h"

namespace mt::simt {

constexpr int kVersion = 13000;  // of CUDA: 1000·major + 10·minor

// The null device has the size of an H100, so that kernels and tiles are chosen as there.
constexpr size_t kNullMemory = size_t(80) << 30;
constexpr int kNullMultiprocessors = 132;

struct Modes {
  Order order;
  bool late = false, nodriver = false, nodevice = false, pool = false, slow = false;
  bool null = false;  // checks and counts every call, runs nothing
  int devices = 1;
  int driver = kVersion;  // the driver's version
  size_t memory = size_t(4) << 30;
  uint64_t fail_malloc = 0, fail_launch = 0, fail_memcpy = 0, sticky = 0;  // 0: never
};

/// A step of a stream, and what it does on a failed device: memory is still freed.
struct Step {
  std::function<void()> run;
  bool always = false;
};
using Steps = std::vector<Step>;

struct Stream {
  explicit Stream(int device) : device(device) {}
  const int device;
  std::recursive_mutex mutex;  // also held while its steps run
  std::deque<Step> queue;
  uint64_t pushed = 0, done = 0;
  bool polled = false;
  std::shared_ptr<Steps> capture;  // set while capturing
  bool capture_broken = false;

  void drain(uint64_t until);
  void drain() { drain(UINT64_MAX); }
};
struct Event {
  bool timed;
  std::shared_ptr<Stream> stream;  // null: never recorded
  uint64_t ticket = 0;
  bool polled = false;
  std::shared_ptr<std::chrono::steady_clock::time_point> when;
};

/// One lock for the tables below. Never held while a step runs.
struct State {
  std::mutex mutex;
  Modes modes;
  uint64_t mallocs = 0, launches = 0, memcpys = 0, kernels = 0;  // calls so far, to find the one that shall fail
  Counts counts;
  std::map<const char*, uint64_t> launches_at;  // by the file's name, as it lies in the source location
  cudaError_t sticky = cudaSuccess;
  std::string report;
  std::map<std::pair<int, const void*>, int> shared_limits;  // of a device's kernel, once it is set
  uint64_t limits_set = 0;
};
State& state();
int current_device();

/// The error that every call returns now: none, a sticky one, or no device.
cudaError_t standing();
/// Records an error as this thread's last and returns it.
cudaError_t note(cudaError_t e);
/// From now on every call fails with `e`.
void stick(cudaError_t e, const std::string& report);
/// Counts calls into the runtime.
void count(uint64_t Counts::* what, uint64_t by = 1);
/// Empty, or that the launch takes more shared memory than its kernel is allowed now.
std::string beyond_limit(int device, const Launch& l);
/// Counts a call; true if it shall fail.
bool strikes(uint64_t State::* counter, uint64_t Modes::* target);

/// In mode slow: pauses, so that racing code runs first.
void dawdle();

std::shared_ptr<Stream> find_stream(cudaStream_t s);  // null: no such stream
/// Drains every stream of a device; where asked, an active capture is broken instead.
bool drain_device(int device, bool breaks_captures);
/// Records the step, or queues it and, unless late, runs it.
void push(Stream& s, Step step);

}  // namespace mt::simt
