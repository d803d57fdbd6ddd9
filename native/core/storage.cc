#include "core/storage.h"

#include <cstdlib>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "core/blocks.h"
#include "core/error.h"
#include "core/round.h"

#ifdef _WIN32
#include <windows.h>
#include <fstream>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace mt {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kLargestCached = size_t(256) << 20;
constexpr size_t kMostCached = size_t(2) << 30;  // a training step allocates the same activations every time
[[maybe_unused]] constexpr size_t kSmallestMapped = size_t(64) << 20;

size_t physical_memory() {
#ifdef _WIN32
  MEMORYSTATUSEX s{sizeof s};
  return GlobalMemoryStatusEx(&s) ? size_t(s.ullTotalPhys) : SIZE_MAX;
#else
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page > 0 ? size_t(pages) * size_t(page) : SIZE_MAX;
#endif
}

/// Sizes are rounded up to eighths of a power of two, so that a freed block fits the next tensor of about its size.
size_t rounded(size_t bytes) {
  if (bytes <= 512) return round_up(bytes, kAlign) + (bytes == 0) * kAlign;
  size_t step = 64;
  while (step * 16 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

/// One allocator for the process; worker threads share it.
class Allocator {
 public:
  void* allocate(size_t bytes) {
    size_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    if (used_ + size + cached_ > limit_) trim();
    if (used_ + size > limit_) {
      throw std::runtime_error(
          text("out of memory: ", bytes, " bytes were asked for while ", used_, " of ", limit_,
               " bytes are in use; use a smaller batch or fewer frames, or raise MT_MEMORY_LIMIT"));
    }
    void* p = nullptr;
    if (auto& list = free_[size]; !list.empty()) {
      p = list.back();
      list.pop_back();
      cached_ -= size;
    } else if (!(p = take_block(size))) {
      trim();
      if (!(p = take_block(size)))
        throw std::runtime_error(text("out of memory: the system refused ", bytes, " bytes"));
    }
    used_ += size;
    peak_ = std::max(peak_, used_);
    return p;
  }
  void release(void* p, size_t bytes) {
    size_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    used_ -= size;
    if (size > kLargestCached || cached_ + size > kMostCached) return give_block(p, size);
    free_[size].push_back(p);
    cached_ += size;
  }
  /// A block for an optional use: null where memory is short.
  void* allocate_packed(size_t bytes, int quarters) {
    {
      std::lock_guard lock(mutex_);
      if (used_ + bytes > limit_ / 4 * size_t(quarters)) return nullptr;
      packed_ += bytes;
    }
    try {
      return allocate(bytes);
    } catch (const std::exception&) {
      std::lock_guard lock(mutex_);
      packed_ -= bytes;
      return nullptr;
    }
  }
  void release_packed(void* p, size_t bytes) {
    release(p, bytes);
    std::lock_guard lock(mutex_);
    packed_ -= bytes;
  }
  void count(ptrdiff_t bytes, ptrdiff_t tensors) {
    std::lock_guard lock(mutex_);
    alive_ += bytes;
    tensors_ += tensors;
  }
  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return {alive_, peak_, cached_, tensors_, packed_};
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    peak_ = used_;
  }
  size_t limit() const { return limit_; }

 private:
  void trim() {
    for (auto& [size, list] : free_) {
      for (void* p : list) give_block(p, size);
      list.clear();
    }
    cached_ = 0;
  }
  static size_t read_limit() {
    const char* s = std::getenv("MT_MEMORY_LIMIT");
    return s && *s ? size_t(std::strtoull(s, nullptr, 10)) : physical_memory();
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  size_t used_ = 0, peak_ = 0, cached_ = 0, alive_ = 0, tensors_ = 0, packed_ = 0;
  const size_t limit_ = read_limit();
};

/// Never destroyed: a worker thread may outlive static destruction.
Allocator& allocator() {
  static Allocator* a = new Allocator;
  return *a;
}

}  // namespace

MemoryStats memory_stats() { return allocator().stats(); }
void reset_peak() { allocator().reset_peak(); }
size_t memory_limit() { return allocator().limit(); }

namespace {
/// A path for messages: quoted, on one line; of a long one the end.
std::string shown(std::string path) {
  for (char& c : path)
    if (c == '\n' || c == '\r') c = ' ';
  size_t from = path.size() > 256 ? path.size() - 256 : 0;
  while ((path[from] & 0xc0) == 0x80) ++from;  // starts at a whole character
  return (from ? "\"…" : "\"") + path.substr(from) + "\"";
}
}  // namespace

#ifdef _WIN32
Mapping::Mapping(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) throw std::runtime_error(text("cannot open ", shown(path)));
  size_ = size_t(in.tellg());
  data_ = static_cast<char*>(take_block(rounded(size_)));
  in.seekg(0);
  if (!data_ || !in.read(data_, std::streamsize(size_))) throw std::runtime_error(text("cannot read ", shown(path)));
}
Mapping::~Mapping() { give_block(data_, rounded(size_)); }
#else
Mapping::Mapping(const std::string& path) {
  // Without O_NONBLOCK, opening a pipe would wait for a writer.
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw std::runtime_error(text("cannot open ", shown(path), ": ", std::strerror(errno)));
  std::unique_ptr<int, void (*)(int*)> closer(&fd, [](int* f) { ::close(*f); });
  struct stat s{};
  if (::fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || s.st_size <= 0)
    throw std::runtime_error(text("cannot map ", shown(path), ": it is empty or not a regular file"));
  size_ = size_t(s.st_size);
  if (size_ < kSmallestMapped) {
    data_ = static_cast<char*>(allocator().allocate(size_));
    for (size_t done = 0; done < size_;) {
      ssize_t n = ::read(fd, data_ + done, size_ - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        std::string why = n < 0 ? std::strerror(errno) : "it became shorter while it was read";
        allocator().release(data_, size_);
        throw std::runtime_error(text("cannot read ", shown(path), ": ", why));
      }
      done += size_t(n);
    }
    return;
  }
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  if (p == MAP_FAILED) throw std::runtime_error(text("cannot map ", shown(path), ": ", std::strerror(errno)));
  data_ = static_cast<char*>(p);
}
Mapping::~Mapping() { size_ < kSmallestMapped ? allocator().release(data_, size_) : void(::munmap(data_, size_)); }
#endif

