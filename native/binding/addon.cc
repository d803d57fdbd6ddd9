// The module: passes tensors between JavaScript and C++, and exports every operator of the registry.
#include <cstring>

#include "binding/bind.h"
#include "binding/functions.h"
#include "core/overlap.h"
#include "core/parallel.h"
#include "core/quantised.h"
#include "instruments/ceilings.h"

namespace mt::binding {
namespace {

/// Memory for all of a contiguous view.
std::shared_ptr<Storage> storage_for(const View& v) {
  auto storage = std::make_shared<Storage>(bytes_of(v));
  storage->set_elements(v.numel());
  return storage;
}
/// Parts of a quantised matrix have their scales elsewhere: only all of it can be taken.
void require_whole(const View& v) {
  require(!is_quantised(v.dtype) || is_whole(v), "expected a whole matrix of dtype ", name(v.dtype),
          ", but got some of its rows.");
}

/// create(shape, dtype, device?, into?): a tensor whose memory is allocated when it is first written. Without a device,
/// it lies on the device of the operator that first writes it.
Napi::Value create(const Napi::CallbackInfo& info) {
  View v = shaped(integers(info[0], "create", 0), dtype_argument(info[1], "create", 1));
  Device device = device_argument(info[2], "create", 2);
  v.storage = storage_for(v);
  if (device.decided()) v.storage->assign_device(Environment::of(info.Env()).stream(device));
  if (!v.numel()) v.storage->ensure();  // an empty tensor is never written
  return wrap(std::move(v), info[3], "create", 3);
}

/// Copies a strided view to contiguous memory of the same dtype. `base`: the first byte of its storage.
void gather(const View& v, const char* base, char* out) {
  size_t item = size_of(v.dtype);
  if (!v.numel()) return;
  base += size_t(v.offset) * item;
  if (v.contiguous()) {
    std::memcpy(out, base, bytes_of(v));
    return;
  }
  int64_t index[kMaxRank] = {};
  for (int64_t n = v.numel(), i = 0; i < n; ++i, out += item) {
    int64_t at = 0;
    for (int d = 0; d < v.rank; ++d) at += index[d] * v.stride[d];
    std::memcpy(out, base + size_t(at) * item, item);
    for (int d = v.rank - 1; d >= 0 && ++index[d] == v.shape[d]; --d) index[d] = 0;
  }
}

/// Copies the elements of a view, on any device, in order. Runs in the queue, or while the queue is empty.
void fetch(const View& v, cuda::Stream* stream, char* out) {
  prepare(v);
  size_t item = size_of(v.dtype);
  if (!stream || !v.numel()) {
    gather(v, static_cast<const char*>(v.storage->data()), out);
    return require_unchanged(v);
  }
  cuda::Use use(*stream);
  const char* first = static_cast<const char*>(v.storage->data()) + size_t(v.offset) * item;
  if (v.contiguous()) return stream->download(out, first, bytes_of(v));
  std::vector<char> span(size_t(reach(v) + 1) * item);
  stream->download(span.data(), first, span.size());
  View inside = v;
  inside.offset = 0;
  gather(inside, span.data(), out);
}

/// transfer(tensor, device): a contiguous copy on a device.
Napi::Value transfer(const Napi::CallbackInfo& info) {
  const View from = unwrap(info[0], "transfer", 0).view;
  Device device = device_argument(info[1], "transfer", 1);
  require(device.decided(), "argument 2: expected a device, but got ", shown(info[1]), ".");
  auto& environment = Environment::of(info.Env());
  auto source = environment.stream(from.storage->device()), target = environment.stream(device);
  require_whole(from);
  View to = shaped(from.shape, from.rank, from.dtype);
  const size_t bytes = bytes_of(to);
  to.storage = storage_for(to);
  to.storage->assign_device(target);
  if (environment.rehearsing) {
    environment.calls.enqueue("transfer", [to] { to.storage->pretend(); });
    return wrap(info.Env(), std::move(to));
  }
  environment.calls.enqueue("transfer", [from, to, source, target, bytes] {
    const profile::Span span("transfer", target ? target : source,
                             [&] { return profile::Bytes{int64_t(bytes), int64_t(bytes)}; });
    prepare(from);
    if (!target) {
      to.storage->ensure();
      return fetch(from, source.get(), static_cast<char*>(to.storage->data()));
    }
    // By way of the host: a contiguous tensor on the host needs no copy there.
    std::vector<char> host;
    const char* data = static_cast<const char*>(from.storage->data()) + size_t(from.offset) * size_of(from.dtype);
    if (source || !from.contiguous()) {
      host.resize(bytes);
      fetch(from, source.get(), host.data());
      data = host.data();
    }
    cuda::Use use(*target);
    to.storage->ensure();
    target->upload(to.storage->data(), data, bytes);
  });
  return wrap(info.Env(), std::move(to));
}

/// device(tensor): -1 for the CPU, the number of a CUDA device, or -2 for a tensor that was never written.
Napi::Value device_of(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), unwrap(info[0], "device", 0).view.storage->device().id);
}

