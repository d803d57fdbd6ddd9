#include "binding/environment.h"

#include "core/error.h"

namespace mt::binding {

struct Environment::Pending {
  Napi::Promise::Deferred deferred;
  Napi::Reference<Napi::Value> result;
  std::string failure;
};

Environment::Environment(Napi::Env env) {
  napi_value name = Napi::String::New(env, "mtransllama queue");
  napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, settle, &back_);
  if (status != napi_ok) throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, back_);
  // The queue must be still before Node tears the way back down.
  env.AddCleanupHook([](Environment* self) { self->stream.stop(); }, this);
}

void Environment::settle(napi_env env, napi_value, void* context, void* data) {
  auto* self = static_cast<Environment*>(context);
  std::unique_ptr<Pending> pending(static_cast<Pending*>(data));
  if (!env) return;  // the environment is going away
  Napi::HandleScope scope(env);
  if (--self->waiting_ == 0) napi_unref_threadsafe_function(env, self->back_);
  if (pending->failure.empty()) pending->deferred.Resolve(pending->result.Value());
  else pending->deferred.Reject(Napi::Error::New(env, pending->failure).Value());
}

Napi::Value Environment::after(Napi::Value result, std::function<void()> work) {
  Napi::Env env = result.Env();
  auto* pending = new Pending{Napi::Promise::Deferred::New(env), {}, {}};
  // References hold objects alone; what is no object (undefined) is wrapped by nothing and returned as it is.
  pending->result = Napi::Reference<Napi::Value>::New(result.IsObject() ? result : Napi::Object::New(env), 1);
  auto promise = pending->deferred.Promise();
  if (waiting_++ == 0) napi_ref_threadsafe_function(env, back_);
  stream.sync([this, pending, work = std::move(work)](const std::string& failure) {
    pending->failure = failure;
    if (failure.empty() && work) {
      try {
        work();
      } catch (const std::exception& e) {
        pending->failure = e.what();
      }
    }
    if (napi_call_threadsafe_function(back_, pending, napi_tsfn_nonblocking) != napi_ok) {
      // Closing: the reference cannot be released from this thread; the process is on its way out.
    }
  });
  return promise;
}

}  // namespace mt::binding
