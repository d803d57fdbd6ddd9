#include "binding/handle.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

namespace mt::binding {
namespace {

/// A thread's handles, in memory that holds nothing else: an address outside it is another addon's external. A type tag
/// would cost as much as an operator's call.
class Handles {
 public:
  Handles() = default;
  Handles(const Handles&) = delete;
  ~Handles() {
    // process.exit() runs no finalisers: handles that are alive then must not be released.
    if (used_)
      for (Chunk& chunk : chunks_) chunk.first.release();
  }
  Handle* take() {
    if (free_.empty()) grow();
    ++used_;
    Handle* handle = free_.back();
    free_.pop_back();
    return handle;
  }
  void give_back(Handle* handle) {
    --used_;
    free_.push_back(handle);  // reserved
  }
  bool holds(const void* data) const {
    const auto address = reinterpret_cast<uintptr_t>(data);
    for (auto chunk = chunks_.rbegin(); chunk != chunks_.rend(); ++chunk) {
      const uintptr_t from = reinterpret_cast<uintptr_t>(chunk->first.get());
      if (address >= from && address < from + chunk->count * sizeof(Handle))
        return (address - from) % sizeof(Handle) == 0;
    }
    return false;
  }

 private:
  struct Chunk {
    std::unique_ptr<Handle[]> first;
    size_t count;
  };
  void grow() {
    const size_t count = chunks_.empty() ? 256 : 2 * chunks_.back().count;  // doubled, so that there are few to search
    chunks_.push_back({std::make_unique<Handle[]>(count), count});
    free_.reserve(2 * count);
    for (size_t i = count; i-- > 0;) free_.push_back(&chunks_.back().first[i]);
  }

  std::vector<Chunk> chunks_;
  std::vector<Handle*> free_;
  size_t used_ = 0;
};
thread_local Handles handles;
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

namespace {
/// Puts a view into a handle that has none.
void fill(napi_env env, Handle& handle, View view) {
  handle.view = std::move(view);
  ++handle.view.storage->external.handles;
  report(env, *handle.view.storage);
}
/// The handle behind a value, with or without a view; null where there is none.
Handle* handle_of(const Napi::Value& value) {
  void* data = nullptr;
  if (napi_get_value_external(value.Env(), value, &data) != napi_ok || !handles.holds(data)) return nullptr;
  return static_cast<Handle*>(data);
}
}  // namespace

Napi::Value wrap(Napi::Env env, View view) {
  Handle* handle = handles.take();
  napi_value external;
  const auto forget = [](napi_env e, void* data, void*) {
    auto* h = static_cast<Handle*>(data);
    release(Napi::Env(e), *h);
    handles.give_back(h);
  };
  // This fails while the thread is ending.
  if (napi_create_external(env, handle, forget, nullptr, &external) != napi_ok) {
    handles.give_back(handle);
    throw Napi::Error::New(env);
  }
  fill(env, *handle, std::move(view));
  return Napi::Value(env, external);
}

Napi::Value wrap(View view, const Napi::Value& into, const char* function, int position) {
  Napi::Env env = into.Env();
  if (into.IsUndefined()) return wrap(env, std::move(view));
  Handle* handle = handle_of(into);
  if (!handle || handle->view)
    throw Napi::TypeError::New(
        env, text(function, ": argument ", position + 1, ": expected a tensor that was released, but got ",
                  handle ? "one that is alive" : shown(into), "."));
  fill(env, *handle, std::move(view));
  return into;
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
  Handle* handle = handle_of(value);
  if (!handle)
    refuse_tensor(value.Env(), function, position, value.IsObject() ? "another object" : shown(value).c_str());
  if (!handle->view) refuse_tensor(value.Env(), function, position, "one that was disposed");
  return *handle;
}

void release(Napi::Env env, Handle& handle) {
  auto storage = std::exchange(handle.view.storage, nullptr);
  if (!storage || --storage->external.handles) return;
  // Calls Node-API directly: this also runs as a finaliser, where an exception would abort the process.
  int64_t total, bytes = std::exchange(storage->external.reported, 0);
  if (bytes) napi_adjust_external_memory(env, -bytes, &total);
  reported_bytes -= bytes;
}

}  // namespace mt::binding
