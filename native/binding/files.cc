// The module's functions for files: tensors that lie in a mapped file, and tensors that are read from one.
#include <algorithm>
#include <cstring>

#include "binding/functions.h"
#include "core/mapping.h"
#include "core/quantised.h"
#include "ops/copy.h"

namespace mt::binding {
namespace {

constexpr napi_type_tag kMapTag = {0x6d7472616e736c6c, 0x616d612d66696c65};
constexpr napi_type_tag kFileTag = {0x6d7472616e736c6c, 0x616d612d6f70656e};

std::string path_argument(const Napi::Value& v, const char* function) {
  if (!v.IsString()) refuse(v, function, 0, "a path");
  std::string path = v.As<Napi::String>().Utf8Value();
  require(path.find('\0') == std::string::npos, "expected a path, but got one with a zero byte in it.");
  return path;
}

/// A JavaScript object that owns a shared pointer, and the way back.
template <typename T>
Napi::Value own(Napi::Env env, const napi_type_tag& tag, std::shared_ptr<T> owned) {
  auto held = std::make_unique<std::shared_ptr<T>>(std::move(owned));
  Napi::Object object = Napi::Object::New(env);
  object.TypeTag(&tag);
  napi_status status = napi_wrap(
      env, object, held.get(), [](napi_env, void* p, void*) { delete static_cast<std::shared_ptr<T>*>(p); }, nullptr,
      nullptr);
  if (status != napi_ok) throw Napi::Error::New(env);
  held.release();
  return object;
}
template <typename T>
std::shared_ptr<T> owned(const Napi::Value& v, const napi_type_tag& tag, const char* function, const char* expected) {
  void* held = nullptr;
  if (!v.IsObject() || !v.As<Napi::Object>().CheckTypeTag(&tag) || napi_unwrap(v.Env(), v, &held) != napi_ok)
    refuse(v, function, 0, expected);
  return *static_cast<std::shared_ptr<T>*>(held);
}

/// The bytes of a tensor at an offset of a file. Throws where they lie outside of it.
size_t bytes_within(const View& v, DType stored, int64_t offset, size_t size) {
  const size_t bytes = is_quantised(stored) ? bytes_of(v) : size_t(v.numel()) * size_of(stored);
  require(offset >= 0 && size_t(offset) <= size && bytes <= size - size_t(offset), "bytes ", offset, " to ",
          size_t(offset) + bytes, " lie outside the file's ", size, ".");
  return bytes;
}

/// map(path): a file's bytes, for mapped().
Napi::Value map(const Napi::CallbackInfo& info) {
  return own(info.Env(), kMapTag, std::make_shared<Mapping>(path_argument(info[0], "map")));
}

/// mapped(file, offset in bytes, shape, dtype): a read-only tensor in the file; copied where it is not aligned.
Napi::Value mapped(const Napi::CallbackInfo& info) {
  auto mapping = owned<Mapping>(info[0], kMapTag, "mapped", "a file opened with map()");
  int64_t offset = Decoder<int64_t>::decode(info[1], "mapped", 1);
  View v = shaped(integers(info[2], "mapped", 2), dtype_argument(info[3], "mapped", 3));
  const size_t bytes = bytes_within(v, v.dtype, offset, mapping->size());
  const size_t aligned = is_quantised(v.dtype) ? alignof(float) : size_of(v.dtype);
  if (reinterpret_cast<uintptr_t>(mapping->data() + offset) % aligned == 0) {
    v.storage = std::make_shared<Storage>(mapping, size_t(offset), bytes);
  } else {
    v.storage = std::make_shared<Storage>(bytes);
    v.storage->assign_device(nullptr);
    v.storage->ensure();
    std::memcpy(v.storage->data(), mapping->data() + offset, bytes);
    mapping->require_unchanged();
  }
  v.storage->set_elements(v.numel());
  require_columns(v);
  return wrap(info.Env(), std::move(v));
}

/// openFile(path): a file for load().
Napi::Value open_file(const Napi::CallbackInfo& info) {
  return own(info.Env(), kFileTag, std::make_shared<File>(path_argument(info[0], "openFile")));
}

constexpr int64_t kPiece = int64_t(8) << 20;  // elements read and converted at a time

/// load(file, offset in bytes, shape, stored dtype, dtype, asItIs, forget): a frozen tensor in memory, read from the
/// file and converted piece by piece in the queue. asItIs: kernels derive nothing of it. forget: the system need not
/// keep what was read.
Napi::Value load(const Napi::CallbackInfo& info) {
  auto file = owned<File>(info[0], kFileTag, "load", "a file opened with openFile()");
  const int64_t offset = Decoder<int64_t>::decode(info[1], "load", 1);
  const DType stored = dtype_argument(info[3], "load", 3);
  View v = shaped(integers(info[2], "load", 2), dtype_argument(info[4], "load", 4));
  const bool as_it_is = Decoder<bool>::decode(info[5], "load", 5), forget = Decoder<bool>::decode(info[6], "load", 6);
  bytes_within(v, stored, offset, file->size());
  v.storage = std::make_shared<Storage>(size_t(v.numel()) * size_of(v.dtype));
  v.storage->assign_device(nullptr);
  // The numbers of a piece, first as they are stored.
  View all = shaped(std::array{v.numel()}.data(), 1, v.dtype), from = shaped(std::array{v.numel()}.data(), 1, stored);
  all.storage = from.storage = v.storage;
  Out to;
  static_cast<View&>(to) = all;
  check_copy(from, to);
  if (as_it_is) v.storage->keep_as_it_is();
  Environment::of(info.Env()).calls.enqueue("load", [file, offset, from, to, forget]() mutable {
    const int64_t count = to.numel();
    const size_t item = size_of(from.dtype);
    to.storage->ensure();
    file->require_unchanged();
    const bool converts = from.dtype != to.dtype;
    if (converts) {
      from.storage = std::make_shared<Storage>(size_t(std::min(count, kPiece)) * item);
      from.storage->assign_device(nullptr);
      from.storage->ensure();
    }
    for (int64_t at = 0; at < count; at += kPiece) {
      from.shape[0] = to.shape[0] = std::min(kPiece, count - at);
      from.offset = converts ? 0 : at;
      to.offset = at;
      const size_t begin = size_t(offset) + size_t(at) * item, bytes = size_t(to.shape[0]) * item;
      file->read(from.data<char>() - from.offset + size_t(from.offset) * item, begin, bytes);
      if (converts) cpu::copy(from, to);
      if (forget) file->forget(begin, bytes);
    }
    file->require_unchanged();
  });
  v.storage->freeze();
  Environment::of(info.Env()).calls.enqueue_always("freeze", [storage = v.storage] { storage->finalise(); });
  return wrap(info.Env(), std::move(v));
}

}  // namespace

void add_files(Napi::Object exports) {
  add<map>(exports, "map");
  add<mapped>(exports, "mapped");
  add<open_file>(exports, "openFile");
  add<load>(exports, "load");
}

}  // namespace mt::binding
