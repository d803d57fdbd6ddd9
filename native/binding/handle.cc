#include "binding/handle.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <unordered_set>
#include <utility>

namespace mt::binding {
namespace {

/// Handles alive on this thread, so that no other addon's external can be taken for one. Cheaper than a type tag, which
/// costs as much as an operator's call.
thread_local std::unordered_set<const void*> handles;
constexpr int64_t kWorthReporting = 1 << 20;
std::atomic<int64_t> reported_bytes{0}, report_count{0};

[[noreturn]] void refuse_tensor(Napi::Env env, const char* function, int position, const char* what) {
  throw Napi::TypeError::New(env,
                             text(function, ": argument ", position + 1, ": expected a tensor, but got ", what, "."));
}

}  // namespace

std::string shown(const Napi::Value& value) {
  switch (value.Type()) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_symbol: return "a symbol";
    case napi_function: return "a function";
    case napi_object: return value.IsArray() ? "an array" : "an object";
    case napi_external: return "an external value";
    default: break;
  }
  std::string s = value.ToString().Utf8Value();
  for (char& c : s)
    if (c == '\n' || c == '\r') c = ' ';
  // Cut between characters: bytes 10xxxxxx continue one.
  size_t end = std::min<size_t>(s.size(), 60);
  while (end < s.size() && end > 0 && (s[end] & 0xC0) == 0x80) --end;
  if (end < s.size()) s.replace(end, std::string::npos, "...");
  return value.IsString() ? "\"" + s + "\"" : s;
}

Napi::Value wrap(Napi::Env env, View view) {
  // Every call here may throw, where the thread is being ended.
  auto owned = std::make_unique<Handle>(Handle{std::move(view)});
  Handle* handle = owned.get();
  napi_value external;
  const auto forget = [](napi_env e, void* data, void*) {
    auto* h = static_cast<Handle*>(data);
    release(Napi::Env(e), *h);
    handles.erase(h);
    delete h;
  };
  handles.insert(handle);
  if (napi_create_external(env, handle, forget, nullptr, &external) != napi_ok) {
    handles.erase(handle);
    throw Napi::Error::New(env);
  }
  owned.release();  // the external's finaliser frees it
  ++handle->view.storage->external.handles;
  report(env, *handle->view.storage);
  return Napi::Value(env, external);
}

Reports reports() { return {reported_bytes, report_count}; }

void report(napi_env env, Storage& storage) {
  const int64_t bytes = int64_t(storage.bytes());
  if (storage.external.reported || bytes < kWorthReporting || storage.device() != cpu_device || storage.mapped())
    return;
  int64_t total;
  if (napi_adjust_external_memory(env, bytes, &total) != napi_ok) return;
  storage.external.reported = bytes;
  reported_bytes += bytes;
  ++report_count;
}

Handle& unwrap(const Napi::Value& value, const char* function, int position) {
  Napi::Env env = value.Env();
  void* data = nullptr;
  if (napi_get_value_external(env, value, &data) != napi_ok || !handles.contains(data))
    refuse_tensor(env, function, position, value.IsObject() ? "another object" : shown(value).c_str());
  auto& handle = *static_cast<Handle*>(data);
  if (!handle.view) refuse_tensor(env, function, position, "one that was disposed");
  return handle;
}

void release(Napi::Env env, Handle& handle) {
  auto storage = std::exchange(handle.view.storage, nullptr);
  if (!storage || --storage->external.handles) return;
  // Node-API itself: this also runs as a finaliser, where an exception would end the process.
  int64_t total, bytes = std::exchange(storage->external.reported, 0);
  if (bytes) napi_adjust_external_memory(env, -bytes, &total);
  reported_bytes -= bytes;
}

}  // namespace mt::binding
