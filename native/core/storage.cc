#include "core/storage.h"

namespace mt {

Storage::Storage(size_t bytes) : bytes_(bytes) { count_storages(ptrdiff_t(bytes), 1); }

Storage::Storage(std::shared_ptr<Mapping> mapping, size_t offset, size_t bytes)
    : bytes_(bytes), device_(cpu_device), mapping_(std::move(mapping)), read_only_(true), final_(true) {
  data_ = const_cast<char*>(mapping_->data()) + offset;
  count_storages(ptrdiff_t(bytes), 1);
}

Storage::~Storage() {
  if (pretended_) rehearse_release(bytes_);
  else if (block_.data) stream_->release(std::move(block_));
  else if (void* p = data(); p && !mapping_) release(p, bytes_);
  for (auto& [key, made] : derived_)
    if (made.data) release_packed(made.data, made.bytes);
  count_storages(-ptrdiff_t(bytes_), -1);
}

void Storage::assign_device(const std::shared_ptr<cuda::Stream>& stream) {
  device_ = stream ? Device{stream->device()} : cpu_device;
  stream_ = stream;
}

const void* Storage::derived(const std::array<int64_t, 4>& key, size_t bytes, int quarters, int asked,
                             const std::function<void(void*)>& make) {
  Derived& d = derived_[key];
  if (d.data || !derives_ || ++d.asked < asked) return d.data;
  void* p = allocate_packed(bytes, quarters);
  if (!p) return nullptr;
  make(p);
  if (mapping_) mapping_->give_back(data(), bytes_);
  d.data = p, d.bytes = bytes;
  return p;
}

void Storage::ensure() {
  if (data()) return;
  if (stream_) block_ = stream_->allocate(bytes_);
  data_.store(stream_ ? block_.data : allocate(bytes_), std::memory_order_release);
}

void Storage::pretend() {
  if (data()) return;
  pretended_ = true;
  rehearse_allocate(bytes_);
  data_.store(this, std::memory_order_release);  // anything but null: nothing is read or written in a rehearsal
}

}  // namespace mt
