// A tensor in JavaScript: an external value that refers to a View. The addon knows all live ones, so that no other
// value is taken for one.
#pragma once
#include <napi.h>

#include <string>

#include "core/view.h"

namespace mt::binding {

struct Handle {
  View view;
};

/// Over all environments: the bytes that V8 knows of now, and how many storages it has been told of.
struct Reports {
  int64_t bytes, count;
};
Reports reports();

/// Describes a value for an error message, in at most 60 characters, without running code of the caller.
std::string shown(const Napi::Value& value);
/// Wraps a view. Where `into` is given, that released tensor is reused, since creating and collecting a value costs
/// more than an operator's call. Throws a TypeError that names argument `position` of `function` where `into` is no
/// released tensor.
Napi::Value wrap(Napi::Env env, View view);
Napi::Value wrap(View view, const Napi::Value& into, const char* function, int position);
/// Tells V8 of a storage on the CPU of 1 MiB or more, so that unreachable tensors are collected in time; not of files
/// and CUDA memory, which V8's collector does not free. A storage is reported once, however many handles it has, and
/// withdrawn with the last of them: V8 cannot free what only the queue still holds. Each worker thread has its own
/// environment, heap and handles, and no handle crosses threads: all of this happens on the JavaScript thread that made
/// the storage.
void report(napi_env env, Storage& storage);
/// The handle of `value`. Throws a TypeError that names the argument where `value` is no tensor or was disposed.
Handle& unwrap(const Napi::Value& value, const char* function, int position);
/// Releases the memory as soon as the queue no longer needs it. Idempotent.
void release(Napi::Env env, Handle& handle);

}  // namespace mt::binding
