// The module's functions for the processes of a parallel run: MPI on a thread of its own, which may wait for others
// while operators run.
#include "ranks/mpi.h"

#include <atomic>
#include <cstring>

#include "binding/functions.h"

namespace mt::binding {
namespace {

/// What MPI itself demands.
std::atomic<bool> opened{false};

/// The ranks of this thread, which has to have opened them.
Mpi& ranks(Environment& environment) {
  if (!environment.mpi) throw std::runtime_error("MPI is not open");
  return *environment.mpi;
}

/// A copy of an argument's bytes: what JavaScript does to them later does not matter.
std::vector<char> bytes_argument(const Napi::Value& v, const char* function) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    refuse(v, function, 0, "a Uint8Array");
  const auto bytes = v.As<Napi::Uint8Array>();
  const char* data = reinterpret_cast<const char*>(bytes.Data());
  return {data, data + bytes.ByteLength()};
}

/// mpi.open(libraries): opens the first of these libraries that is there, and initialises it; once a process. Resolves
/// when mpi.about() can be asked.
Napi::Value open(const Napi::CallbackInfo& info) {
  std::vector<std::string> libraries;
  each_element(info[0], "open", 0, "an array of names", [&](const Napi::Value& name) {
    if (!name.IsString()) refuse(name, "open", 0, "an array of names");
    libraries.push_back(name.As<Napi::String>().Utf8Value());
  });
  auto& environment = Environment::of(info.Env());
  if (opened.exchange(true)) throw std::runtime_error("MPI is opened once a process");
  environment.ranks = std::make_unique<CallQueue>([] {});
  return environment.after(*environment.ranks, "MPI", info.Env().Undefined(), [&environment, libraries] {
    try {
      environment.mpi = Mpi::open(libraries);
    } catch (...) {
      opened = false;
      throw;
    }
  });
}

/// mpi.about(): { rank, size, version, file }.
Napi::Value about(const Napi::CallbackInfo& info) {
  const Mpi& mpi = ranks(Environment::of(info.Env()));
  auto o = Napi::Object::New(info.Env());
  o["rank"] = mpi.rank();
  o["size"] = mpi.size();
  o["version"] = mpi.version;
  o["file"] = mpi.file;
  return o;
}

/// mpi.allgather(bytes): a promise of an ArrayBuffer with the bytes of all ranks, in rank order; as many of each.
Napi::Value allgather(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  Mpi& mpi = ranks(environment);
  auto mine = bytes_argument(info[0], "allgather");
  auto [buffer, all] = environment.array_buffer(mine.size() * size_t(mpi.size()));
  return environment.after(*environment.ranks, "MPI", buffer,
                           [&mpi, mine = std::move(mine), all = all] { mpi.allgather(mine.data(), all, mine.size()); });
}

/// mpi.alltoall(bytes): a promise of an ArrayBuffer with this rank's part of the bytes of every rank, in rank order;
/// each gives a part for every rank, all of one length.
Napi::Value alltoall(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  Mpi& mpi = ranks(environment);
  auto mine = bytes_argument(info[0], "alltoall");
  const size_t parts = size_t(mpi.size());
  require(mine.size() % parts == 0, "argument 1: expected bytes for each of ", parts,
          " ranks, as many for each, but got ", mine.size(), ".");
  auto [buffer, all] = environment.array_buffer(mine.size());
  return environment.after(*environment.ranks, "MPI", buffer, [&mpi, mine = std::move(mine), all = all, parts] {
    mpi.alltoall(mine.data(), all, mine.size() / parts);
  });
}

/// mpi.broadcast(bytes, root): a promise of an ArrayBuffer with the bytes of the rank `root`; every rank gives as many.
Napi::Value broadcast(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  Mpi& mpi = ranks(environment);
  const auto mine = bytes_argument(info[0], "broadcast");
  const int64_t root = Decoder<int64_t>::decode(info[1], "broadcast", 1);
  require(root >= 0 && root < mpi.size(), "argument 2: expected a rank below ", mpi.size(), ", but got ", root, ".");
  auto [buffer, data] = environment.array_buffer(mine.size());
  if (!mine.empty()) std::memcpy(data, mine.data(), mine.size());
  return environment.after(*environment.ranks, "MPI", buffer,
                           [&mpi, data = data, size = mine.size(), root] { mpi.broadcast(data, size, int(root)); });
}

/// mpi.abort(code): ends all ranks.
Napi::Value abort(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  Mpi& mpi = ranks(environment);
  mpi.abort(int(Decoder<int64_t>::decode(info[0], "abort", 0)));
  environment.ranks->enqueue_always("MPI", [&mpi] { mpi.heed(); });
  return info.Env().Undefined();
}

/// mpi.close(): a promise that settles when all ranks have called it. MPI cannot be opened again.
Napi::Value close(const Napi::CallbackInfo& info) {
  auto& environment = Environment::of(info.Env());
  Mpi& mpi = ranks(environment);
  return environment.after(*environment.ranks, "MPI", info.Env().Undefined(), [&mpi] { mpi.finalize(); });
}

}  // namespace

void add_ranks(Napi::Object exports) {
  auto mpi = Napi::Object::New(exports.Env());
  add<open>(mpi, "open");
  add<about>(mpi, "about");
  add<allgather>(mpi, "allgather");
  add<alltoall>(mpi, "alltoall");
  add<broadcast>(mpi, "broadcast");
  add<abort>(mpi, "abort");
  add<close>(mpi, "close");
  exports.Set("mpi", mpi);
}

}  // namespace mt::binding
