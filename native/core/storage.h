// The memory of tensors, on the CPU or a CUDA device. It is allocated when the queue first writes to it and freed after
// the last view or queued operator releases it. Both are stream-ordered, so JavaScript may run ahead without using
// memory.
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "core/allocator.h"
#include "core/cuda.h"
#include "core/device.h"
#include "core/mapping.h"

namespace mt {

class Storage {
 public:
  /// Lies on the device of the first operator that writes it, unless assign_device() decides.
  explicit Storage(size_t bytes);
  Storage(std::shared_ptr<Mapping> mapping, size_t offset, size_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;

  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  /// Sets its device, once, on the thread that made it; `stream` is the device's, null for the CPU.
  void assign_device(const std::shared_ptr<cuda::Stream>& stream);
  /// Null until something has been written.
  void* data() const { return data_.load(std::memory_order_acquire); }
  /// Allocates if nothing was allocated yet. Throws std::runtime_error with the bytes asked for.
  void ensure();
  /// In a rehearsal, in place of ensure(): counts the memory and takes none.
  void pretend();
  /// Whether no later call may write to it: a file's bytes, or after freeze().
  bool read_only() const { return read_only_; }
  void freeze() { read_only_ = true; }
  /// Whether it lies in a file.
  bool mapped() const { return mapping_ != nullptr; }
  /// Throws where it lies in a file that has become another since it was opened.
  void require_unchanged() const {
    if (mapping_) mapping_->require_unchanged();
  }
  /// Kernels read it as it is and derive nothing: of weights that take much of the memory.
  void keep_as_it_is() { derives_ = false; }
  /// Whether the queue has passed everything that was called before freeze(): then its contents are final. Called on
  /// the queue's thread alone.
  bool final() const { return final_; }
  void finalise() { final_ = true; }
  /// Whether it lies in the pages of a mapped file, which a derived form takes the place of, and may have one.
  bool replaceable() const { return derives_ && mapping_ && mapping_->in_file(); }
  /// Data that a kernel derives once from final contents on the CPU: `bytes` that `make` fills, kept as long as this.
  /// `key` identifies the data. A mapped file's pages are given back for it. Null before it was asked for `asked`
  /// times, where more than so many quarters of all memory would be in use, and after keep_as_it_is().
  const void* derived(const std::array<int64_t, 4>& key, size_t bytes, int quarters, int asked,
                      const std::function<void(void*)>& make);
  /// Of a quantised matrix: how many elements it has in all, by which its parts are found.
  int64_t elements() const { return elements_; }
  void set_elements(int64_t n) { elements_ = n; }
  /// Its memory on a CUDA device.
  const cuda::Block& block() const { return block_; }

  /// The binding's data (binding/handle.h): JavaScript handles, and the bytes that were reported to V8.
  struct {
    int64_t handles = 0, reported = 0;
  } external;

 private:
  size_t bytes_;
  Device device_;
  std::atomic<void*> data_{nullptr};
  std::shared_ptr<Mapping> mapping_;
  std::atomic<bool> read_only_{false};
  bool final_ = false, derives_ = true, pretended_ = false;
  int64_t elements_ = 0;
  struct Derived {
    void* data = nullptr;
    size_t bytes = 0;
    int asked = 0;
  };
  std::map<std::array<int64_t, 4>, Derived> derived_;  // touched by the queue's thread alone
  std::shared_ptr<cuda::Stream> stream_;
  cuda::Block block_;
};

}  // namespace mt
