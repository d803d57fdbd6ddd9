// Where memory lies and operators run: the CPU, or a CUDA device by number.
#pragma once
#include <ostream>
#include <string>

namespace mt {

struct Device {
  int id = kUndecided;
  static constexpr int kCpu = -1, kUndecided = -2;  // undecided: a result that was not yet written

  bool is_cuda() const { return id >= 0; }
  bool decided() const { return id != kUndecided; }
  std::string name() const { return id >= 0 ? "cuda:" + std::to_string(id) : id == kCpu ? "cpu" : "no device yet"; }
  friend bool operator==(Device, Device) = default;
  friend std::ostream& operator<<(std::ostream& to, Device device) { return to << device.name(); }
};

inline constexpr Device cpu_device{Device::kCpu};

}  // namespace mt
