#include "core/allocator.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/blocks.h"
#include "core/error.h"
#include "core/round.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <unistd.h>
#endif

namespace mt {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kLargestCached = size_t(256) << 20;
constexpr size_t kMostCached = size_t(2) << 30;  // a training step allocates the same activations every time

size_t physical_memory() {
#ifdef _WIN32
  MEMORYSTATUSEX s{sizeof s};
  return GlobalMemoryStatusEx(&s) ? size_t(s.ullTotalPhys) : SIZE_MAX;
#else
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page > 0 ? size_t(pages) * size_t(page) : SIZE_MAX;
#endif
}

/// Bytes of "8589934592", "8G", "8 GB" or "8GiB": units are powers of 1024.
size_t bytes_of(const char* s) {
  char* end = nullptr;
  const double number = std::strtod(s, &end);
  std::string unit = end ? end : "";
  unit.erase(0, std::min(unit.size(), unit.find_first_not_of(' ')));
  const size_t which = unit.empty() ? 0 : std::string("KMGTkmgt").find(unit[0]);
  const std::string rest = unit.empty() ? "" : unit.substr(1);
  if (end == s || !(number > 0) || which == std::string::npos ||
      !(rest.empty() || ((rest == "B" || rest == "iB") && !unit.empty())))
    throw std::runtime_error(
        text("MT_MEMORY_LIMIT: expected bytes, as 8589934592 or 8G, but got \"", std::string(s).substr(0, 60), "\""));
  const double bytes = unit.empty() ? number : number * double(size_t(1) << (10 * (which % 4 + 1)));
  return bytes >= double(SIZE_MAX / 2) ? SIZE_MAX / 2 : size_t(bytes);
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
    size_t size = rounded(bytes), most = limit();
    std::lock_guard lock(mutex_);
    if (used_ + size + cached_ > most) trim();
    if (used_ + size > most) {
      throw std::runtime_error(
          text("out of memory: ", bytes, " bytes were asked for while ", used_, " of ", most,
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
  void* allocate_packed(size_t bytes, int quarters) {
    const size_t most = limit();
    {
      std::lock_guard lock(mutex_);
      if (used_ + bytes > most / 4 * size_t(quarters)) return nullptr;
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
  void count_mapped(ptrdiff_t bytes) {
    std::lock_guard lock(mutex_);
    mapped_ += bytes;
  }
  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return {alive_, peak_, cached_, tensors_, packed_, mapped_};
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    peak_ = used_;
  }
  void release_cached() {
    std::lock_guard lock(mutex_);
    trim();
  }
  size_t limit() const {
    static const size_t asked = [] {
      const char* s = std::getenv("MT_MEMORY_LIMIT");
      return s && *s ? bytes_of(s) : 0;
    }();
    return asked ? asked : machine_.load(std::memory_order_relaxed);
  }
  void lower(size_t bytes) { machine_ = std::min(machine_.load(), bytes); }

 private:
  void trim() {
    for (auto& [size, list] : free_) {
      for (void* p : list) give_block(p, size);
      list.clear();
    }
    cached_ = 0;
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  size_t used_ = 0, peak_ = 0, cached_ = 0, alive_ = 0, tensors_ = 0, packed_ = 0, mapped_ = 0;
  std::atomic<size_t> machine_{physical_memory()};
};

/// Never destroyed: a worker thread may outlive static destruction.
Allocator& allocator() {
  static Allocator* a = new Allocator;
  return *a;
}

/// The same steps as the allocator's, of numbers alone.
class Rehearsal {
 public:
  void begin() {
    std::lock_guard lock(mutex_);
    free_.clear();
    used_ = cached_ = peak_ = resident_ = 0;
  }
  void allocate(size_t bytes) {
    const size_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    if (auto& kept = free_[size]; kept > 0) --kept, cached_ -= size;
    used_ += size;
    peak_ = std::max(peak_, used_);
    resident_ = std::max(resident_, used_ + cached_);
  }
  void release(size_t bytes) {
    const size_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    used_ -= std::min(used_, size);  // of a storage that an earlier rehearsal left
    if (size > kLargestCached || cached_ + size > kMostCached) return;
    ++free_[size];
    cached_ += size;
  }
  Rehearsed result() {
    std::lock_guard lock(mutex_);
    return {peak_, resident_};
  }

 private:
  std::mutex mutex_;
  std::unordered_map<size_t, size_t> free_;
  size_t used_ = 0, cached_ = 0, peak_ = 0, resident_ = 0;
};
Rehearsal& rehearsal() {
  static Rehearsal* r = new Rehearsal;
  return *r;
}

}  // namespace

MemoryStats memory_stats() { return allocator().stats(); }
void reset_peak() { allocator().reset_peak(); }
void release_cached() { allocator().release_cached(); }
size_t memory_limit() { return allocator().limit(); }
void limit_memory(size_t bytes) { allocator().lower(bytes); }

void* allocate(size_t bytes) { return allocator().allocate(bytes); }
void release(void* block, size_t bytes) { allocator().release(block, bytes); }
void* allocate_packed(size_t bytes, int quarters) { return allocator().allocate_packed(bytes, quarters); }
void release_packed(void* block, size_t bytes) { allocator().release_packed(block, bytes); }
void count_storages(ptrdiff_t bytes, ptrdiff_t storages) { allocator().count(bytes, storages); }
void count_mapped(ptrdiff_t bytes) { allocator().count_mapped(bytes); }

void rehearse() { rehearsal().begin(); }
void rehearse_allocate(size_t bytes) { rehearsal().allocate(bytes); }
void rehearse_release(size_t bytes) { rehearsal().release(bytes); }
Rehearsed rehearsed() { return rehearsal().result(); }

}  // namespace mt
