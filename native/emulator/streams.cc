// Emulated streams, events and graphs. A stream runs its steps on the thread that pushes them or, in mode `late`, on
// the thread that first waits for them: nothing runs before the host waits.
#include <map>
#include <utility>

#include "emulator/state.h"

struct CUgraph_st {
  std::shared_ptr<mt::simt::Steps> steps;
};
struct CUgraphExec_st {
  std::shared_ptr<mt::simt::Steps> steps;
};

namespace mt::simt {
namespace {

/// Live handles: an unknown one is refused where the real runtime would crash.
struct Handles {
  std::mutex mutex;
  std::map<cudaStream_t, std::shared_ptr<Stream>> streams;
  std::map<int, std::shared_ptr<Stream>> null_streams;
  std::map<cudaEvent_t, std::shared_ptr<Event>> events;
};
Handles& handles() {
  static Handles* h = new Handles;  // never destroyed, so that it outlives static objects
  return *h;
}
std::shared_ptr<Event> find_event(cudaEvent_t e) {
  std::lock_guard hold(handles().mutex);
  auto it = handles().events.find(e);
  return it == handles().events.end() ? nullptr : it->second;
}

/// A wait inside a capture: refused, and the capture is lost.
cudaError_t broken(Stream& s) {
  s.capture_broken = true;
  return note(cudaErrorStreamCaptureUnsupported);
}

/// In mode late the first query finds the work pending; the second runs it, so that a polling loop ends.
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

std::shared_ptr<Stream> find_stream(cudaStream_t stream) {
  Handles& h = handles();
  std::lock_guard hold(h.mutex);
  if (!stream) {
    auto& s = h.null_streams[current_device()];
    if (!s) s = std::make_shared<Stream>(current_device());
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
  if (state().modes.null && !step.always) return;
  s.queue.push_back(std::move(step));
  ++s.pushed;
  if (!state().modes.late) s.drain();
}

cudaError_t enqueue(cudaStream_t stream, Launch launch) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s || s->device != current_device()) return note(cudaErrorInvalidResourceHandle);
  std::string why = refused(launch);
  if (why.empty()) why = beyond_limit(s->device, launch);
  if (!why.empty() || strikes(&State::launches, &Modes::fail_launch)) {
    std::lock_guard hold(state().mutex);
    state().report = "launch at " + text(launch.at) + " refused: " + (why.empty() ? "MT_EMULATOR asked for it" : why);
    return note(cudaErrorInvalidConfiguration);
  }
  {
    std::lock_guard hold(state().mutex);
    ++state().counts.launches;
    ++state().launches_at[launch.at.file_name()];
  }
  if (state().modes.null) return push(*s, {}), cudaSuccess;
  push(*s, {[l = std::move(launch), device = s->device] {
    if (strikes(&State::kernels, &Modes::sticky))
      return stick(cudaErrorIllegalAddress,
                   "kernel launched at " + text(l.at) + ": illegal address, as MT_EMULATOR asked");
    // A graph's node is checked against the limit at replay.
    if (std::string why = beyond_limit(device, l); !why.empty())
      return stick(cudaErrorLaunchFailure, "kernel launched at " + text(l.at) + ": " + why);
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

// ---- streams and events ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (cudaError_t e = standing()) return note(e);
  auto made = std::make_shared<Stream>(current_device());
  *stream = reinterpret_cast<cudaStream_t>(made.get());
  std::lock_guard hold(handles().mutex);
  handles().streams[*stream] = made;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  auto s = stream ? find_stream(stream) : nullptr;
  if (!s) return note(cudaErrorInvalidResourceHandle);
  s->drain();  // queued work still runs
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
  {
    std::lock_guard hold(s->mutex);
    if (s->capture) return note(cudaErrorInvalidValue);
    s->capture = std::make_shared<Steps>();
    s->capture_broken = false;
  }
  dawdle();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  auto s = stream ? find_stream(stream) : nullptr;
  if (!s) return note(cudaErrorInvalidResourceHandle);
  dawdle();
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
  count(&Counts::graphs);
  count(&Counts::nodes, graph->steps->size());
  *exec = new CUgraphExec_st{graph->steps};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s || !exec) return note(cudaErrorInvalidResourceHandle);
  count(&Counts::replays);
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
