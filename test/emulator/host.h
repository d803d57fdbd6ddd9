// The host side of a self-test case: device arrays, and the errors of the last launches.
#pragma once
#include <string>
#include <vector>

#include "kernels/cuda/port.h"

namespace mt::cuda {

/// The stream of launch().
extern thread_local cudaStream_t stream_in_use;

template <typename T>
struct Device {
  T* p = nullptr;
  size_t n;
  explicit Device(size_t n) : n(n) { check(cudaMalloc(&p, n * sizeof(T)), "malloc"); }
  explicit Device(const std::vector<T>& v) : Device(v.size()) { write(v); }
  ~Device() { cudaFree(p); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  void write(const std::vector<T>& v) {
    check(cudaMemcpyAsync(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice, current_stream()), "write");
  }
  std::vector<T> read() const {
    std::vector<T> v(n);
    check(cudaMemcpyAsync(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost, current_stream()), "read");
    check(cudaStreamSynchronize(current_stream()), "read");
    return v;
  }
};

/// Waits, and returns what failed: "" where nothing did.
std::string failure();

}  // namespace mt::cuda
