// The emulated runtime: the order of streams, memory, captures, and every failure that can be requested.
#include <atomic>
#include <thread>

#include "host.h"
#include "kernels.h"
#include "instruments/probe.h"

namespace mt::cuda {
namespace {

__global__ void increment(int* x, int by) { atomicAdd(x + threadIdx.x, by); }
__global__ void scaled(const float* x, float* y, float factor) { y[threadIdx.x] = factor * x[threadIdx.x]; }

#define EXPECT(condition)                                                                                    \
  if (!(condition))                                                                                          \
  return text("runtime.cu:", __LINE__, ": ", #condition, " [", cudaGetErrorName(cudaPeekAtLastError()), " ", \
              simt::last_report(), "]")

struct OwnStream {
  cudaStream_t s = nullptr;
  OwnStream() { check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream"); }
  ~OwnStream() { cudaStreamDestroy(s); }
};
/// Pinned memory of one array.
template <typename T>
struct Pinned {
  T* p = nullptr;
  explicit Pinned(size_t n) { check(cudaMallocHost(&p, n * sizeof(T)), "pinned"); }
  ~Pinned() { cudaFreeHost(p); }
};

std::string late() {
  simt::configure("late");
  OwnStream s;
  Pinned<int> host(4);
  int* x;
  EXPECT(cudaMallocAsync(&x, 16, s.s) == cudaSuccess);
  EXPECT(x[0] == -1);  // NaN: memory that was never written
  EXPECT(cudaMemsetAsync(x, 0, 16, s.s) == cudaSuccess);
  EXPECT(cudaMemcpyAsync(host.p, x, 16, cudaMemcpyDeviceToHost, s.s) == cudaSuccess);
  EXPECT(x[0] == -1 && host.p[0] == -1);
  cudaEvent_t e, f;
  EXPECT(cudaEventCreateWithFlags(&e, cudaEventDisableTiming) == cudaSuccess && cudaEventCreate(&f) == cudaSuccess);
  EXPECT(cudaEventQuery(e) == cudaSuccess);  // never recorded
  EXPECT(cudaEventRecord(e, s.s) == cudaSuccess && cudaEventRecord(f, s.s) == cudaSuccess);
  host.p[1] = 7;
  EXPECT(cudaMemcpyAsync(x, host.p, 16, cudaMemcpyHostToDevice, s.s) == cudaSuccess);
  EXPECT(cudaEventQuery(e) == cudaErrorNotReady && x[0] == -1);
  EXPECT(cudaEventQuery(e) == cudaSuccess && x[0] == 0 && host.p[1] == 0);
  float ms;
  EXPECT(cudaEventElapsedTime(&ms, f, f) == cudaErrorNotReady &&
         cudaEventElapsedTime(&ms, e, f) == cudaErrorInvalidResourceHandle);
  host.p[1] = 9;  // pinned memory is read when the stream runs the copy
  EXPECT(cudaStreamQuery(s.s) == cudaErrorNotReady && cudaStreamQuery(s.s) == cudaSuccess && x[1] == 9);
  EXPECT(cudaEventElapsedTime(&ms, f, f) == cudaSuccess && ms == 0);
  int pageable[4] = {1, 2, 3, 4};
  EXPECT(cudaMemcpyAsync(x, pageable, 16, cudaMemcpyHostToDevice, s.s) == cudaSuccess);
  pageable[0] = 100;  // other memory was read at the call
  EXPECT(x[0] == 0);
  EXPECT(cudaMemcpyAsync(pageable, x, 16, cudaMemcpyDeviceToHost, s.s) == cudaSuccess && pageable[0] == 1 &&
         pageable[3] == 4);
  OwnStream other;
  EXPECT(cudaMemsetAsync(x, 0, 16, s.s) == cudaSuccess && cudaEventRecord(e, s.s) == cudaSuccess);
  EXPECT(cudaStreamWaitEvent(other.s, e) == cudaSuccess && cudaStreamSynchronize(other.s) == cudaSuccess && x[0] == 0);
  EXPECT(cudaEventDestroy(e) == cudaSuccess && cudaEventDestroy(f) == cudaSuccess &&
         cudaEventQuery(f) == cudaErrorInvalidResourceHandle);
  EXPECT(cudaFreeAsync(x, s.s) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
  return "";
}

std::string memory() {
  simt::configure("late,memory=4096");
  size_t free, total;
  char *a, *b;
  EXPECT(cudaMalloc(&a, 4097) == cudaErrorMemoryAllocation && a == nullptr &&
         cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
  EXPECT(cudaMallocAsync(&a, 3000, nullptr) == cudaSuccess && cudaMemGetInfo(&free, &total) == cudaSuccess &&
         free == 1096 && total == 4096);
  EXPECT(reinterpret_cast<uintptr_t>(a) % 256 == 0);
  EXPECT(cudaMallocAsync(&b, 2000, nullptr) == cudaErrorMemoryAllocation);
  EXPECT(cudaMemsetAsync(a, 0, 3001) == cudaErrorInvalidValue &&
         cudaMemsetAsync(a + 1, 0, 3000) == cudaErrorInvalidValue);
  char host[16] = {};
  EXPECT(cudaMemcpyAsync(a, host, 16, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue &&
         cudaMemcpyAsync(host, a, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  EXPECT(cudaMemcpyAsync(a, a + 2990, 16, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue &&
         cudaMemcpyAsync(a, a + 100, 16, cudaMemcpyDeviceToDevice) == cudaSuccess);
  EXPECT(cudaFreeAsync(a, nullptr) == cudaSuccess && cudaMemGetInfo(&free, &total) == cudaSuccess &&
         free == 1096);  // not before the stream runs the release
  EXPECT(cudaFreeAsync(a, nullptr) == cudaErrorInvalidValue && cudaFree(a) == cudaErrorInvalidValue &&
         cudaFreeHost(host) == cudaErrorInvalidValue);
  EXPECT(cudaMallocAsync(&b, 2000, nullptr) == cudaSuccess);  // the queued release makes room
  EXPECT(cudaFree(b) == cudaSuccess && cudaFree(nullptr) == cudaSuccess &&
         cudaMemGetInfo(&free, &total) == cudaSuccess && free == 4096);
  EXPECT(cudaMalloc(&a, 0) == cudaSuccess && a == nullptr);
  cudaMemPool_t pool;
  uint64_t threshold = UINT64_MAX;
  EXPECT(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess &&
         cudaDeviceGetDefaultMemPool(&pool, 1) == cudaErrorInvalidDevice);
  EXPECT(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold) == cudaSuccess &&
         cudaMemPoolTrimTo(pool, 0) == cudaSuccess);
  // A copy after its memory was released in stream order.
  cudaGetLastError();
  EXPECT(cudaMallocAsync(&a, 64, nullptr) == cudaSuccess && cudaFreeAsync(a, nullptr) == cudaSuccess &&
         cudaMemsetAsync(a, 0, 64) == cudaSuccess);
  EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress &&
         simt::last_report().find("found its device memory released") != std::string::npos);
  return "";
}

std::string capture() {
  for (const char* modes : {"", "late"}) {
    simt::configure(modes);
    OwnStream s;
    Device<float> x(std::vector<float>(8, 1.0f)), y(8), z(8);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    EXPECT(cudaStreamBeginCapture(s.s, cudaStreamCaptureModeRelaxed) == cudaSuccess &&
           cudaStreamBeginCapture(s.s, cudaStreamCaptureModeRelaxed) == cudaErrorInvalidValue);
    const float* from = x.p;
    float *to = y.p, factor = 3;
    EXPECT(simt::enqueue(s.s, {1, 8, 0, [=] { scaled(from, to, factor); }, std::source_location::current()}) ==
           cudaSuccess);
    EXPECT(cudaMemcpyAsync(z.p, y.p, 32, cudaMemcpyDeviceToDevice, s.s) == cudaSuccess &&
           cudaMemsetAsync(z.p, 0, 4, s.s) == cudaSuccess);
    EXPECT(cudaStreamEndCapture(s.s, &graph) == cudaSuccess && graph &&
           cudaGraphInstantiate(&exec, graph) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
    EXPECT(y.read()[0] != y.read()[0]);  // recorded, not run
    for (float v : {1.0f, 5.0f}) {
      x.write(std::vector<float>(8, v));
      EXPECT(cudaDeviceSynchronize() == cudaSuccess && cudaGraphLaunch(exec, s.s) == cudaSuccess &&
             cudaStreamSynchronize(s.s) == cudaSuccess);
      EXPECT(z.read() == (std::vector<float>{0, 3 * v, 3 * v, 3 * v, 3 * v, 3 * v, 3 * v, 3 * v}));
    }
    EXPECT(cudaGraphExecDestroy(exec) == cudaSuccess);
    // Waiting and releasing end a capture with an error; the stream stays usable.
    for (int what = 0; what < 5; ++what) {
      EXPECT(cudaStreamBeginCapture(s.s, cudaStreamCaptureModeRelaxed) == cudaSuccess);
      if (what == 0) EXPECT(cudaStreamSynchronize(s.s) == cudaErrorStreamCaptureUnsupported);
      if (what == 1) EXPECT(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported);
      if (what == 2) EXPECT(cudaStreamQuery(s.s) == cudaErrorStreamCaptureUnsupported);
      if (what == 3) EXPECT(cudaFreeAsync(y.p, s.s) == cudaErrorInvalidValue);
      if (what == 4) {
        float* more;
        EXPECT(cudaMallocAsync(&more, 4, s.s) == cudaErrorStreamCaptureUnsupported);
      }
      EXPECT(cudaStreamEndCapture(s.s, &graph) == cudaErrorStreamCaptureInvalidated && graph == nullptr);
      EXPECT(cudaGetLastError() == cudaErrorStreamCaptureInvalidated && cudaStreamSynchronize(s.s) == cudaSuccess);
    }
    EXPECT(cudaStreamEndCapture(s.s, &graph) == cudaErrorInvalidValue);
    // A capture does not record plain allocations.
    EXPECT(cudaStreamBeginCapture(s.s, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    { Device<float> w(8); }
    EXPECT(cudaStreamEndCapture(s.s, &graph) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess);
  }
  return "";
}

std::string failures() {
  char* p;
  simt::configure("pool,memory=1000");
  {
    char *q, *r;
    EXPECT(cudaMallocAsync(&p, 400, nullptr) == cudaSuccess && cudaMallocAsync(&q, 400, nullptr) == cudaSuccess &&
           cudaFreeAsync(p, nullptr) == cudaSuccess && cudaFreeAsync(q, nullptr) == cudaSuccess);
    EXPECT(cudaMalloc(&p, 300) == cudaErrorMemoryAllocation &&
           cudaMallocAsync(&p, 500, nullptr) == cudaErrorMemoryAllocation);
    EXPECT(cudaMallocAsync(&p, 300, nullptr) == cudaSuccess && cudaMalloc(&q, 300) == cudaSuccess &&
           cudaFree(q) == cudaSuccess);
    cudaMemPool_t pool;
    EXPECT(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess && cudaMemPoolTrimTo(pool, 0) == cudaSuccess);
    EXPECT(cudaMalloc(&q, 700) == cudaSuccess && cudaMalloc(&r, 1) == cudaErrorMemoryAllocation &&
           cudaFree(q) == cudaSuccess && cudaFree(p) == cudaSuccess);
  }
  simt::configure("fail=malloc:2");
  EXPECT(cudaMalloc(&p, 8) == cudaSuccess && cudaFree(p) == cudaSuccess &&
         cudaMalloc(&p, 8) == cudaErrorMemoryAllocation && cudaMalloc(&p, 8) == cudaSuccess &&
         cudaFree(p) == cudaSuccess);
  simt::configure("fail=launch:2,fail=memcpy:3");
  {
    Device<int> x(std::vector<int>{0, 0});
    launch(increment, 1, 2, 0, x.p, 1);
    cudaGetLastError();
    EXPECT(simt::enqueue(nullptr, {1, 2, 0, [] {}, std::source_location::current()}) == cudaErrorInvalidConfiguration &&
           cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
    launch(increment, 1, 2, 0, x.p, 1);
    EXPECT(x.read() == (std::vector<int>{2, 2}));
    int host[2] = {};
    EXPECT(cudaMemcpyAsync(host, x.p, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue && host[0] == 0);
    EXPECT(cudaMemcpyAsync(host, x.p, 8, cudaMemcpyDeviceToHost) == cudaSuccess && host[0] == 2);
  }
  for (const char* modes : {"sticky=2", "sticky=2,late"}) {
    simt::configure(modes);
    Device<int> x(std::vector<int>{0, 0});
    launch(increment, 1, 2, 0, x.p, 1);
    launch(increment, 1, 2, 0, x.p, 1);
    EXPECT(cudaDeviceSynchronize() == cudaErrorIllegalAddress && x.p[0] == 1);
    EXPECT(cudaMalloc(&p, 8) == cudaErrorIllegalAddress && cudaMemsetAsync(x.p, 0, 8) == cudaErrorIllegalAddress &&
           cudaStreamSynchronize(nullptr) == cudaErrorIllegalAddress);
    EXPECT(cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaErrorIllegalAddress &&
           simt::last_report().find("kernel launched at runtime.cu:") == 0);
    EXPECT(cudaFree(x.p) == cudaErrorIllegalAddress &&
           cudaFree(x.p) == cudaErrorInvalidValue);  // it was released nevertheless
    x.p = nullptr;
  }
  int n = -1;
  simt::configure("nodriver");
  EXPECT(cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 0 &&
         cudaMalloc(&p, 8) == cudaErrorInsufficientDriver && cudaDriverGetVersion(&n) == cudaSuccess && n == 0);
  simt::configure("nodevice");
  EXPECT(cudaGetDeviceCount(&n) == cudaErrorNoDevice && n == 0 && cudaSetDevice(0) == cudaErrorNoDevice);
  simt::configure("devices=2");
  EXPECT(cudaGetDeviceCount(&n) == cudaSuccess && n == 2 && cudaSetDevice(2) == cudaErrorInvalidDevice &&
         cudaSetDevice(1) == cudaSuccess && cudaGetDevice(&n) == cudaSuccess && n == 1);
  {
    OwnStream second;
    EXPECT(cudaSetDevice(0) == cudaSuccess);
    EXPECT(simt::enqueue(second.s, {1, 1, 0, [] {}, std::source_location::current()}) ==
           cudaErrorInvalidResourceHandle);
  }
  cudaDeviceProp properties;
  EXPECT(cudaGetDeviceProperties(&properties, 1) == cudaSuccess && properties.major == 9 &&
         cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess &&
         n == properties.multiProcessorCount);
  cudaStream_t gone;
  EXPECT(cudaStreamCreateWithFlags(&gone, cudaStreamNonBlocking) == cudaSuccess &&
         cudaStreamDestroy(gone) == cudaSuccess && cudaStreamSynchronize(gone) == cudaErrorInvalidResourceHandle);
  for (const char* wrong : {"order=sideways", "fail=malloc:x", "devices=", "soon"}) {
    bool refused = false;
    try {
      simt::configure(wrong);
    } catch (const std::invalid_argument&) { refused = true; }
    EXPECT(refused);
  }
  return "";
}

/// A kernel's limit of shared memory is set once for a device, to the device's maximum: no later launch lowers it below
/// what a captured launch needs.
__global__ void fill_shared(int* x, int n) {
  SHARED(int, s);
  s[n - 1] = n;
  atomicAdd(x, s[n - 1]);
}
std::string shared_limits() {
  simt::configure("devices=2");
  constexpr int large = 200 << 10, small = 64 << 10;
  EXPECT(simt::enqueue(nullptr, {1, 1, large, [] {}, std::source_location::current(),
                                 reinterpret_cast<const void*>(fill_shared)}) == cudaErrorInvalidConfiguration);
  cudaGetLastError();
  EXPECT(simt::last_report().find("204800 bytes of dynamic shared memory, and the kernel is allowed 49152") !=
         std::string::npos);
  OwnStream s;
  Device<int> x(std::vector<int>{0});
  stream_in_use = s.s;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  EXPECT(cudaStreamBeginCapture(s.s, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  launch(fill_shared, 1, 1, large, x.p, large / 4);
  EXPECT(cudaStreamEndCapture(s.s, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph) == cudaSuccess &&
         cudaGraphDestroy(graph) == cudaSuccess);
  EXPECT(simt::shared_limits_set() == 1);
  launch(fill_shared, 1, 1, small, x.p, small / 4);
  launch(fill_shared, 1, 1, 16, x.p, 4);
  EXPECT(cudaGraphLaunch(exec, s.s) == cudaSuccess && cudaStreamSynchronize(s.s) == cudaSuccess);
  EXPECT(x.read() == std::vector<int>{large / 4 + small / 4 + 4});
  EXPECT(simt::shared_limits_set() == 1 && resident_blocks(fill_shared, 128, large) == 1 &&
         resident_blocks(fill_shared, 128, 80 << 10) == 2 && simt::shared_limits_set() == 1);
  stream_in_use = nullptr;
  EXPECT(cudaSetDevice(1) == cudaSuccess);
  launch(fill_shared, 1, 1, small, x.p, small / 4);
  EXPECT(cudaDeviceSynchronize() == cudaSuccess && simt::shared_limits_set() == 2 && cudaSetDevice(0) == cudaSuccess);
  // What a lower limit would cause.
  EXPECT(cudaFuncSetAttribute(fill_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, small) == cudaSuccess);
  cudaGraphLaunch(exec, s.s);
  EXPECT(cudaStreamSynchronize(s.s) == cudaErrorLaunchFailure &&
         simt::last_report().find("and the kernel is allowed 65536") != std::string::npos);
  simt::clear_errors();
  EXPECT(cudaFuncSetAttribute(fill_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10) == cudaSuccess &&
         cudaGraphExecDestroy(exec) == cudaSuccess);
  return "";
}

/// Two OS threads, each with a stream and barriers of its own, at once.
__global__ void turns(int* x, int rounds) {
  __shared__ int s[64];
  for (int r = 0; r < rounds; ++r) {
    s[threadIdx.x] = x[threadIdx.x] + 1;
    __syncthreads();
    x[threadIdx.x] = s[(threadIdx.x + 1) % 64];
    __syncthreads();
  }
}
std::string threads() {
  simt::configure("");
  std::atomic<int> wrong{0};
  auto work = [&] {
    OwnStream s;
    int *x, host[64] = {};
    wrong += cudaMallocAsync(&x, sizeof host, s.s) != cudaSuccess;
    wrong += cudaMemcpyAsync(x, host, sizeof host, cudaMemcpyHostToDevice, s.s) != cudaSuccess;
    for (int i = 0; i < 50; ++i)
      wrong += simt::enqueue(s.s, {1, 64, 0, [x] { turns(x, 10); }, std::source_location::current()}) != cudaSuccess;
    wrong += cudaMemcpyAsync(host, x, sizeof host, cudaMemcpyDeviceToHost, s.s) != cudaSuccess;
    wrong += cudaStreamSynchronize(s.s) != cudaSuccess;
    for (int v : host) wrong += v != 500;
    wrong += cudaFreeAsync(x, s.s) != cudaSuccess;
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT(wrong == 0);
  return "";
}

std::string probes() {
  simt::configure("");
  auto got = probe_fragments(), want = expected_fragments();
  EXPECT(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i)
    if (got[i] != want[i]) return text("fragment answer ", i, ": ", got[i], " for ", want[i]);
  return "";
}

}  // namespace
}  // namespace mt::cuda

const std::vector<Case> runtime_cases = {
    {"late: nothing happens before it is waited for", mt::cuda::late},
    {"memory in stream order", mt::cuda::memory},
    {"capture and replay", mt::cuda::capture},
    {"failures that are asked for", mt::cuda::failures},
    {"two OS threads", mt::cuda::threads},
    {"who owns which fragment", mt::cuda::probes},
    {"shared memory is asked for once", mt::cuda::shared_limits},
};
