// A tensor's face in JavaScript: an object that wraps a View. Tagged, so that no other object can be taken for one.
#pragma once
#include <napi.h>

#include <string>

#include "core/view.h"

namespace mt::binding {

struct Handle {
  View view;
  int64_t reported = 0;  // bytes told to V8
};

/// What a value is, for an error message: in at most 60 characters, and without running anything of the caller's.
std::string shown(const Napi::Value& value);
/// Wraps a view. Views of 1 MiB and more are reported to V8 as external memory.
Napi::Value wrap(Napi::Env env, View view);
/// The handle behind `value`; throws a TypeError that names the argument when it is none or was disposed.
Handle& unwrap(const Napi::Value& value, const char* function, int position);
/// Lets the memory go as soon as the queue has no more use for it. Idempotent.
void release(Napi::Env env, Handle& handle);

}  // namespace mt::binding
