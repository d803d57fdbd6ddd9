// Emulated memory. Every allocation lies between guard bytes: the address sanitizer reports each access outside of it;
// without the sanitizer, the release detects overwritten guards. A stream-ordered release takes effect when its stream
// reaches it.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "emulator/state.h"

namespace mt::simt {
namespace {

constexpr size_t kGuard = 256;  // also the alignment that CUDA promises
constexpr int kGuardByte = 0xa5;

struct Allocation {
  size_t bytes;
  int device;             // -1: pinned host memory
  bool released = false;  // its stream-ordered release is queued
};
/// Memory of the null device: unmapped addresses, so that any access ends the process.
class Addresses {
 public:
  char* take(size_t bytes) {
    if (auto it = free_.find(bytes); it != free_.end() && !it->second.empty()) {
      char* p = it->second.back();
      it->second.pop_back();
      return p;
    }
    if (!next_) {
      void* all = mmap(nullptr, kSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (all == MAP_FAILED) return nullptr;
      next_ = static_cast<char*>(all);
      end_ = next_ + kSpace;
    }
    return bytes > size_t(end_ - next_) ? nullptr : std::exchange(next_, next_ + bytes);
  }
  void give(char* p, size_t bytes) { free_[bytes].push_back(p); }

 private:
  static constexpr size_t kSpace = size_t(1) << 44;  // more than fragmentation can ever use up
  char *next_ = nullptr, *end_ = nullptr;
  std::unordered_map<size_t, std::vector<char*>> free_;
};

struct Table {
  std::mutex mutex;
  Addresses addresses;
  std::map<char*, Allocation> live;
  std::map<int, size_t> used;
  std::map<int, std::multiset<size_t>> pool;  // in mode pool: sizes that were released in stream order, still in `used`
};
Table& table() {
  static Table* t = new Table;
  return *t;
}

size_t guarded(size_t bytes) { return kGuard + (bytes + kGuard - 1) / kGuard * kGuard + kGuard; }

bool nowhere(int device) { return device >= 0 && state().modes.null; }

void trim(Table& t, int device) {
  for (size_t bytes : t.pool[device]) t.used[device] -= bytes;
  t.pool[device].clear();
}

/// `pooled`: in stream order.
char* allocate(size_t bytes, int device, bool pooled = false) {
  Table& t = table();
  std::lock_guard hold(t.mutex);
  if (auto kept = t.pool[device].lower_bound(bytes); pooled && kept != t.pool[device].end()) {
    t.used[device] -= *kept;
    t.pool[device].erase(kept);
  }
  if (device >= 0 && (bytes > state().modes.memory || t.used[device] > state().modes.memory - bytes)) return nullptr;
  char* p = nullptr;
  if (nowhere(device)) {
    p = t.addresses.take(guarded(bytes));
    if (!p) return nullptr;
  } else {
    char* raw = static_cast<char*>(std::aligned_alloc(kGuard, guarded(bytes)));
    if (!raw) return nullptr;
    p = raw + kGuard;
    std::memset(raw, kGuardByte, guarded(bytes));
    std::memset(p, 0xff, bytes);
    poison(raw, kGuard);
    poison(p + bytes, guarded(bytes) - kGuard - bytes);
  }
  t.live[p] = {bytes, device};
  t.used[device] += bytes;
  return p;
}

void release(char* p, bool pooled = false) {
  Table& t = table();
  size_t bytes;
  {
    std::lock_guard hold(t.mutex);
    auto it = t.live.find(p);
    bytes = it->second.bytes;
    const int device = it->second.device;
    if (pooled && state().modes.pool) t.pool[device].insert(bytes);
    else t.used[device] -= bytes;
    t.live.erase(it);
    if (nowhere(device)) return t.addresses.give(p, guarded(bytes));
  }
  char* raw = p - kGuard;
  unpoison(raw, guarded(bytes));
  auto touched = [](const char* from, const char* to) {
    for (; from < to; ++from)
      if (static_cast<unsigned char>(*from) != kGuardByte) return true;
    return false;
  };
  bool before = touched(raw, p), after = touched(p + bytes, raw + guarded(bytes));
  std::free(raw);
  if (before || after)
    stick(cudaErrorIllegalAddress, "memory was written " + std::string(before ? "before the start" : "past the end") +
                                       " of an allocation of " + std::to_string(bytes) + " bytes");
}

enum class Where { device, pinned, pageable };
struct Found {
  Where where;
  bool whole;  // the range lies inside the allocation
};
Found find(const void* p, size_t bytes) {
  Table& t = table();
  std::lock_guard hold(t.mutex);
  auto* c = static_cast<char*>(const_cast<void*>(p));
  auto it = t.live.upper_bound(c);
  if (it == t.live.begin()) return {Where::pageable, true};
  --it;
  size_t at = size_t(c - it->first), size = it->second.bytes;
  if (at > size || (at == size && size)) return {Where::pageable, true};
  return {it->second.device < 0 ? Where::pinned : Where::device, bytes <= size - at};
}
bool on_device(const void* p, size_t bytes) {
  Found f = find(p, bytes);
  return f.where == Where::device && f.whole;
}
/// A host range: anything but device memory, and not past the end of pinned memory.
bool on_host(const void* p, size_t bytes) {
  Found f = find(p, bytes);
  return f.where != Where::device && f.whole;
}

cudaError_t make(void** p, size_t bytes, Stream* stream) {
  *p = nullptr;
  if (cudaError_t e = standing()) return note(e);
  if (strikes(&State::mallocs, &Modes::fail_malloc)) return note(cudaErrorMemoryAllocation);
  if (!bytes) return stream ? note(cudaErrorInvalidValue) : cudaSuccess;
  count(&Counts::mallocs);
  int device = stream ? stream->device : current_device();
  *p = allocate(bytes, device, stream);
  if (!*p) drain_device(device, false), *p = allocate(bytes, device, stream);  // queued releases may free enough
  return *p ? cudaSuccess : note(cudaErrorMemoryAllocation);
}

/// True once for every live allocation of the kind: a second release is an error.
bool claim(void* p, bool device) {
  Table& t = table();
  std::lock_guard hold(t.mutex);
  auto it = t.live.find(static_cast<char*>(p));
  if (it == t.live.end() || it->second.released || (it->second.device >= 0) != device) return false;
  return it->second.released = true;
}

}  // namespace
}  // namespace mt::simt

using namespace mt::simt;

cudaError_t cudaMalloc(void** p, size_t bytes) { return make(p, bytes, nullptr); }
cudaError_t cudaFree(void* p) {
  if (!p) return note(standing());
  if (!claim(p, true)) return note(cudaErrorInvalidValue);
  drain_device(current_device(), false);
  count(&Counts::frees);
  release(static_cast<char*>(p));
  return note(standing());
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  auto s = find_stream(stream);
  if (!s) return note(cudaErrorInvalidResourceHandle);
  std::lock_guard hold(s->mutex);
  if (s->capture) {
    s->capture_broken = true;
    return note(cudaErrorStreamCaptureUnsupported);
  }
  return make(p, bytes, s.get());
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  auto s = find_stream(stream);
  if (!s) return note(cudaErrorInvalidResourceHandle);
  if (!p) return note(standing());
  std::lock_guard hold(s->mutex);
  if (s->capture || !claim(p, true)) {
    s->capture_broken = true;
    return note(cudaErrorInvalidValue);
  }
  count(&Counts::frees);
  push(*s, {[p] { release(static_cast<char*>(p), true); }, true});
  return note(standing());
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (cudaError_t e = standing()) return note(e);
  std::lock_guard hold(table().mutex);
  *total = state().modes.memory;
  size_t used = table().used[current_device()];
  *free = used > *total ? 0 : *total - used;
  return cudaSuccess;
}

// Pools cache nothing here, or everything in mode pool: the threshold has no effect.
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  if (cudaError_t e = standing()) return note(e);
  if (device < 0 || device >= state().modes.devices) return note(cudaErrorInvalidDevice);
  *pool = reinterpret_cast<cudaMemPool_t>(uintptr_t(device) + 1);
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  return note(pool && value ? standing() : cudaErrorInvalidValue);
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  if (cudaError_t e = standing()) return note(e);
  if (!pool) return note(cudaErrorInvalidValue);
  std::lock_guard hold(table().mutex);
  trim(table(), int(reinterpret_cast<uintptr_t>(pool)) - 1);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  *p = nullptr;
  if (cudaError_t e = standing()) return note(e);
  if (!bytes) return cudaSuccess;
  *p = allocate(bytes, -1);
  return *p ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocDefault); }