/// freeze(tensor): from now on no operator may write to its memory, through any view.
Napi::Value freeze(const Napi::CallbackInfo& info) {
  auto storage = unwrap(info[0], "freeze", 0).view.storage;
  storage->freeze();
  Environment::of(info.Env()).calls.enqueue_always("freeze", [storage] { storage->finalise(); });
  return info.Env().Undefined();
}

/// upload(bytes: Uint8Array, shape, dtype): copies at once, on the CPU.
Napi::Value upload(const Napi::CallbackInfo& info) {
  View v = shaped(integers(info[1], "upload", 1), dtype_argument(info[2], "upload", 2));
  size_t bytes = bytes_of(v);
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    refuse(info[0], "upload", 0, "a Uint8Array");
  auto data = info[0].As<Napi::Uint8Array>();
  require(data.ByteLength() == bytes, "expected ", bytes, " bytes for shape ", shape_text(v), " of ", name(v.dtype),
          ", but got ", data.ByteLength(), ".");
  v.storage = storage_for(v);
  v.storage->assign_device(nullptr);
  if (auto& environment = Environment::of(info.Env()); environment.rehearsing) {
    environment.calls.enqueue("upload", [storage = v.storage] { storage->pretend(); });
    return wrap(info.Env(), std::move(v));
  }
  v.storage->ensure();
  if (bytes) std::memcpy(v.storage->data(), data.Data(), bytes);
  require_columns(v);
  return wrap(info.Env(), std::move(v));
}

/// view(tensor, shape, strides, offset, into?): another view of the same memory. The offset counts elements from the
/// tensor's first one.
Napi::Value view(const Napi::CallbackInfo& info) {
  View base = unwrap(info[0], "view", 0).view;  // a copy: reading the arrays may run code that releases the tensor
  auto strides = integers(info[2], "view", 2);
  View v = shaped(integers(info[1], "view", 1), base.dtype);
  require(strides.count == v.rank, "expected one stride per dimension, but got ", strides.count, " strides for shape ",
          shape_text(v), ".");
  v.offset = base.offset + Decoder<int64_t>::decode(info[3], "view", 3);
  require(v.offset >= 0 && v.offset <= kMostElements, "expected an offset inside the tensor, but got ",
          v.offset - base.offset, ".");
  int64_t last = v.offset;
  for (int i = 0; i < v.rank; ++i) {
    require(strides.at[i] >= 0, "expected strides of 0 or more, but got ", strides.at[i], ".");
    v.stride[i] = strides.at[i];
    require(v.shape[i] <= 1 || strides.at[i] < kMostElements / v.shape[i], "stride ", strides.at[i], " is too large.");
    if (v.shape[i] > 0) last += (v.shape[i] - 1) * strides.at[i];
  }
  if (is_quantised(v.dtype))
    require(v.rank == 2 && v.contiguous() && v.shape[1] == base.shape[1] &&
                (v.offset == base.offset || (v.offset % std::max<int64_t>(v.shape[1], 1) == 0 &&
                                             (v.dtype == DType::i8 || v.offset % kGroupElements == 0))),
            "expected whole rows of a matrix of dtype ", name(v.dtype), ", of nf4 from a multiple of ", kGroupElements,
            " elements on, but got shape ", shape_text(v), " at offset ", v.offset, ".");
  int64_t held = is_quantised(v.dtype) ? base.storage->elements() : int64_t(base.storage->bytes() / size_of(v.dtype));
  if (v.numel() == 0)
    v.offset = last = base.offset;  // an empty view reads nothing: an offset at the end of a tensor is allowed
  require(v.numel() == 0 || last < held, "shape ", shape_text(v), " at offset ", v.offset,
          " reaches past the tensor's ", held, " elements.");
  v.storage = std::move(base.storage);
  return wrap(std::move(v), info[4], "view", 4);
}

/// The memory that a read fills, and the work that fills it.
std::pair<Napi::Value, std::function<void()>> reading(const Napi::CallbackInfo& info, const char* function) {
  View v = unwrap(info[0], function, 0).view;
  require_whole(v);
  size_t bytes = bytes_of(v);
  require(bytes <= memory_limit(), "expected a tensor that fits into memory, but got shape ", shape_text(v), ", ",
          bytes, " bytes.");
  auto& environment = Environment::of(info.Env());
  auto [buffer, out] = environment.array_buffer(bytes);
  if (environment.rehearsing) return {buffer, [] {}};  // zeros
  auto stream = environment.stream(v.storage->device());
  return {buffer, [v = std::move(v), stream, out = static_cast<char*>(out)] { fetch(v, stream.get(), out); }};
}

