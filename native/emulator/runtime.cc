// The emulated runtime's modes, errors and devices.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "emulator/state.h"

namespace mt::simt {
namespace {

Modes parse(std::string_view list) {
  Modes m;
  auto number = [](std::string_view word, std::string_view digits) {
    uint64_t v = 0;
    auto [end, bad] = std::from_chars(digits.data(), digits.data() + digits.size(), v);
    if (bad != std::errc() || end != digits.data() + digits.size())
      throw std::invalid_argument("MT_EMULATOR: a number is expected in \"" + std::string(word) + "\"");
    return v;
  };
  while (!list.empty()) {
    std::string_view word = list.substr(0, list.find(','));
    list.remove_prefix(std::min(list.size(), word.size() + 1));
    auto after = [&](std::string_view start) -> std::optional<uint64_t> {
      if (!word.starts_with(start)) return std::nullopt;
      return number(word, word.substr(start.size()));
    };
    if (word.empty()) continue;
    else if (word == "late") m.late = true;
    else if (word == "null") m.null = true, m.memory = kNullMemory;
    else if (word == "pool") m.pool = true;
    else if (word == "slow") m.slow = true;
    else if (word == "nodriver") m.nodriver = true;
    else if (word == "nodevice") m.nodevice = true;
    else if (auto v = after("driver=")) m.driver = int(*v);
    else if (word == "order=forward") m.order = {Order::forward, 0};
    else if (word == "order=reversed") m.order = {Order::reversed, 0};
    else if (auto v = after("order=random:")) m.order = {Order::random, *v};
    else if (auto v = after("devices=")) m.devices = int(*v);
    else if (auto v = after("memory=")) m.memory = size_t(*v);
    else if (auto v = after("fail=malloc:")) m.fail_malloc = *v;
    else if (auto v = after("fail=launch:")) m.fail_launch = *v;
    else if (auto v = after("fail=memcpy:")) m.fail_memcpy = *v;
    else if (auto v = after("sticky=")) m.sticky = *v;
    else throw std::invalid_argument("MT_EMULATOR: \"" + std::string(word) + "\" is no mode");
  }
  return m;
}

void apply(State& s, const Modes& m) {
  s.modes = m;
  s.mallocs = s.launches = s.memcpys = s.kernels = s.limits_set = 0;
  s.sticky = cudaSuccess;
  s.report.clear();
  set_order(m.order);
}

/// The real runtime is unloaded with the process's static objects; a later call crashes.
struct Loaded {
  std::atomic<bool> gone{false};
  ~Loaded() {
    gone = true;
    dawdle();
  }
} loaded;

thread_local cudaError_t last_error = cudaSuccess;
thread_local int device_of_thread = 0;

cudaError_t entry(int device) {
  if (cudaError_t e = standing()) return e;
  return device < 0 || device >= state().modes.devices ? cudaErrorInvalidDevice : cudaSuccess;
}

}  // namespace

State& state() {
  static State* s = [] {
    auto* made = new State;
    const char* modes = std::getenv("MT_EMULATOR");
    apply(*made, parse(modes ? modes : ""));
    return made;
  }();
  return *s;
}

void configure(const std::string& modes) {
  Modes m = parse(modes);
  State& s = state();
  std::lock_guard hold(s.mutex);
  apply(s, m);
  last_error = cudaSuccess;
  device_of_thread = 0;
}
void clear_errors() {
  State& s = state();
  std::lock_guard hold(s.mutex);
  s.sticky = cudaSuccess;
  s.report.clear();
  last_error = cudaSuccess;
}
std::string last_report() {
  std::lock_guard hold(state().mutex);
  return state().report;
}

int current_device() { return device_of_thread; }

void dawdle() {
  if (state().modes.slow) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

cudaError_t standing() {
  if (loaded.gone) {
    std::fputs("a CUDA call came after the runtime was unloaded\n", stderr);
    std::abort();
  }
  State& s = state();
  std::lock_guard hold(s.mutex);
  return s.modes.nodriver || s.modes.driver < kVersion ? cudaErrorInsufficientDriver
         : s.modes.nodevice                            ? cudaErrorNoDevice
                                                       : s.sticky;
}
cudaError_t note(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}
void stick(cudaError_t e, const std::string& report) {
  State& s = state();
  std::lock_guard hold(s.mutex);
  if (s.sticky != cudaSuccess) return;
  s.sticky = e;
  s.report = report;
}
void count(uint64_t Counts::* what, uint64_t by) {
  std::lock_guard hold(state().mutex);
  state().counts.*what += by;
}
std::map<std::string, uint64_t> counts() {
  std::lock_guard hold(state().mutex);
  const Counts& c = state().counts;
  std::map<std::string, uint64_t> all{{"launches", c.launches}, {"copies", c.copies},  {"fills", c.fills},
                                      {"mallocs", c.mallocs},   {"frees", c.frees},    {"graphs", c.graphs},
                                      {"nodes", c.nodes},       {"replays", c.replays}};
  for (auto [file, n] : state().launches_at) {
    const std::string_view path = file;
    const size_t at = path.rfind("native/");
    all[std::string(at == path.npos ? path : path.substr(at + 7))] += n;
  }
  return all;
}

// ---- shared memory and occupancy ----

constexpr int kMultiprocessorThreads = 2048, kMultiprocessorBlocks = 32, kMultiprocessorShared = 228 << 10,
              kOptIn = 227 << 10, kPlain = 48 << 10, kReserved = 1 << 10;

cudaError_t set_shared_limit(const void* kernel, int bytes) {
  if (cudaError_t e = standing()) return note(e);
  if (bytes < 0 || bytes > kOptIn) return note(cudaErrorInvalidValue);
  State& s = state();
  std::lock_guard hold(s.mutex);
  s.shared_limits[{current_device(), kernel}] = bytes;
  ++s.limits_set;
  return cudaSuccess;
}
uint64_t shared_limits_set() {
  std::lock_guard hold(state().mutex);
  return state().limits_set;
}
std::string beyond_limit(int device, const Launch& l) {
  if (!l.kernel) return "";
  State& s = state();
  std::lock_guard hold(s.mutex);
  auto it = s.shared_limits.find({device, l.kernel});
  const int most = it == s.shared_limits.end() ? kPlain : it->second;
  return l.shared_bytes <= size_t(most)
             ? ""
             : std::to_string(l.shared_bytes) + " bytes of dynamic shared memory, and the kernel is allowed " +
                   std::to_string(most);
}
/// Registers are not modelled.
int resident_blocks(int threads, size_t shared_bytes) {
  const int warps = (threads + 31) / 32 * 32;
  return std::min({kMultiprocessorBlocks, kMultiprocessorThreads / std::max(warps, 32),
                   int(kMultiprocessorShared / (shared_bytes + kReserved))});
}

bool strikes(uint64_t State::* counter, uint64_t Modes::* target) {
  State& s = state();
  std::lock_guard hold(s.mutex);
  return ++(s.*counter) == s.modes.*target;
}

}  // namespace mt::simt

using namespace mt::simt;

// ---- errors ----

namespace {
struct ErrorText {
  cudaError_t code;
  const char *name, *text;
};
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
};
const ErrorText* find(cudaError_t e) {
  auto it = std::find_if(std::begin(error_texts), std::end(error_texts),
                         [=](const ErrorText& t) { return t.code == e; });
  return it == std::end(error_texts) ? nullptr : it;
}
}  // namespace
const char* cudaGetErrorName(cudaError_t e) { return find(e) ? find(e)->name : "unrecognized error code"; }
const char* cudaGetErrorString(cudaError_t e) { return find(e) ? find(e)->text : "unrecognized error code"; }
cudaError_t cudaPeekAtLastError() {
  std::lock_guard hold(state().mutex);
  return state().sticky != cudaSuccess ? state().sticky : last_error;
}
cudaError_t cudaGetLastError() {
  cudaError_t e = cudaPeekAtLastError();
  last_error = cudaSuccess;  // a sticky error stays
  return e;
}

// ---- devices ----

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (cudaError_t e = standing()) return note(e);
  *count = state().modes.devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (cudaError_t e = entry(device)) return note(e);
  device_of_thread = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = device_of_thread;
  return note(standing());
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = state().modes.nodriver ? 0 : state().modes.driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (cudaError_t e = entry(device)) return note(e);
  *p = {};
  std::strcpy(p->name, state().modes.null ? "Null CUDA device" : "Emulated CUDA device");
  p->totalGlobalMem = state().modes.memory;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = 227 << 10;
  p->major = 9;
  p->multiProcessorCount = state().modes.null ? kNullMultiprocessors : 4;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->regsPerBlock = 65536;
  p->l2CacheSize = 1 << 20;
  p->memoryPoolsSupported = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (cudaError_t e = cudaGetDeviceProperties(&p, device)) return e;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(p.sharedMemPerBlockOptin); return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported: *value = p.memoryPoolsSupported; return cudaSuccess;
  }
  return note(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceSynchronize() {
  if (cudaError_t e = standing()) return note(e);
  return drain_device(device_of_thread, true) ? note(standing()) : note(cudaErrorStreamCaptureUnsupported);
}
