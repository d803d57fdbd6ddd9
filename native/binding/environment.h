// What a JavaScript thread owns: its queue of calls, and the promises that the queue settles. Every worker thread of
// Node has an environment.
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
#include "ranks/mpi.h"

namespace mt::binding {

class Environment {
 public:
  explicit Environment(Napi::Env env);
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  CallQueue calls;

  /// Whether operators of this thread only count the memory that they would take; and whether they count the float32
  /// copies that some of the CPU's make of bfloat16.
  bool rehearsing = false, rehearses_copies = false;

  /// The record of this thread's operators that is being taken; null: none. The queue writes it until it has ended.
  std::shared_ptr<profile::Recorder> recorder;

  /// This thread's stream on a device, created at the first call; null for the CPU. Throws where there is no such
  /// device.
  std::shared_ptr<cuda::Stream> stream(Device device);

  /// A promise that settles when the queue has run everything before this call and then `work`, on the queue's thread.
  /// It resolves to `result`, which stays alive meanwhile, or rejects with the queue's failure or what `work` throws.
  Napi::Value after(Napi::Value result, std::function<void()> work) {
    return after(calls, "read", result, std::move(work));
  }
  /// The same on another queue; its errors begin with `name`.
  Napi::Value after(CallQueue& queue, const char* name, Napi::Value result, std::function<void()> work);

  /// The other processes of a parallel run, and the queue whose thread speaks to them; null where it has none.
  std::unique_ptr<Mpi> mpi;
  std::unique_ptr<CallQueue> ranks;

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
  int waiting_ = 0;                                     // open promises: the process must not end before they settle
};

}  // namespace mt::binding