/// read(tensor): a promise of an ArrayBuffer with the elements in order. readBlocking(tensor) waits instead.
Napi::Value read(const Napi::CallbackInfo& info) {
  auto [buffer, work] = reading(info, "read");
  return Environment::of(info.Env()).after(buffer, std::move(work));
}
Napi::Value read_blocking(const Napi::CallbackInfo& info) {
  auto [buffer, work] = reading(info, "readBlocking");
  Environment::of(info.Env()).calls.sync_blocking();
  work();
  return buffer;
}

Napi::Value release_handle(const Napi::CallbackInfo& info) {
  release(info.Env(), unwrap(info[0], "release", 0));
  return info.Env().Undefined();
}

Napi::Value sync(const Napi::CallbackInfo& info) {
  return Environment::of(info.Env()).after(info.Env().Undefined(), nullptr);
}
Napi::Value sync_blocking(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).calls.sync_blocking();
  return info.Env().Undefined();
}

/// threads(n?): sets and returns the number of threads.
Napi::Value thread_count(const Napi::CallbackInfo& info) {
  if (info.Length() > 0 && !info[0].IsUndefined()) {
    int64_t n = Decoder<int64_t>::decode(info[0], "threads", 0);
    require(n >= 1 && n <= 256, "expected 1 to 256, but got ", n, ".");
    set_threads(int(n));
  }
  return Napi::Number::New(info.Env(), threads());
}

/// rehearse(true, copies): from here on operators of this thread take no memory and compute nothing; what is read is 0.
/// copies: as the CPU, some of whose operators make float32 copies of bfloat16.
/// rehearse(false): the end, and what they would have taken: { peak, resident }, bytes in use at one time, and with the
/// freed blocks that are kept. Blocks until the queue is empty.
Napi::Value rehearsal(const Napi::CallbackInfo& info) {
  if (!info[0].IsBoolean()) refuse(info[0], "rehearse", 0, "true or false");
  auto& environment = Environment::of(info.Env());
  const bool begins = info[0].As<Napi::Boolean>().Value();
  environment.calls.sync_blocking();
  environment.rehearsing = false;
  environment.calls.hold(begins);
  if (begins) {
    mt::rehearse();
    environment.rehearsing = true;
    return info.Env().Undefined();
  }
  auto o = Napi::Object::New(info.Env());
  const Rehearsed r = rehearsed();
  o["peak"] = double(r.peak);
  o["resident"] = double(r.resident);
  return o;
}

/// limitMemory(bytes): what this process may use, where that is less than the machine has.
Napi::Value limit(const Napi::CallbackInfo& info) {
  const int64_t bytes = Decoder<int64_t>::decode(info[0], "limitMemory", 0);
  require(bytes > 0, "bytes: expected a number above 0, but got ", bytes, ".");
  limit_memory(size_t(bytes));
  return info.Env().Undefined();
}

/// ceiling(name): a rate of this machine (instruments/ceilings.h), measured once the queue is empty. Blocks.
Napi::Value measured_ceiling(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) refuse(info[0], "ceiling", 0, "a name");
  Environment::of(info.Env()).calls.sync_blocking();
  return Napi::Number::New(info.Env(), ceiling(info[0].As<Napi::String>().Utf8Value()));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  add<create>(exports, "create");
  add<upload>(exports, "upload");
  add<transfer>(exports, "transfer");
  add<device_of>(exports, "device");
  add<view>(exports, "view");
  add<freeze>(exports, "freeze");
  add<read>(exports, "read");
  add<read_blocking>(exports, "readBlocking");
  add<release_handle>(exports, "release");
  add<sync>(exports, "sync");
  add<sync_blocking>(exports, "syncBlocking");
  add<thread_count>(exports, "threads");
  add<rehearsal>(exports, "rehearse");
  add<limit>(exports, "limitMemory");
  auto instruments = Napi::Object::New(env);
  add<measured_ceiling>(instruments, "ceiling");
  exports.Set("instruments", instruments);
  add_devices(exports, instruments);
  add_files(exports);
  add_profile(exports);
  add_ranks(exports);
  auto ops = Napi::Object::New(env);
  auto signatures = Napi::Array::New(env);
  for (const Operator& o : registry()) {
    ops.Set(o.name, Napi::Function::New(env, o.call, o.name));
    signatures.Set(signatures.Length(), o.signature);
  }
  exports.Set("ops", ops);
  exports.Set("signatures", signatures);
  return exports;
}

}  // namespace
}  // namespace mt::binding

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return mt::binding::init(env, exports); }
NODE_API_MODULE(mtransllama, Init)
