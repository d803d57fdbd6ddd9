// What the files that add functions to the module share.
#pragma once
#include <napi.h>

#include "binding/bind.h"
#include "core/device.h"

namespace mt::binding {

/// A device by its number, -1 for the CPU; undecided where the argument is absent.
Device device_argument(const Napi::Value& v, const char* function, int position);

/// Adds `F` to the module; its exceptions name it.
template <Napi::Value (*F)(const Napi::CallbackInfo&)>
inline void add(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New(
                        exports.Env(),
                        [](const Napi::CallbackInfo& info) {
                          return guarded(info, static_cast<const char*>(info.Data()), [&] { return F(info); });
                        },
                        name, const_cast<char*>(name)));
}

/// Devices, memory and graphs, and what measures a device: devices.cc.
void add_devices(Napi::Object exports, Napi::Object instruments);
/// Records of what operators cost: profile.cc.
void add_profile(Napi::Object exports);

}  // namespace mt::binding
