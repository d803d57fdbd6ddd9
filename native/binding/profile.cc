// The module's functions for records of what operators cost: times and bytes.
#include "core/profile.h"

#include "binding/functions.h"

namespace mt::binding {
namespace {

constexpr napi_type_tag kRecordTag = {0x6d7472616e736c6c, 0x616d612d70726f66};
using Record = std::shared_ptr<profile::Recorder>;

/// profileStart(most): from now on, operators of this thread are recorded; after `most` of them they are only counted.
Napi::Value profile_start(const Napi::CallbackInfo& info) {
  const int64_t most = Decoder<int64_t>::decode(info[0], "profileStart", 0);
  require(most >= 1 && most <= 100'000'000, "argument 1: expected 1 to 100000000 events, but got ", most, ".");
  auto& environment = Environment::of(info.Env());
  if (environment.recorder)
    throw std::runtime_error("a profile is being taken already, and there is one at a time; stop that one first");
  environment.recorder = std::make_shared<profile::Recorder>(size_t(most));
  environment.calls.enqueue_always("profileStart", [r = environment.recorder] { r->begin(); });
  return info.Env().Undefined();
}

/// profileStop(): the record, which is complete once the queue has run everything before this call.
Napi::Value profile_stop(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  if (!environment.recorder) throw std::runtime_error("no profile is being taken; start one first");
  auto record = std::make_unique<Record>(std::exchange(environment.recorder, nullptr));
  environment.calls.enqueue_always("profileStop", [r = *record] { r->end(); });
  Napi::Object object = Napi::Object::New(info.Env());
  object.TypeTag(&kRecordTag);
  napi_status status = napi_wrap(
      info.Env(), object, record.get(), [](napi_env, void* p, void*) { delete static_cast<Record*>(p); }, nullptr,
      nullptr);
  if (status != napi_ok) throw Napi::Error::New(info.Env());
  record.release();
  return object;
}

/// One member of all events as a typed array of `T`.
template <typename T, typename F>
Napi::Value column(Environment& environment, const std::vector<profile::Event>& events, F member) {
  auto [buffer, memory] = environment.array_buffer(events.size() * sizeof(T));
  std::transform(events.begin(), events.end(), static_cast<T*>(memory),
                 [&](const profile::Event& e) { return T(member(e)); });
  return Napi::TypedArrayOf<T>::New(buffer.Env(), events.size(), buffer.template As<Napi::ArrayBuffer>(), 0);
}

/// profileEvents(record): the events of a record. Numbers are float64, exact for a hundred days of nanoseconds.
Napi::Value profile_events(const Napi::CallbackInfo& info) {
  void* data = nullptr;
  if (!info[0].IsObject() || !info[0].As<Napi::Object>().CheckTypeTag(&kRecordTag) ||
      napi_unwrap(info.Env(), info[0], &data) != napi_ok)
    refuse(info[0], "profileEvents", 0, "a record of profileStop()");
  const profile::Recorder& record = **static_cast<Record*>(data);
  if (!record.ended()) throw std::runtime_error("the record has not ended; sync first");
  auto& environment = Environment::of(info.Env());
  const auto& events = record.events();
  std::vector<const char*> names;
  auto number = [&](const profile::Event& e) {
    auto it = std::find(names.begin(), names.end(), e.name);
    if (it == names.end()) it = names.insert(it, e.name);
    return it - names.begin();
  };
  auto o = Napi::Object::New(info.Env());
  o["operator"] = column<int32_t>(environment, events, number);
  o["device"] = column<int32_t>(environment, events, [](const profile::Event& e) { return e.device; });
  o["start"] = column<double>(environment, events, [](const profile::Event& e) { return e.start; });
  o["duration"] = column<double>(environment, events, [](const profile::Event& e) { return e.duration; });
  o["read"] = column<double>(environment, events, [](const profile::Event& e) { return e.bytes.read; });
  o["written"] = column<double>(environment, events, [](const profile::Event& e) { return e.bytes.written; });
  auto list = Napi::Array::New(info.Env(), names.size());
  for (size_t i = 0; i < names.size(); ++i) list.Set(uint32_t(i), names[i]);
  o["operators"] = list;
  o["dropped"] = double(record.dropped());
  o["elapsed"] = double(record.elapsed());
  return o;
}

}  // namespace

void add_profile(Napi::Object exports) {
  add<profile_start>(exports, "profileStart");
  add<profile_stop>(exports, "profileStop");
  add<profile_events>(exports, "profileEvents");
}

}  // namespace mt::binding
