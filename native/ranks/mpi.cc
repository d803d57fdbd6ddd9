#include "ranks/mpi.h"

#include <chrono>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "core/awake.h"
#include "core/error.h"

#ifdef _WIN32

std::unique_ptr<mt::Mpi> mt::Mpi::open(const std::vector<std::string>&) {
  throw std::runtime_error("on Windows MPI is not supported");
}

#else

#include <dlfcn.h>

namespace mt {
namespace {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw std::runtime_error(text(parts...));
}

/// A function or an object of the library.
template <typename T>
T* find(void* library, const char* name) {
  if (void* found = dlsym(library, name)) return reinterpret_cast<T*>(found);
  fail("the library has no ", name, ", which MPI 3 has");
}

/// How the two families of libraries write MPI's constants. A handle is a pointer in one and a number in the other.
struct OpenMpi {
  using Handle = void*;
  static Handle world(void* library) { return find<void>(library, "ompi_mpi_comm_world"); }
  static Handle byte(void* library) { return find<void>(library, "ompi_mpi_byte"); }
  static Handle errors_return(void* library) { return find<void>(library, "ompi_mpi_errors_return"); }
  static void* status_ignore() { return nullptr; }
};
struct Mpich {
  using Handle = int;
  static Handle world(void*) { return 0x44000000; }
  static Handle byte(void*) { return 0x4c00010d; }
  static Handle errors_return(void*) { return 0x54000001; }
  static void* status_ignore() { return reinterpret_cast<void*>(1); }
};

constexpr int kFunneled = 1;  // MPI_THREAD_FUNNELED, in both families
constexpr std::chrono::microseconds kAwake{50}, kNap{50};

template <typename Family>
class Library final : public Mpi {
 public:
  explicit Library(void* library)
      : world_(Family::world(library)),
        byte_(Family::byte(library)),
        ibarrier_(find<int(Handle, Handle*)>(library, "MPI_Ibarrier")),
        test_(find<int(Handle*, int*, void*)>(library, "MPI_Test")),
        allgather_(find<Exchange>(library, "MPI_Allgather")),
        alltoall_(find<Exchange>(library, "MPI_Alltoall")),
        bcast_(find<int(void*, int, Handle, int, Handle)>(library, "MPI_Bcast")),
        finalize_(find<int()>(library, "MPI_Finalize")),
        quit_(find<int(Handle, int)>(library, "MPI_Abort")),
        error_string_(find<int(int, char*, int*)>(library, "MPI_Error_string")) {
    auto init = find<int(int*, char***, int, int*)>(library, "MPI_Init_thread");
    auto set_errhandler = find<int(Handle, Handle)>(library, "MPI_Comm_set_errhandler");
    auto comm_rank = find<int(Handle, int*)>(library, "MPI_Comm_rank");
    auto comm_size = find<int(Handle, int*)>(library, "MPI_Comm_size");
    int provided = 0;
    check("MPI_Init_thread", init(nullptr, nullptr, kFunneled, &provided));
    if (provided < kFunneled) fail("the library allows no other thread than a process's first to call it");
    check("MPI_Comm_set_errhandler", set_errhandler(world_, Family::errors_return(library)));
    check("MPI_Comm_rank", comm_rank(world_, &rank_));
    check("MPI_Comm_size", comm_size(world_, &size_));
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void allgather(const void* mine, void* all, size_t bytes) override {
    meet();
    const int n = count(bytes);
    check("MPI_Allgather", allgather_(mine, n, byte_, all, n, byte_, world_));
  }
  void alltoall(const void* mine, void* all, size_t bytes) override {
    meet();
    const int n = count(bytes);
    check("MPI_Alltoall", alltoall_(mine, n, byte_, all, n, byte_, world_));
  }
  void broadcast(void* data, size_t bytes, int root) override {
    meet();
    check("MPI_Bcast", bcast_(data, count(bytes), byte_, root, world_));
  }
  void finalize() override {
    meet();
    check("MPI_Finalize", finalize_());
  }
  void heed() override {
    if (const int code = abort_) quit_(world_, code);
  }

 private:
  using Handle = typename Family::Handle;
  using Exchange = int(const void*, int, Handle, void*, int, Handle, Handle);

  /// Waits for all ranks. They arrive seconds apart, and MPI's own waiting takes all of a core, which another rank of
  /// this machine may be computing on: so this sleeps between two looks. What follows then takes microseconds.
  void meet() {
    heed();
    Handle request{};
    check("MPI_Ibarrier", ibarrier_(world_, &request));
    int done = 0;
    const auto look = [&] {
      heed();
      check("MPI_Test", test_(&request, &done, Family::status_ignore()));
      return done != 0;
    };
    stay_awake(kAwake, look);
    while (!done && !look()) std::this_thread::sleep_for(kNap);
  }

  static int count(size_t bytes) {
    if (bytes > INT_MAX) fail("expected at most ", INT_MAX, " bytes, but got ", bytes);
    return int(bytes);
  }

  void check(const char* function, int code) const {
    if (code == 0) return;
    char why[8192] = "";
    int length = 0;
    error_string_(code, why, &length);
    fail(function, ": ", why);
  }

  Handle world_, byte_;
  int (*ibarrier_)(Handle, Handle*);
  int (*test_)(Handle*, int*, void*);
  Exchange *allgather_, *alltoall_;
  int (*bcast_)(void*, int, Handle, int, Handle);
  int (*finalize_)();
  int (*quit_)(Handle, int);
  int (*error_string_)(int, char*, int*);
  int rank_ = 0, size_ = 1;
};

}  // namespace

std::unique_ptr<Mpi> Mpi::open(const std::vector<std::string>& libraries) {
  void* library = nullptr;
  std::string failures;
  for (const auto& name : libraries) {
    // Open MPI's parts look for its functions among those of the process.
    library = dlopen(name.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (library) break;
    failures += (failures.empty() ? "" : "; ") + std::string(dlerror());
  }
  if (!library) fail(failures);
  void* about = dlsym(library, "MPI_Get_library_version");
  if (!about) fail("the library has no MPI_Get_library_version, which MPI 3 has");
  char version[8192] = "";
  int length = 0;
  reinterpret_cast<int (*)(char*, int*)>(about)(version, &length);
  Dl_info info{};
  const std::string file = dladdr(about, &info) && info.dli_fname ? info.dli_fname : "";
  const std::string said(version, strcspn(version, ",\n"));
  const auto is = [&](const char* name) { return std::string(version).find(name) != std::string::npos; };
  std::unique_ptr<Mpi> opened;
  if (is("Open MPI")) opened = std::make_unique<Library<OpenMpi>>(library);
  else if (is("MPICH") || is("Intel(R) MPI") || is("MVAPICH")) opened = std::make_unique<Library<Mpich>>(library);
  else fail(file, " says that it is \"", said, "\"");
  opened->version = said;
  opened->file = file;
  return opened;
}

}  // namespace mt

#endif
