// Devices: which there are, which were lost, how much of their memory is allocated.
#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <stdexcept>

#include "core/cuda_state.h"
#include "core/device.h"
#include "core/error.h"

#ifndef MT_CUDA_ARCHS
#define MT_CUDA_ARCHS ""
#endif

namespace mt::cuda {
namespace {

constexpr int kMostDevices = 64;

/// The state of a device, for the whole process.
struct Known {
  std::atomic<bool> lost{false};
  std::string why;  // written once, before `lost`
  std::atomic<size_t> bytes{0}, peak{0};
};
Known& known(int device) {
  static std::array<Known, kMostDevices>* all = new std::array<Known, kMostDevices>;
  return (*all)[size_t(device)];
}

/// Sticky errors: the device's context is unusable afterwards.
bool sticky(cudaError_t e) {
  switch (int(e)) {
    case 214:
    case 219:
    case 220:
    case 226:
    case 700:
    case 702:
    case 709:
    case 710:
    case 714:
    case 715:
    case 716:
    case 717:
    case 718:
    case 719:
    case 999: return true;
    default: return false;
  }
}

[[noreturn]] void lose(int device, const std::string& why) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  Known& k = known(device);
  if (!k.lost) {
    k.why = why;
    k.lost = true;
  }
  throw std::runtime_error(
      text(device_name(device), " was lost: ", k.why, "; its tensors are gone, start a new process to use it again"));
}

std::string version(int v) { return text(v / 1000, ".", v % 1000 / 10); }

}  // namespace

std::string device_name(int device) { return Device{device}.name(); }

void require_alive(int device) {
  if (known(device).lost) lose(device, "");
}

void count(int device, ptrdiff_t bytes) {
  Known& k = known(device);
  size_t now = k.bytes += size_t(bytes), peak = k.peak;
  while (now > peak && !k.peak.compare_exchange_weak(peak, now)) {}
}

void check(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return;
  cudaGetLastError();  // clears an error that is not sticky
  int device = in_use ? in_use->device() : 0;
  std::string why = text(what, ": ", cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
  if (sticky(e)) lose(device, why);
  throw std::runtime_error(text(device_name(device), ": ", why));
}

Availability availability() {
  static const Availability found = [] {
    Availability a{true, false, 0, "", MT_CUDA_ARCHS};
#ifdef MT_CUDA_EMULATED
    a.emulated = true;
#endif
    cudaError_t e = cudaGetDeviceCount(&a.count);
    cudaGetLastError();
    if (e == cudaSuccess && a.count == 0) e = cudaErrorNoDevice;
    if (e == cudaSuccess) {
      a.count = std::min(a.count, kMostDevices);
      return a;
    }
    a.count = 0;
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    if (driver == 0) a.reason = "no NVIDIA driver is installed";
    else if (e == cudaErrorInsufficientDriver)
      a.reason = text("the NVIDIA driver knows CUDA ", version(driver), " at most, and this build needs ",
                      version(runtime), "; update the driver");
    else if (e == cudaErrorNoDevice) a.reason = "no CUDA device was found";
    else a.reason = text(cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
    return a;
  }();
  return found;
}

std::map<std::string, uint64_t> counts() {
#ifdef MT_CUDA_EMULATED
  return simt::counts();
#else
  return {};
#endif
}

DeviceInfo device_info(int device) {
  Availability a = availability();
  if (device < 0 || device >= a.count)
    throw std::runtime_error(
        text(device_name(device), " does not exist: ",
             a.count ? text("there ", a.count == 1 ? "is 1 device, cuda:0"
                                                   : text("are ", a.count, " devices, cuda:0 to cuda:", a.count - 1))
                     : a.reason));
  require_alive(device);
  DeviceInfo info{};
  cudaDeviceProp p;
  check(cudaSetDevice(device), "cudaSetDevice");
  check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
  check(cudaMemGetInfo(&info.free, &info.memory), "cudaMemGetInfo");
  info.name = p.name;
  info.major = p.major;
  info.minor = p.minor;
  info.multiprocessors = p.multiProcessorCount;
  return info;
}

bool lost(int device) { return device >= 0 && device < kMostDevices && known(device).lost; }

Memory memory(int device) { return {known(device).bytes, known(device).peak}; }
void reset_peak(int device) { known(device).peak = known(device).bytes.load(); }

}  // namespace mt::cuda
