// The emulator's self-test. Prints a line for every failure.
//
//   selftest             every case in every order of threads and blocks, with kernels run at once and late
//   selftest brief       every case in two orders
//   selftest crash NAME  one fault that only a sanitizer finds
#include <cstdio>
#include <stdexcept>

#include "emulator/cuda_runtime.h"
#include "host.h"
#include "kernels.h"

namespace mt::cuda {
thread_local cudaStream_t stream_in_use = nullptr;
cudaStream_t current_stream() { return stream_in_use; }
void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(e));
}
std::string failure() {
  cudaError_t e = cudaDeviceSynchronize();
  return e == cudaSuccess ? "" : std::string(cudaGetErrorName(e)) + ": " + mt::simt::last_report();
}
}  // namespace mt::cuda

namespace {
int run(const std::vector<Case>& cases, const std::string& modes) {
  int failed = 0;
  for (const Case& c : cases) {
    std::string what;
    mt::simt::configure(modes);
    try {
      what = c.run();
    } catch (const std::exception& e) { what = std::string("threw ") + e.what() + " " + mt::simt::last_report(); }
    if (!what.empty()) ++failed, std::printf("FAILED [%s] %s: %s\n", modes.c_str(), c.name, what.c_str());
  }
  return failed;
}
}  // namespace

int main(int count, char** words) {
  if (count == 3 && std::string(words[1]) == "crash") {
    mt::cuda::crash(words[2]);
    std::printf("%s\n", mt::cuda::failure().c_str());
    return 0;
  }
  const bool brief = count == 2 && std::string(words[1]) == "brief";
  int failed = 0, cases = 0;
  for (const char* order : {"order=forward", "order=reversed", "order=random:1", "order=random:2"})
    for (const char* when : {"", ",late"})
      for (auto* list : {&legal_cases, &fault_cases}) {
        if (brief && (std::string(order) == "order=forward" || std::string(order) == "order=random:2" || *when))
          continue;
        failed += run(*list, std::string(order) + when), cases += int(list->size());
      }
  failed += run(runtime_cases, ""), cases += int(runtime_cases.size());
  std::printf("%d cases, %d failed\n", cases, failed);
  return failed != 0;
}