Storage::Storage(size_t bytes) : bytes_(bytes) { allocator().count(ptrdiff_t(bytes), 1); }

Storage::Storage(std::shared_ptr<Mapping> mapping, size_t offset, size_t bytes)
    : bytes_(bytes), device_(cpu_device), mapping_(std::move(mapping)), read_only_(true), final_(true) {
  data_ = const_cast<char*>(mapping_->data()) + offset;
  allocator().count(ptrdiff_t(bytes), 1);
}

Storage::~Storage() {
  if (block_.data) stream_->release(std::move(block_));
  else if (void* p = data(); p && !mapping_) allocator().release(p, bytes_);
  for (auto& [key, made] : derived_) allocator().release_packed(made.data, made.bytes);
  allocator().count(-ptrdiff_t(bytes_), -1);
}

void Storage::assign_device(const std::shared_ptr<cuda::Stream>& stream) {
  device_ = stream ? Device{stream->device()} : cpu_device;
  stream_ = stream;
}

const void* Storage::derived(const std::array<int64_t, 4>& key, size_t bytes, int quarters,
                             const std::function<void(void*)>& make) {
  if (auto found = derived_.find(key); found != derived_.end()) return found->second.data;
  void* p = allocator().allocate_packed(bytes, quarters);
  if (!p) return nullptr;
  make(p);
  derived_.emplace(key, Derived{p, bytes});
  return p;
}

void Storage::ensure() {
  if (data()) return;
  if (stream_) block_ = stream_->allocate(bytes_);
  data_.store(stream_ ? block_.data : allocator().allocate(bytes_), std::memory_order_release);
}

}  // namespace mt
