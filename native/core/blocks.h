// Memory blocks, aligned to 64 bytes, in large pages. With small pages a core loses a third of its read bandwidth to
// page table walks, and a virtual machine may reclaim and remap each page separately; a write to such a page was
// measured to cost 8 µs.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mt {

/// Null where the system refuses. Contents are undefined.
void* take_block(size_t bytes);
/// `bytes` as passed to the allocation.
void give_block(void* block, size_t bytes);

/// A thread's scratch memory: grows, and is kept for the next call.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { give_block(data_, bytes_); }
  /// Throws std::bad_alloc; the earlier content is then lost.
  float* floats(int64_t n);

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace mt
