#include "binding/environment.h"

#include "core/error.h"

namespace mt::binding {

struct Environment::Pending {
  napi_deferred deferred = nullptr;
  napi_ref result = nullptr;  // null where the promise resolves to undefined
  std::string failure;
};

Environment::Environment(Napi::Env env) : calls([this] { finish(); }) {
  napi_value name = Napi::String::New(env, "mtransllama queue");
  napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this,
                                                       resolve, &back_);
  if (status != napi_ok) throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, back_);
  array_buffer_ = Napi::Persistent(env.Global().Get("ArrayBuffer").As<Napi::Function>());
  // The queues must be idle before Node closes the thread-safe function.
  env.AddCleanupHook(
      [](Environment* self) {
        self->calls.stop();
        if (self->ranks) self->ranks->stop();
      },
      this);
  // Nor may it call CUDA while that is unloaded: process.exit() runs no hooks, but it does run these listeners.
  auto process = env.Global().Get("process").As<Napi::Object>();
  process.Get("on").As<Napi::Function>().Call(
      process,
      {Napi::String::New(env, "exit"), Napi::Function::New(env, [this](const Napi::CallbackInfo&) { calls.drop(); })});
}

std::shared_ptr<cuda::Stream> Environment::stream(Device device) {
  if (!device.is_cuda()) return nullptr;
  std::lock_guard lock(mutex_);
  size_t i = size_t(device.id);
  if (i < streams_.size() && streams_[i] && !cuda::lost(device.id)) return streams_[i];
  auto made = std::make_shared<cuda::Stream>(device.id);
  if (i >= streams_.size()) streams_.resize(i + 1);
  return streams_[i] = std::move(made);
}

/// Waits for every GPU, and throws the first failure. A lost GPU is reported once; work on other devices continues.
void Environment::finish() {
  std::vector<std::shared_ptr<cuda::Stream>> streams;
  {
    std::lock_guard lock(mutex_);
    streams = streams_;
  }
  std::string failure;
  for (auto& s : streams) {
    if (!s || s->capturing()) continue;
    try {
      cuda::Use use(*s);
      s->wait();
    } catch (const std::exception& e) {
      if (failure.empty()) failure = e.what();
      std::lock_guard lock(mutex_);
      if (cuda::lost(s->device())) streams_[size_t(s->device())] = nullptr;
    }
  }
  if (!failure.empty()) throw std::runtime_error(failure);
}

/// Calls Node-API directly: while the thread is ending, every call fails, and nobody could catch an exception.
void Environment::resolve(napi_env env, napi_value, void* context, void* data) {
  auto* self = static_cast<Environment*>(context);
  std::unique_ptr<Pending> pending(static_cast<Pending*>(data));
  if (!env) return;  // the environment is ending, and its references with it
  if (--self->waiting_ == 0) napi_unref_threadsafe_function(env, self->back_);
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value value = nullptr;
  if (pending->failure.empty()) {
    if (pending->result) napi_get_reference_value(env, pending->result, &value);
    else napi_get_undefined(env, &value);
    napi_resolve_deferred(env, pending->deferred, value);
  } else {
    napi_value message;
    if (napi_create_string_utf8(env, pending->failure.data(), pending->failure.size(), &message) == napi_ok &&
        napi_create_error(env, nullptr, message, &value) == napi_ok)
      napi_reject_deferred(env, pending->deferred, value);
  }
  if (pending->result) napi_delete_reference(env, pending->result);
  napi_close_handle_scope(env, scope);
}

Napi::Value Environment::after(CallQueue& queue, const char* name, Napi::Value result, std::function<void()> work) {
  Napi::Env env = result.Env();
  auto pending = std::make_unique<Pending>();
  napi_value promise;
  if (napi_create_promise(env, &pending->deferred, &promise) != napi_ok) throw Napi::Error::New(env);
  if (result.IsObject() && napi_create_reference(env, result, 1, &pending->result) != napi_ok)
    throw Napi::Error::New(env);
  if (waiting_++ == 0) napi_ref_threadsafe_function(env, back_);
  queue.sync([this, name, pending = pending.release(), work = std::move(work)](const std::string& failure) {
    pending->failure = failure;
    if (failure.empty() && work) {
      try {
        work();
      } catch (const std::exception& e) { pending->failure = text(name, ": ", e.what()); }
    }
    // This fails while the thread is ending: nobody waits then, and the reference ends with the thread.
    if (napi_call_threadsafe_function(back_, pending, napi_tsfn_nonblocking) != napi_ok) delete pending;
  });
  return Napi::Value(env, promise);
}

std::pair<Napi::Value, void*> Environment::array_buffer(size_t bytes) {
  // By JavaScript's constructor, which throws where memory is short; Node-API would abort the process.
  Napi::Env env = array_buffer_.Env();
  auto buffer = array_buffer_.New({Napi::Number::New(env, double(bytes))}).As<Napi::ArrayBuffer>();
  return {buffer, buffer.Data()};
}

}  // namespace mt::binding
