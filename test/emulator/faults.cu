// What kernels may not do. Each case contains one fault, and passes where the emulator finds it and names its line.
#include <cmath>
#include <stdexcept>

#include "host.h"
#include "kernels.h"

namespace mt::cuda {
namespace {

// The line of a fault: the kernels below are as short as possible, and record where their fault is.
int fault_line = 0;
#define HERE (fault_line = __LINE__)

__global__ void missing_barrier(const float* x, float* y) {
  SHARED(float, s);
  s[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = s[(threadIdx.x + 1) % blockDim.x];
}
__global__ void with_barrier(const float* x, float* y) {
  SHARED(float, s);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[(threadIdx.x + 1) % blockDim.x];
}
/// mode 0: correct; 1: waits after reading; 2: waits for all but one group; 3: never closes the group.
__global__ void late_wait(const float* x, float* y, int mode) {
  SHARED(float, s);
  float* mine = s + 4 * threadIdx.x;
  cp_async_16(mine, x + 4 * threadIdx.x);
  if (mode != 3) cp_async_commit();
  if (mode == 0 || mode == 3) cp_async_wait<0>();
  if (mode == 2) cp_async_wait<1>();
  y[threadIdx.x] = mine[0];
  cp_async_wait<0>();
}

int nans(const std::vector<float>& v) {
  int n = 0;
  for (float f : v) n += std::isnan(f);
  return n;
}
std::string shows_nan() {
  Device<float> x(std::vector<float>(256, 1.0f)), y(64);
  launch(missing_barrier, 1, 64, 64 * sizeof(float), x.p, y.p);
  if (!nans(y.read())) return "a missing barrier shows no NaN";
  launch(with_barrier, 1, 64, 64 * sizeof(float), x.p, y.p);
  if (nans(y.read())) return "NaN in spite of the barrier";
  for (int mode = 0; mode < 4; ++mode) {
    launch(late_wait, 1, 64, 256 * sizeof(float), x.p, y.p, mode);
    if (nans(y.read()) != (mode ? 64 : 0)) return text("cp.async, mode ", mode, ": ", nans(y.read()), " NaNs");
  }
  return failure();
}

/// Runs the kernel; its failure has to contain every word of `words` and the fault's line.
template <typename... P>
std::string expect(std::vector<std::string> words, void (*kernel)(P...), unsigned threads = 64, size_t shared = 1024) {
  fault_line = 0;
  launch(kernel, 3, threads, shared);
  std::string report = failure();
  if (fault_line) words.push_back(text("faults.cu:", fault_line, ":"));
  words.insert(words.end(), {"cudaErrorLaunchFailure", "kernel launched at faults.cu:", "block ("});
  for (const std::string& w : words)
    if (report.find(w) == std::string::npos) return text("\"", w, "\" is not in \"", report, "\"");
  return cudaGetLastError() == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure
             ? ""
             : "the failure does not stay";
}

__global__ void skips_barrier() {
  if (threadIdx.x != 5) HERE, __syncthreads();
  else __syncwarp();
}
__global__ void other_barrier() {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}
__global__ void other_shuffle() {
  int v = 0;
  if (threadIdx.x % 2) v = __shfl_xor_sync(~0u, v, 1);
  else v = __shfl_xor_sync(~0u, v, 2);
}
__global__ void one_line() {
  int v = 0;
  HERE, v = threadIdx.x % 2 ? __shfl_xor_sync(~0u, v, 1) : __shfl_xor_sync(~0u, v, 1);
}
__global__ void foreign_mask() { HERE, __syncwarp(1u << (threadIdx.x + 1) % 32); }
__global__ void crooked_copy() {
  SHARED(char, s);
  alignas(16) char x[16] = {};
  HERE, cp_async_16(s + 8, x);
}
__global__ void crooked_source() {
  SHARED(char, s);
  alignas(16) char x[32] = {};
  HERE, cp_async_16(s, x + 4);
}
__global__ void crooked_row() {
  SHARED(uint16_t, s);
  uint32_t r[4];
  HERE, ldmatrix_x4(r, s + 8 * (threadIdx.x % 32) + 1);
}
__global__ void lanes_gone() {
  float d[4] = {};
  uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x < 3) return;
  HERE, mma_m16n8k16(d, a, b);
}
__global__ void throws() { throw std::runtime_error("from within"); }

std::string reports() {
  for (auto& [words, kernel] : std::vector<std::pair<std::vector<std::string>, void (*)()>>{
           {{"deadlock", "63 threads wait at __syncthreads", "1 thread waits at __syncwarp", "first: (5,0,0)"},
            skips_barrier},
           {{"block diverged: __syncthreads", " meets __syncthreads"}, other_barrier},
           {{"warp diverged: __shfl_xor_sync", " meets __shfl_xor_sync"}, other_shuffle},
           {{"warp diverged: __shfl_xor_sync", " meets __shfl_xor_sync"}, one_line},
           {{"is not in its own mask"}, foreign_mask},
           {{"cp_async_16", "shared address is not 16-byte aligned"}, crooked_copy},
           {{"cp_async_16", "global address is not 16-byte aligned"}, crooked_source},
           {{"ldmatrix", "not 16-byte aligned"}, crooked_row},
           {{"mma_m16n8k16", "all 32 lanes must take part"}, lanes_gone},
           {{"exception \"from within\""}, throws},
       }) {
    if (std::string e = expect(words, kernel); !e.empty()) return e;
    simt::clear_errors();  // as in a new process
    Device<float> x(std::vector<float>(64, 1.0f)), y(64);
    launch(with_barrier, 1, 64, 64 * sizeof(float), x.p, y.p);
    if (std::string e = failure(); !e.empty() || nans(y.read())) return "after a failure the next kernel fails: " + e;
  }
  return "";
}

#if !SIMT_ASAN
__global__ void past_shared() {
  SHARED(float, s);
  s[blockDim.x] = 1;
}
__global__ void past_global(float* x) { x[threadIdx.x + 1] = 1; }
std::string guards() {
  if (std::string e = expect({"wrote past the end of its dynamic shared memory of 256 bytes"}, past_shared, 64, 256);
      !e.empty())
    return e;
  simt::clear_errors();
  {
    Device<float> x(64);
    launch(past_global, 1, 64, 0, x.p);
    if (std::string e = failure(); !e.empty()) return e;
  }
  return failure().find("written past the end of an allocation of 256 bytes") == std::string::npos
             ? "a write past device memory goes unseen: " + failure()
             : "";
}
#endif

__global__ void nothing() {}
std::string limits() {
  auto refuses = [](dim3 grid, dim3 block, size_t shared) {
    try {
      launch(nothing, grid, block, shared);
    } catch (const std::runtime_error& e) {
      return std::string(e.what()).find("invalid configuration") != std::string::npos &&
             cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess;
    }
    return false;
  };
  if (!refuses(1, 1025, 0) || !refuses(1, {1, 1, 65}, 0) || !refuses(1, 0, 0))
    return "a block that is too large is launched";
  if (!refuses({1, 65536}, 1, 0) || !refuses({1, 1, 65536}, 1, 0) || !refuses(0x80000000u, 1, 0))
    return "a grid that is too large is launched";
  if (!refuses(1, 32, 227 * 1024 + 1)) return "too much shared memory is launched";
  launch(nothing, {2, 65535}, 1, 0);
  launch(nothing, 2, {32, 32}, 227 * 1024);
  return failure();
}

/// A float sum in the order of arrival, by atomicAdd, must not compile.
template <typename T>
concept Adds = requires(T* p, T v) { atomicAdd(p, v); };
static_assert(Adds<int> && Adds<unsigned> && Adds<unsigned long long> && !Adds<float> && !Adds<double>);

__global__ void plain(float* y, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = float(i);
}
std::string cheap() {
  const int n = 100000;
  Device<float> y(n);
  auto before = simt::work_done();
  launch(plain, (n + 255) / 256, 256, 0, y.p, n);
  if (y.read()[n - 1] != float(n - 1)) return "wrong";
  auto after = simt::work_done();
  if (after.threads - before.threads != 391 * 256 || after.switches - before.switches != 391)
    return text(after.switches - before.switches, " switches for 391 blocks without a barrier");
  return failure();
}

// Faults that only the sanitizers find.
__global__ void crash_shared() {
  SHARED(float, s);
  s[threadIdx.x + 1] = 1;
}
__global__ void crash_global(float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + 1]; }
__global__ void crash_shift(float* y, int by) { y[0] = float(1 << by); }

}  // namespace

void crash(const std::string& name) {
  Device<float> x(64), y(64);
  if (name == "shared") launch(crash_shared, 1, 64, 64 * sizeof(float));
  if (name == "global") launch(crash_global, 1, 64, 0, x.p, y.p);
  if (name == "shift") launch(crash_shift, 1, 1, 0, y.p, 32);
  if (name == "freed") {
    float* z;
    check(cudaMallocAsync(&z, 256, nullptr), "malloc");
    check(cudaFreeAsync(z, nullptr), "free");
    launch(crash_global, 1, 63, 0, z, y.p);
  }
}

}  // namespace mt::cuda

const std::vector<Case> fault_cases = {
    {"missing barriers and late waits show as NaN", mt::cuda::shows_nan},
    {"divergence, deadlocks, misalignment: reported with their lines", mt::cuda::reports},
#if !SIMT_ASAN
    {"guard bytes", mt::cuda::guards},
#endif
    {"limits of a launch", mt::cuda::limits},
    {"a kernel without barriers needs one switch a block", mt::cuda::cheap},
};
