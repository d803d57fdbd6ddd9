// What one JavaScript thread owns: its queue and its way back from it. Node's worker threads have one each.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <string>
#include <mutex>
#include <utility>
#include <vector>

#include "core/cuda.h"
#include "core/device.h"
#include "core/profile.h"
#include "core/call_queue.h"

namespace mt::binding {

class Environment {
 public:
  explicit Environment(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  CallQueue calls;

  /// The record that is being taken of this thread's operators; null: none. Its content is the queue's until it has
  /// ended.
  std::shared_ptr<profile::Recorder> recorder;

  /// The device's stream of this thread, made when it is first asked for; null for the CPU. Throws where there is no
  /// such device.
  std::shared_ptr<cuda::Stream> stream(Device device);

  /// A promise that settles when the queue has come so far. `work` runs on the queue's thread; the promise resolves to
  /// `result` (kept alive meanwhile) or rejects with the queue's failure or what `work` throws.
  Napi::Value after(Napi::Value result, std::function<void()> work);
  /// A new ArrayBuffer and its memory. Throws a RangeError where there is none left.
  std::pair<Napi::Value, void*> array_buffer(size_t bytes);

 private:
  struct Pending;
  void finish();
  static void resolve(napi_env env, napi_value, void* context, void* data);

  napi_threadsafe_function back_ = nullptr;
  Napi::FunctionReference array_buffer_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<cuda::Stream>> streams_;  // by device
  int waiting_ = 0;                                     // promises open: the process must not end before they settle
};

}  // namespace mt::binding
