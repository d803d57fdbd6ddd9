#include "core/mapping.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "core/allocator.h"
#include "core/error.h"

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#include <sys/stat.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace mt {
namespace {

[[maybe_unused]] constexpr size_t kSmallestMapped = size_t(64) << 20;
constexpr size_t kMostRead = size_t(1) << 30;  // of one call

#ifdef _WIN32
Stamp stamp_of(int descriptor, bool& regular) {
  struct _stat64 s{};
  regular = ::_fstat64(descriptor, &s) == 0 && (s.st_mode & _S_IFREG);
  return {s.st_size, s.st_mtime, 0};
}
#else
Stamp stamp_of(int descriptor, bool& regular) {
  struct stat s{};
  regular = ::fstat(descriptor, &s) == 0 && S_ISREG(s.st_mode);
#ifdef __APPLE__
  return {s.st_size, s.st_mtimespec.tv_sec, s.st_mtimespec.tv_nsec};
#else
  return {s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
#endif
}
#endif

void close_file(int descriptor) {
#ifdef _WIN32
  ::_close(descriptor);
#else
  ::close(descriptor);
#endif
}

[[noreturn]] void refuse(const std::string& path, const char* what) {
  throw std::runtime_error(
      text("the weights file ", shown_path(path), " ", what,
           " while the model was in use; open the model again, and put new weights beside the old, then rename"));
}

}  // namespace

std::string shown_path(std::string path) {
  for (char& c : path)
    if (c == '\n' || c == '\r') c = ' ';
  size_t from = path.size() > 256 ? path.size() - 256 : 0;
  while ((path[from] & 0xc0) == 0x80) ++from;  // starts at a whole character
  return (from ? "\"…" : "\"") + path.substr(from) + "\"";
}

// ---- File ----

File::File(const std::string& path) : path_(path) {
#ifdef _WIN32
  descriptor_ = ::_open(path.c_str(), _O_RDONLY | _O_BINARY | _O_NOINHERIT);
#else
  // Without O_NONBLOCK, opening a pipe would wait for a writer.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
#endif
  if (descriptor_ < 0) throw std::runtime_error(text("cannot open ", shown_path(path), ": ", std::strerror(errno)));
  bool regular;
  stamp_ = stamp_of(descriptor_, regular);
  if (!regular || stamp_.size <= 0) {
    close_file(descriptor_);
    throw std::runtime_error(text("cannot map ", shown_path(path), ": it is empty or not a regular file"));
  }
  size_ = size_t(stamp_.size);
}
File::~File() { close_file(descriptor_); }

void File::read(void* to, size_t offset, size_t bytes) const {
  char* at = static_cast<char*>(to);
  while (bytes) {
#ifdef _WIN32
    ::_lseeki64(descriptor_, int64_t(offset), SEEK_SET);
    const int64_t n = ::_read(descriptor_, at, unsigned(std::min(bytes, kMostRead)));
#else
    const ssize_t n = ::pread(descriptor_, at, std::min(bytes, kMostRead), off_t(offset));
#endif
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw std::runtime_error(text("cannot read ", shown_path(path_), ": ",
                                    n < 0 ? std::strerror(errno) : "it became shorter while it was read"));
    at += n, offset += size_t(n), bytes -= size_t(n);
  }
}

void File::forget([[maybe_unused]] size_t offset, [[maybe_unused]] size_t bytes) const {
#ifdef POSIX_FADV_DONTNEED
  ::posix_fadvise(descriptor_, off_t(offset), off_t(bytes), POSIX_FADV_DONTNEED);
#endif
}

void File::require_unchanged() const {
  bool regular;
  const Stamp now = stamp_of(descriptor_, regular);
  if (now.size < stamp_.size) refuse(path_, "was cut short");
  if (now != stamp_) refuse(path_, "was written to");
}

// ---- Mapping ----

#ifdef _WIN32
Mapping::Mapping(const std::string& path) {
  const File file(path);
  data_ = static_cast<char*>(allocate(size_ = file.size()));
  file.read(data_, 0, size_);
}
Mapping::~Mapping() { release(data_, size_); }
void Mapping::require_unchanged() const {}
void Mapping::give_back(const void*, size_t) const {}
#else

namespace {

/// What the signal handler knows of mapped files. A place is used again once its file is unmapped.
struct Range {
  std::atomic<uintptr_t> begin{0}, end{0};
  std::atomic<int> lost{0};
};
constexpr int kRanges = 1024;
Range ranges[kRanges];
std::mutex ranges_mutex;
struct sigaction before_ours;
const uintptr_t page_size = uintptr_t(::sysconf(_SC_PAGESIZE));

/// The system has no page for an address of a mapped file: the file was cut, or the disk cannot be read. The rest of
/// the mapping becomes zeros and is marked, and whoever used it finds the mark. Anything else is another's affair.
void on_bus_error(int number, siginfo_t* info, void* context) {
  const int error = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Range& r : ranges) {
    const uintptr_t begin = r.begin.load(std::memory_order_acquire), end = r.end.load(std::memory_order_acquire);
    if (!begin || address < begin || address >= end) continue;
    const uintptr_t page = address / page_size * page_size;
    r.lost.store(1, std::memory_order_release);
    if (::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) ==
        MAP_FAILED)
      break;
    errno = error;
    return;
  }
  if (before_ours.sa_flags & SA_SIGINFO && before_ours.sa_sigaction)
    return before_ours.sa_sigaction(number, info, context);
  if (before_ours.sa_handler != SIG_DFL && before_ours.sa_handler != SIG_IGN && before_ours.sa_handler)
    return before_ours.sa_handler(number);
  ::signal(number, SIG_DFL);  // happens again on return, and ends the process
}

