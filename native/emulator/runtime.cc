// The emulated runtime: devices, errors, streams, events, graphs. A stream runs its steps on the thread that pushes them or, in mode
// `late`, on the thread that first waits for them: nothing has happened yet wherever the host has not asked.
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "emulator/state.h"

struct CUgraph_st { std::shared_ptr<mt::simt::Steps> steps; };
struct CUgraphExec_st { std::shared_ptr<mt::simt::Steps> steps; };

namespace mt::simt {
namespace {

Modes parse(std::string_view list) {
  Modes m;
  auto number = [](std::string_view word, std::string_view digits) {
    uint64_t v = 0;
    auto [end, bad] = std::from_chars(digits.data(), digits.data() + digits.size(), v);
    if (bad != std::errc() || end != digits.data() + digits.size()) throw std::invalid_argument("MT_EMULATOR: a number is expected in \"" + std::string(word) + "\"");
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
    else if (word == "nodriver") m.nodriver = true;
    else if (word == "nodevice") m.nodevice = true;
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
  s.mallocs = s.launches = s.memcpys = s.kernels = 0;
  s.sticky = cudaSuccess;
  s.report.clear();
  set_order(m.order);
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local int device_of_thread = 0;

/// Handles that are alive: an unknown one is refused where the real thing would crash.
struct Handles {
  std::mutex mutex;
  std::map<cudaStream_t, std::shared_ptr<Stream>> streams;
  std::map<int, std::shared_ptr<Stream>> null_streams;
  std::map<cudaEvent_t, std::shared_ptr<Event>> events;
};
Handles& handles() {
  static Handles* h = new Handles;  // outlives whatever is destroyed at the end of the process
  return *h;
}
std::shared_ptr<Event> find_event(cudaEvent_t e) {
  std::lock_guard hold(handles().mutex);
  auto it = handles().events.find(e);
  return it == handles().events.end() ? nullptr : it->second;
}

cudaError_t entry(int device) {
  if (cudaError_t e = standing()) return e;
  return device < 0 || device >= state().modes.devices ? cudaErrorInvalidDevice : cudaSuccess;
}

/// A wait inside a capture: refused, and the capture is lost.
cudaError_t broken(Stream& s) {
  s.capture_broken = true;
  return note(cudaErrorStreamCaptureUnsupported);
}

/// Nothing is done at the first question in mode late; the second finds it done, so that a loop of questions ends.
cudaError_t poll(Stream& s, uint64_t ticket, bool& polled) {
  if (s.done >= ticket) return standing();
  if (std::exchange(polled, true)) {
    polled = false;
    s.drain(ticket);
    return note(standing());
  }
  return cudaErrorNotReady;
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

cudaError_t standing() {
  State& s = state();
  std::lock_guard hold(s.mutex);
  return s.modes.nodriver ? cudaErrorInsufficientDriver : s.modes.nodevice ? cudaErrorNoDevice : s.sticky;
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
bool strikes(uint64_t State::*counter, uint64_t Modes::*target) {
  State& s = state();
  std::lock_guard hold(s.mutex);
  return ++(s.*counter) == s.modes.*target;
}

std::shared_ptr<Stream> find_stream(cudaStream_t stream) {
  Handles& h = handles();
  std::lock_guard hold(h.mutex);
  if (!stream) {
    auto& s = h.null_streams[device_of_thread];
    if (!s) s = std::make_shared<Stream>(device_of_thread);
    return s;
  }
  auto it = h.streams.find(stream);
  return it == h.streams.end() ? nullptr : it->second;
}

void Stream::drain(uint64_t until) {
  std::lock_guard hold(mutex);
  while (!queue.empty() && done < until) {
    Step step = std::move(queue.front());
    queue.pop_front();
    if (step.always || standing() == cudaSuccess) step.run();
    ++done;
  }
}

bool drain_device(int device, bool breaks_captures) {
  std::vector<std::shared_ptr<Stream>> all;
  {
    std::lock_guard hold(handles().mutex);
    for (auto& [handle, s] : handles().streams)
      if (s->device == device) all.push_back(s);
    if (auto it = handles().null_streams.find(device); it != handles().null_streams.end()) all.push_back(it->second);
  }
  bool fine = true;
  for (auto& s : all) {
    std::lock_guard hold(s->mutex);
    if (s->capture && breaks_captures) s->capture_broken = true, fine = false;
  }
  if (fine)
    for (auto& s : all) s->drain();
  return fine;
}

void push(Stream& s, Step step) {
  std::lock_guard hold(s.mutex);
  if (s.capture) {
    s.capture->push_back(std::move(step));
    return;
  }
  s.queue.push_back(std::move(step));
  ++s.pushed;
  if (!state().modes.late) s.drain();
}

cudaError_t enqueue(cudaStream_t stream, Launch launch) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s || s->device != device_of_thread) return note(cudaErrorInvalidResourceHandle);
  if (std::string why = refused(launch); !why.empty() || strikes(&State::launches, &Modes::fail_launch)) {
    std::lock_guard hold(state().mutex);
    state().report = "launch at " + text(launch.at) + " refused: " + (why.empty() ? "MT_EMULATOR asked for it" : why);
    return note(cudaErrorInvalidConfiguration);
  }
  push(*s, {[l = std::move(launch)] {
             if (strikes(&State::kernels, &Modes::sticky)) return stick(cudaErrorIllegalAddress, "kernel launched at " + text(l.at) + ": illegal address, as MT_EMULATOR asked");
             try {
               run(l);
             } catch (const std::exception& x) {
               stick(cudaErrorLaunchFailure, "kernel launched at " + text(l.at) + ": " + x.what());
             }
           }});
  return cudaSuccess;
}

}  // namespace mt::simt

using namespace mt::simt;

// ---- errors ----

namespace {
struct ErrorText { cudaError_t code; const char *name, *text; };
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
};
const ErrorText* find(cudaError_t e) {
  auto it = std::find_if(std::begin(error_texts), std::end(error_texts), [=](const ErrorText& t) { return t.code == e; });
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
  last_error = cudaSuccess;  // a sticky one comes back
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
  *version = state().modes.nodriver ? 0 : 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (cudaError_t e = entry(device)) return note(e);
  *p = {};
  std::strcpy(p->name, "Emulated CUDA device");
  p->totalGlobalMem = state().modes.memory;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = 227 << 10;
  p->major = 9;
  p->multiProcessorCount = 4;
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

// ---- streams and events ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (cudaError_t e = standing()) return note(e);
  auto made = std::make_shared<Stream>(device_of_thread);
  *stream = reinterpret_cast<cudaStream_t>(made.get());
  std::lock_guard hold(handles().mutex);
  handles().streams[*stream] = made;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  auto s = stream ? find_stream(stream) : nullptr;
  if (!s) return note(cudaErrorInvalidResourceHandle);
  s->drain();  // what is queued is still done
  std::lock_guard hold(handles().mutex);
  handles().streams.erase(stream);
  return note(standing());
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s) return note(cudaErrorInvalidResourceHandle);
  std::lock_guard hold(s->mutex);
  if (s->capture) return broken(*s);
  s->drain();
  return note(standing());
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s) return note(cudaErrorInvalidResourceHandle);
  std::lock_guard hold(s->mutex);
  if (s->capture) return broken(*s);
  return poll(*s, s->pushed, s->polled);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  auto v = find_event(event);
  if (!s || !v) return note(cudaErrorInvalidResourceHandle);
  if (s->capture) return broken(*s);
  if (v->stream) push(*s, {[other = v->stream, ticket = v->ticket] { other->drain(ticket); }});
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (cudaError_t e = standing()) return note(e);
  auto made = std::make_shared<Event>();
  made->timed = !(flags & cudaEventDisableTiming);
  *event = reinterpret_cast<cudaEvent_t>(made.get());
  std::lock_guard hold(handles().mutex);
  handles().events[*event] = made;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  std::lock_guard hold(handles().mutex);
  return handles().events.erase(event) ? cudaSuccess : note(cudaErrorInvalidResourceHandle);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  auto v = find_event(event);
  if (!s || !v) return note(cudaErrorInvalidResourceHandle);
  std::lock_guard hold(s->mutex);
  if (s->capture) return broken(*s);
  v->stream = s;
  v->ticket = s->pushed + 1;
  v->polled = false;
  v->when = std::make_shared<std::chrono::steady_clock::time_point>();
  push(*s, {[when = v->when] { *when = std::chrono::steady_clock::now(); }, true});
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (cudaError_t e = standing()) return note(e);
  auto v = find_event(event);
  if (!v) return note(cudaErrorInvalidResourceHandle);
  if (!v->stream) return cudaSuccess;
  std::lock_guard hold(v->stream->mutex);
  return poll(*v->stream, v->ticket, v->polled);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (cudaError_t e = standing()) return note(e);
  auto v = find_event(event);
  if (!v) return note(cudaErrorInvalidResourceHandle);
  if (v->stream) v->stream->drain(v->ticket);
  return note(standing());
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (cudaError_t e = standing()) return note(e);
  auto a = find_event(start), b = find_event(end);
  if (!a || !b || !a->timed || !b->timed || !a->stream || !b->stream) return note(cudaErrorInvalidResourceHandle);
  if (a->stream->done < a->ticket || b->stream->done < b->ticket) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(*b->when - *a->when).count();
  return cudaSuccess;
}

// ---- graphs ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (cudaError_t e = standing()) return note(e);
  auto s = stream ? find_stream(stream) : nullptr;
  if (!s) return note(cudaErrorInvalidResourceHandle);
  std::lock_guard hold(s->mutex);
  if (s->capture) return note(cudaErrorInvalidValue);
  s->capture = std::make_shared<Steps>();
  s->capture_broken = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  auto s = stream ? find_stream(stream) : nullptr;
  if (!s) return note(cudaErrorInvalidResourceHandle);
  std::lock_guard hold(s->mutex);
  auto steps = std::exchange(s->capture, nullptr);
  if (cudaError_t e = standing()) return note(e);
  if (!steps) return note(cudaErrorInvalidValue);
  if (s->capture_broken) return note(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st{steps};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (cudaError_t e = standing()) return note(e);
  if (!graph) return note(cudaErrorInvalidValue);
  *exec = new CUgraphExec_st{graph->steps};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s || !exec) return note(cudaErrorInvalidResourceHandle);
  push(*s, {[steps = exec->steps] {
             for (const Step& step : *steps)
               if (standing() == cudaSuccess) step.run();
           }});
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
