// A tensor's face in JavaScript: an external value that stands for a View. Those that are alive are known, so that
// nothing else can be taken for one.
#pragma once
#include <napi.h>

#include <string>

#include "core/view.h"

namespace mt::binding {

struct Handle {
  View view;
};

/// Over all environments: bytes that V8 knows of now, and how often it was told of a storage.
struct Reports {
  int64_t bytes, count;
};
Reports reports();

/// What a value is, for an error message: in at most 60 characters, and without running anything of the caller's.
std::string shown(const Napi::Value& value);
/// Wraps a view: in `into`, where that is given, a tensor that was released and now is this one, else in a new value.
/// Making a value, and collecting it, costs more than an operator's call. Throws a TypeError that names argument
/// `position` of `function` where `into` is no released tensor.
Napi::Value wrap(Napi::Env env, View view);
Napi::Value wrap(View view, const Napi::Value& into, const char* function, int position);
/// Tells V8 of a storage that lies on the CPU and has 1 MiB or more, so that forgotten tensors are collected in time;
/// not of files and CUDA memory, which are not of V8's concern. Once, however many handles it has, and taken back with
/// the last of them: what only the queue still holds is not V8's to free. Each worker thread has an environment, a heap
/// and handles of its own, and no handle crosses: all of this happens on the one JavaScript thread that made the
/// storage.
void report(napi_env env, Storage& storage);
/// The handle behind `value`; throws a TypeError that names the argument when it is none or was disposed.
Handle& unwrap(const Napi::Value& value, const char* function, int position);
/// Lets the memory go as soon as the queue has no more use for it. Idempotent.
void release(Napi::Env env, Handle& handle);

}  // namespace mt::binding