void catch_bus_errors() {
  static const bool once = [] {
    struct sigaction ours{};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    ::sigemptyset(&ours.sa_mask);
    return ::sigaction(SIGBUS, &ours, &before_ours) == 0;
  }();
  (void)once;
}

std::atomic<int>* watch(const void* from, size_t bytes) {
  catch_bus_errors();
  std::lock_guard lock(ranges_mutex);
  for (Range& r : ranges) {
    if (r.begin.load()) continue;
    r.lost = 0;
    r.end.store(reinterpret_cast<uintptr_t>(from) + bytes, std::memory_order_release);
    r.begin.store(reinterpret_cast<uintptr_t>(from), std::memory_order_release);
    return &r.lost;
  }
  return nullptr;  // more files than anyone has: those are not watched
}
void unwatch(const void* from) {
  std::lock_guard lock(ranges_mutex);
  for (Range& r : ranges)
    if (r.begin.load() == reinterpret_cast<uintptr_t>(from)) r.begin = 0;
}

}  // namespace

Mapping::Mapping(const std::string& path) {
  auto file = std::make_unique<File>(path);
  size_ = file->size();
  if (size_ < kSmallestMapped) {
    data_ = static_cast<char*>(allocate(size_));
    try {
      file->read(data_, 0, size_);
    } catch (...) {
      release(data_, size_);
      throw;
    }
    return;
  }
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file->descriptor(), 0);
  if (p == MAP_FAILED) throw std::runtime_error(text("cannot map ", shown_path(path), ": ", std::strerror(errno)));
  data_ = static_cast<char*>(p);
  lost_ = watch(data_, (size_ + page_size - 1) / page_size * page_size);
  file_ = std::move(file);
  count_mapped(ptrdiff_t(size_));
}
Mapping::~Mapping() {
  if (!file_) {
    release(data_, size_);
    return;
  }
  count_mapped(-ptrdiff_t(size_));
  unwatch(data_);
  ::munmap(data_, size_);
}

void Mapping::require_unchanged() const {
  if (!file_) return;
  file_->require_unchanged();
  if (lost_ && lost_->load(std::memory_order_acquire)) refuse(file_->path(), "could not be read");
}

void Mapping::give_back(const void* from, size_t bytes) const {
  if (!file_) return;
  const auto begin = (reinterpret_cast<uintptr_t>(from) + page_size - 1) / page_size * page_size,
             end = (reinterpret_cast<uintptr_t>(from) + bytes) / page_size * page_size;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}
#endif

}  // namespace mt
