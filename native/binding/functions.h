// What the files that add functions to the module share.
#pragma once
#include <napi.h>

#include "binding/bind.h"
#include "core/device.h"

namespace mt::binding {

/// A device by its number, -1 for the CPU; undecided where the argument is absent.
Device device_argument(const Napi::Value& v, const char* function, int position);

/// The numbers of a shape or of strides.
struct Integers {
  int count = 0;
  int64_t at[kMaxRank] = {};
};

/// Of an array of numbers, or of a Float64Array: that one is read at once, an array number by number.
Integers integers(const Napi::Value& v, const char* function, int position);
/// A dtype by its name, or by its number in dtype_names.
DType dtype_argument(const Napi::Value& v, const char* function, int position);
inline constexpr int64_t kMostElements = int64_t(1) << 46;
/// A contiguous view of the given shape without memory yet. Refuses what no machine could hold.
View shaped(const int64_t* shape, int rank, DType dtype);
inline View shaped(const Integers& shape, DType dtype) { return shaped(shape.at, shape.count, dtype); }

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
/// Tensors of files: files.cc.
void add_files(Napi::Object exports);
/// Records of what operators cost: profile.cc.
void add_profile(Napi::Object exports);
/// The processes of a parallel run: ranks.cc.
void add_ranks(Napi::Object exports);

}  // namespace mt::binding
