// Where memory comes from: blocks aligned to 64 bytes that lie in large pages. With small ones a core spends a third of
// its read bandwidth on looking pages up, and a virtual machine may take back and map again each one by itself, which
// was seen to cost 8 µs a page, under the writes that met it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mt {

/// Null where the system refuses. Contents are undefined.
void* take_block(size_t bytes);
/// `bytes` as they were taken.
void give_block(void* block, size_t bytes);

/// A thread's working memory: grows, and is kept for the next call.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { give_block(data_, bytes_); }
  /// Throws std::bad_alloc; what it held before is then gone.
  float* floats(int64_t n);

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace mt