cudaError_t cudaFreeHost(void* p) {
  if (!p) return note(standing());
  if (!claim(p, false)) return note(cudaErrorInvalidValue);
  release(static_cast<char*>(p));
  return note(standing());
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s) return note(cudaErrorInvalidResourceHandle);
  if (strikes(&State::memcpys, &Modes::fail_memcpy)) return note(cudaErrorInvalidValue);
  if (!bytes) return cudaSuccess;
  bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  if (!(from_device ? on_device : on_host)(from, bytes) || !(to_device ? on_device : on_host)(to, bytes))
    return note(cudaErrorInvalidValue);

  count(&Counts::copies);
  std::lock_guard hold(s->mutex);
  if (state().modes.null) {
    if (!s->capture && from_device && !to_device) std::memset(to, 0, bytes);
    return push(*s, {}), note(standing());
  }
  // Pageable memory is read or written before the call returns, as with the real runtime.
  std::shared_ptr<std::vector<char>> staged;
  if (!s->capture && !from_device && find(from, bytes).where == Where::pageable) {
    auto* c = static_cast<const char*>(from);
    staged = std::make_shared<std::vector<char>>(c, c + bytes);
  }
  push(*s, {[=] {
    if ((to_device && !on_device(to, bytes)) || (from_device && !on_device(from, bytes)))
      return stick(cudaErrorIllegalAddress,
                   "a copy of " + std::to_string(bytes) + " bytes found its device memory released");
    std::memmove(to, staged ? staged->data() : from, bytes);
  }});
  if (!s->capture && !to_device && find(to, bytes).where == Where::pageable) s->drain();
  return note(standing());
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  if (cudaError_t e = standing()) return note(e);
  auto s = find_stream(stream);
  if (!s) return note(cudaErrorInvalidResourceHandle);
  if (!bytes) return cudaSuccess;
  if (!on_device(p, bytes)) return note(cudaErrorInvalidValue);
  count(&Counts::fills);
  push(*s, {[=] {
    if (!on_device(p, bytes))
      return stick(cudaErrorIllegalAddress,
                   "a fill of " + std::to_string(bytes) + " bytes found its device memory released");
    std::memset(p, value, bytes);
  }});
  return note(standing());
}
