// The module's functions for devices: the list of devices, their memory, captured graphs.
#include "binding/functions.h"
#include "core/arena.h"
#include "core/storage.h"
#include "instruments/probe.h"
#include "kernels/cpu/isa.h"
#include "kernels/cuda/matmul.h"

namespace mt::binding {

Device device_argument(const Napi::Value& v, const char* function, int position) {
  if (v.IsUndefined() || v.IsNull()) return {};
  int64_t id = Decoder<int64_t>::decode(v, function, position);
  require(id >= Device::kCpu && id < 1024, "device: expected -1 for the CPU or the number of a CUDA device, but got ",
          id, ".");
  return {int(id)};
}

namespace {

/// memory(device = -1): counters of the CPU's memory, or of a CUDA device's.
Napi::Value memory(const Napi::CallbackInfo& info) {
  auto o = Napi::Object::New(info.Env());
  if (Device device = device_argument(info[0], "memory", 0); device.is_cuda()) {
    cuda::DeviceInfo d = cuda::device_info(device.id);
    cuda::Memory m = cuda::memory(device.id);
    o["bytes"] = double(m.bytes);
    o["peak"] = double(m.peak);
    o["limit"] = double(d.memory);
    return o;
  }
  MemoryStats s = memory_stats();
  o["bytes"] = double(s.bytes);
  o["peak"] = double(s.peak);
  o["cached"] = double(s.cached);
  o["tensors"] = double(s.tensors);
  o["packed"] = double(s.packed);
  o["mapped"] = double(s.mapped);
  o["external"] = double(reports().bytes);
  o["reports"] = double(reports().count);
  o["limit"] = double(memory_limit());
  return o;
}
Napi::Value forget_peak(const Napi::CallbackInfo& info) {
  if (Device device = device_argument(info[0], "resetPeak", 0); device.is_cuda()) {
    cuda::device_info(device.id);  // throws where there is none
    cuda::reset_peak(device.id);
  } else {
    reset_peak();
  }
  return info.Env().Undefined();
}
Napi::Value give_up_cached(const Napi::CallbackInfo& info) {
  release_cached();
  return info.Env().Undefined();
}

/// devices(): the devices that this build can run on, and why there are no more.
Napi::Value devices(const Napi::CallbackInfo& info) {
  cuda::Availability a = cuda::availability();
  auto o = Napi::Object::New(info.Env());
  o["built"] = a.built;
  o["emulated"] = a.emulated;
  o["architectures"] = a.architectures;
  o["reason"] = a.reason;
  auto list = Napi::Array::New(info.Env());
  for (int i = 0; i < a.count; ++i) {
    auto d = Napi::Object::New(info.Env());
    try {
      cuda::DeviceInfo found = cuda::device_info(i);
      d["name"] = found.name;
      d["capability"] = text(found.major, ".", found.minor);
      d["multiprocessors"] = found.multiprocessors;
      d["memory"] = double(found.memory);
      d["free"] = double(found.free);
    } catch (const std::exception& e) { d["failure"] = std::string(e.what()); }
    list.Set(uint32_t(i), d);
  }
  o["devices"] = list;
  if (a.emulated) {
    auto counts = Napi::Object::New(info.Env());
    for (auto& [name, n] : cuda::counts()) counts[name] = double(n);
    o["counts"] = counts;
  }
  auto products = Napi::Object::New(info.Env());
  products["by"] = "own";
  products["reason"] = "there is no CUDA device";
#ifdef MT_CUDA
  if (a.count) {
    const cuda::MatmulChoice choice = cuda::matmul_choice();
    products["by"] = choice.library ? "cublaslt" : "own";
    products["reason"] = choice.reason;
  }
#endif
  o["products"] = products;
  auto cpu = Napi::Object::New(info.Env());
  cpu["isa"] = name_of(isa());
  cpu["bfloat16"] = has_bfloat16_dots();
  o["cpu"] = cpu;
  return o;
}

/// fragments(device): which lane has which element of a tensor core's operands: { found, expected }, as the device and
/// as the PTX manual have it, in the same order.
Napi::Value fragments(const Napi::CallbackInfo& info) {
  Device device = device_argument(info[0], "fragments", 0);
  require(device.is_cuda(), "device: expected a CUDA device, but got ", device, ".");
  auto& environment = Environment::of(info.Env());
  auto stream = environment.stream(device);
  environment.calls.sync_blocking();
  auto o = Napi::Object::New(info.Env());
#ifdef MT_CUDA
  cuda::Use use(*stream);
  auto list = [&](const std::vector<int>& values) {
    auto a = Napi::Array::New(info.Env(), values.size());
    for (size_t i = 0; i < values.size(); ++i) a.Set(uint32_t(i), values[i]);
    return a;
  };
  o["found"] = list(cuda::probe_fragments());
  o["expected"] = list(cuda::expected_fragments());
#endif
  return o;
}

constexpr napi_type_tag kGraphTag = {0x6d7472616e736c6c, 0x616d612d67726170};
struct Captured {
  std::shared_ptr<cuda::Stream> stream;
  std::shared_ptr<cuda::Graph> graph;  // set by the queue
  std::atomic<size_t> bytes{0};        // likewise
};

/// beginCapture(device, shared): until endCapture(), this thread's operators on that device are recorded instead of
/// run. `shared`: the graph shares its memory with all other such graphs of this thread and device.
Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  Device device = device_argument(info[0], "beginCapture", 0);
  require(device.is_cuda(), "device: expected a CUDA device, but got ", device, "; graphs are of CUDA alone.");
  auto& environment = Environment::of(info.Env());
  auto stream = environment.stream(device);
  if (!info[1].IsBoolean()) refuse(info[1], "beginCapture", 1, "true or false");
  environment.calls.enqueue("beginCapture", [stream, shared = info[1].As<Napi::Boolean>().Value()] {
    cuda::Use use(*stream);
    cuda::Shared memory(shared);
    stream->begin_capture();
  });
  return info.Env().Undefined();
}

/// endCapture(device): the graph. It is called also where operators failed: then there is no graph, and the next sync
/// reports the failure.
Napi::Value end_capture(const Napi::CallbackInfo& info) {
  Device device = device_argument(info[0], "endCapture", 0);
  require(device.is_cuda(), "device: expected a CUDA device, but got ", device, ".");
  auto& environment = Environment::of(info.Env());
  auto captured = std::make_unique<std::shared_ptr<Captured>>(std::make_shared<Captured>(environment.stream(device)));
  environment.calls.enqueue_always("endCapture", [c = *captured, &calls = environment.calls] {
    cuda::Use use(*c->stream);
    c->graph = c->stream->end_capture(!calls.failed());
    if (c->graph) c->bytes = cuda::graph_bytes(*c->graph);
  });
  Napi::Object object = Napi::Object::New(info.Env());
  object.TypeTag(&kGraphTag);
  napi_status status = napi_wrap(
      info.Env(), object, captured.get(),
      [](napi_env, void* p, void*) { delete static_cast<std::shared_ptr<Captured>*>(p); }, nullptr, nullptr);
  if (status != napi_ok) throw Napi::Error::New(info.Env());
  captured.release();
  return object;
}

std::shared_ptr<Captured>& graph_argument(const Napi::CallbackInfo& info, const char* function) {
  void* data = nullptr;
  if (!info[0].IsObject() || !info[0].As<Napi::Object>().CheckTypeTag(&kGraphTag) ||
      napi_unwrap(info.Env(), info[0], &data) != napi_ok)
    refuse(info[0], function, 0, "a graph of endCapture()");
  auto& graph = *static_cast<std::shared_ptr<Captured>*>(data);
  require(graph != nullptr, "argument 1: expected a graph, but got one that was released.");
  return graph;
}

/// replay(graph): runs the recorded operators on the current content of their tensors.
Napi::Value replay(const Napi::CallbackInfo& info) {
  auto graph = graph_argument(info, "replay");
  Environment::of(info.Env()).calls.enqueue("replay", [graph] {
    if (!graph->graph) throw std::runtime_error("the graph was not captured, because one of its operators failed");
    cuda::Use use(*graph->stream);
    const profile::Span span("graph", graph->stream,
                             [] { return profile::Bytes{}; });  // the graph does not know its operators
    graph->stream->replay(*graph->graph);
  });
  return info.Env().Undefined();
}

/// graphMemory(graph): bytes of the graph's memory; 0 before the queue has captured it, or where that failed.
Napi::Value graph_memory(const Napi::CallbackInfo& info) {
  auto graph = graph_argument(info, "graphMemory");
  return Napi::Number::New(info.Env(), double(graph->bytes));
}

/// releaseGraph(graph): frees its memory once the queue no longer needs it.
Napi::Value release_graph(const Napi::CallbackInfo& info) {
  Environment::of(info.Env())
      .calls.enqueue_always("releaseGraph",
                            [graph = std::exchange(graph_argument(info, "releaseGraph"), nullptr)]() mutable {
                              if (!graph->graph) return;
                              cuda::Use use(*graph->stream);
                              graph->stream->wait();
                              graph->graph.reset();
                            });
  return info.Env().Undefined();
}

}  // namespace

void add_devices(Napi::Object exports, Napi::Object instruments) {
  add<devices>(exports, "devices");
  add<fragments>(instruments, "fragments");
  add<memory>(exports, "memory");
  add<forget_peak>(exports, "resetPeak");
  add<give_up_cached>(exports, "releaseCached");
  add<begin_capture>(exports, "beginCapture");
  add<end_capture>(exports, "endCapture");
  add<replay>(exports, "replay");
  add<graph_memory>(exports, "graphMemory");
  add<release_graph>(exports, "releaseGraph");
}

}  // namespace mt::binding
