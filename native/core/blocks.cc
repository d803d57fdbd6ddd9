#include "core/blocks.h"
#include "core/round.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#ifndef _WIN32
#include <sys/mman.h>
#endif

namespace mt {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kPage = size_t(2) << 20;
constexpr size_t kChunk = 8 * kPage;
#if defined(__SANITIZE_ADDRESS__) || defined(_WIN32)
constexpr size_t kSmallest = SIZE_MAX;  // every block separate, so that the sanitizer watches its ends
#else
constexpr size_t kSmallest = size_t(32) << 10;  // below it, small pages suffice
#endif
constexpr size_t kLargest = 2 * kPage;  // from it on, a block has its own pages

void* system_take(size_t bytes, size_t align) {
#ifdef _WIN32
  return _aligned_malloc(bytes, align);
#else
  void* p = std::aligned_alloc(align, round_up(bytes, align));
#ifdef MADV_HUGEPAGE
  if (p && align >= kPage) ::madvise(p, round_up(bytes, align), MADV_HUGEPAGE);
#endif
  return p;
#endif
}
void system_give(void* p) {
#ifdef _WIN32
  _aligned_free(p);
#else
  std::free(p);
#endif
}

/// Blocks of less than two large pages, cut from chunks of several pages. A freed block is reused for the same size; a
/// chunk without blocks is returned to the system.
class Chunks {
 public:
  void* take(size_t bytes) {
    bytes = round_up(bytes, kAlign);
    std::lock_guard lock(mutex_);
    if (auto found = free_.find(bytes); found != free_.end() && !found->second.empty()) {
      void* p = found->second.back();
      found->second.pop_back();
      ++blocks_[chunk(p)];
      return p;
    }
    if (next_ + bytes > end_) {
      void* p = system_take(kChunk, kChunk);
      if (!p) return nullptr;
      retire();
      next_ = uintptr_t(p);
      end_ = next_ + kChunk;
    }
    void* p = reinterpret_cast<void*>(next_);
    ++blocks_[chunk(p)];
    next_ += bytes;
    return p;
  }
  void give(void* p, size_t bytes) {
    std::lock_guard lock(mutex_);
    free_[round_up(bytes, kAlign)].push_back(p);
    if (uintptr_t c = chunk(p); --blocks_[c] == 0 && c + kChunk != end_) drop(c);
  }

 private:
  static uintptr_t chunk(void* p) { return uintptr_t(p) / kChunk * kChunk; }
  /// The current chunk is full: it is returned once it is empty.
  void retire() {
    if (uintptr_t c = end_ - kChunk; end_ && blocks_[c] == 0) drop(c);
  }
  void drop(uintptr_t c) {
    for (auto& [bytes, list] : free_)
      list.erase(std::remove_if(list.begin(), list.end(), [&](void* p) { return chunk(p) == c; }), list.end());
    blocks_.erase(c);
    system_give(reinterpret_cast<void*>(c));
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  std::unordered_map<uintptr_t, size_t> blocks_;  // blocks in use, by chunk
  uintptr_t next_ = 0, end_ = 0;                  // what is left of the newest chunk
};

/// Never destroyed: a worker thread may outlive static destruction.
Chunks& chunks() {
  static Chunks* all = new Chunks;
  return *all;
}

bool shared(size_t bytes) { return bytes >= kSmallest && bytes < kLargest; }

}  // namespace

void* take_block(size_t bytes) {
  if (shared(bytes)) return chunks().take(bytes);
  return system_take(bytes, bytes < kLargest ? kAlign : kPage);
}

void give_block(void* block, size_t bytes) {
  if (!block) return;
  if (shared(bytes)) return chunks().give(block, bytes);
  system_give(block);
}

float* Scratch::floats(int64_t n) {
  if (const size_t bytes = size_t(n) * sizeof(float); bytes > bytes_) {
    give_block(data_, bytes_);
    bytes_ = 0;
    if (!(data_ = take_block(bytes))) throw std::bad_alloc();
    bytes_ = bytes;
  }
  return static_cast<float*>(data_);
}

}  // namespace mt
