// cuBLASLt in place of the own kernels, for who asks with MT_GEMM=cublaslt (own is the default): plain products of aligned
// bfloat16 matrices with more than a few rows. The library is opened at run time and called through the few declarations
// here, so that neither its headers nor itself are needed to build or to run.
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string_view>
#include <tuple>

#include "core/error.h"
#include "kernels/product_tile.h"

#if defined(__linux__) && !defined(MT_CUDA_EMULATED)
#include <dlfcn.h>
#endif

namespace mt::cuda {
namespace {

bool asked() {
  static const bool yes = [] {
    const char* s = std::getenv("MT_GEMM");
    std::string_view v = s ? s : "";
    if (v != "" && v != "own" && v != "cublaslt") throw std::runtime_error(text("MT_GEMM: expected own or cublaslt, but got \"", v, "\""));
    return v == "cublaslt";
  }();
  return yes;
}

#if defined(__linux__) && !defined(MT_CUDA_EMULATED)

// ---- the library's interface: versions 12 and 13 ----

using Handle = void*;
struct Algorithm { uint64_t data[8]; };
struct Found { Algorithm algorithm; size_t workspace; int status; float waves; int reserved[4]; };
static_assert(sizeof(Found) == 96);
enum : int { kF32 = 0, kBf16 = 14, kComputeF32 = 68, kTransposeA = 3, kTransposeB = 4, kWorkspaceBytes = 1, kReductions = 3, kReduceInF32 = 2, kAlignmentA = 5, kAlignmentD = 8 };

struct Library {
  int (*cublasLtCreate)(Handle*);
  int (*cublasLtMatmulDescCreate)(Handle*, int compute, int scale);
  int (*cublasLtMatmulDescSetAttribute)(Handle, int, const void*, size_t);
  int (*cublasLtMatrixLayoutCreate)(Handle*, int type, uint64_t rows, uint64_t cols, int64_t pitch);
  int (*cublasLtMatmulPreferenceCreate)(Handle*);
  int (*cublasLtMatmulPreferenceSetAttribute)(Handle, int, const void*, size_t);
  int (*cublasLtMatmulPreferenceDestroy)(Handle);
  int (*cublasLtMatmulAlgoGetHeuristic)(Handle, Handle operation, Handle a, Handle b, Handle c, Handle d, Handle preference, int wanted, Found*, int* found);
  int (*cublasLtMatmul)(Handle, Handle operation, const void* alpha, const void* a, Handle la, const void* b, Handle lb, const void* beta, const void* c, Handle lc, void* d, Handle ld,
                        const Algorithm*, void* workspace, size_t bytes, cudaStream_t);

  Library() {
    void* so = nullptr;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"})
      if (!so) so = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!so) throw std::runtime_error(text("MT_GEMM=cublaslt asks for cuBLASLt, which could not be opened: ", dlerror(), "; put it into LD_LIBRARY_PATH, or leave MT_GEMM out"));
    auto find = [so](auto& f, const char* name) {
      f = reinterpret_cast<std::remove_reference_t<decltype(f)>>(dlsym(so, name));
      if (!f) throw std::runtime_error(text("MT_GEMM=cublaslt: the library has no ", name));
    };
#define FIND(name) find(name, #name)
    FIND(cublasLtCreate);
    FIND(cublasLtMatmulDescCreate);
    FIND(cublasLtMatmulDescSetAttribute);
    FIND(cublasLtMatrixLayoutCreate);
    FIND(cublasLtMatmulPreferenceCreate);
    FIND(cublasLtMatmulPreferenceSetAttribute);
    FIND(cublasLtMatmulPreferenceDestroy);
    FIND(cublasLtMatmulAlgoGetHeuristic);
    FIND(cublasLtMatmul);
#undef FIND
  }
};

void require_done(int status, const char* what) {
  if (status) throw std::runtime_error(text("cuBLASLt: ", what, " failed with status ", status));
}

/// What is asked for once for every shape, and kept for the life of the process.
struct Call {
  Handle operation, a, b, c;
  Found found;
};

/// The library's matrices are column-major: a row-major c = a·b is its cᵀ = bᵀ·aᵀ.
Call prepare(const Library& lib, Handle handle, const Product& p) {
  constexpr uint64_t kWorkspace = 32 << 20;
  Call call{};
  require_done(lib.cublasLtMatmulDescCreate(&call.operation, kComputeF32, kF32), "a description");
  const int first = p.form == Form::nt, second = p.form == Form::tn;  // whether the library transposes b, a
  require_done(lib.cublasLtMatmulDescSetAttribute(call.operation, kTransposeA, &first, sizeof first), "a description");
  require_done(lib.cublasLtMatmulDescSetAttribute(call.operation, kTransposeB, &second, sizeof second), "a description");
  auto layout = [&](Handle* to, DType type, int64_t rows, int64_t cols) {
    require_done(lib.cublasLtMatrixLayoutCreate(to, type == DType::bf16 ? kBf16 : kF32, uint64_t(cols), uint64_t(rows), cols), "a layout");
  };
  layout(&call.a, p.a.type, p.a.rows, p.a.cols);
  layout(&call.b, p.b.type, p.b.rows, p.b.cols);
  layout(&call.c, p.type, p.m(), p.n());
  Handle preference;
  require_done(lib.cublasLtMatmulPreferenceCreate(&preference), "a preference");
  // Pieces of a sum are added in float32, in a step of their own, so that a rerun is equal to the bit.
  const uint32_t reductions = kReduceInF32, alignment = 16;
  require_done(lib.cublasLtMatmulPreferenceSetAttribute(preference, kWorkspaceBytes, &kWorkspace, sizeof kWorkspace), "a preference");
  require_done(lib.cublasLtMatmulPreferenceSetAttribute(preference, kReductions, &reductions, sizeof reductions), "a preference");
  for (int which = kAlignmentA; which <= kAlignmentD; ++which) require_done(lib.cublasLtMatmulPreferenceSetAttribute(preference, which, &alignment, sizeof alignment), "a preference");
  int count = 0;
  int status = lib.cublasLtMatmulAlgoGetHeuristic(handle, call.operation, call.b, call.a, call.c, call.c, preference, 1, &call.found, &count);
  lib.cublasLtMatmulPreferenceDestroy(preference);
  require_done(status ? status : call.found.status, "the choice of an algorithm");
  if (!count) throw std::runtime_error("cuBLASLt has no algorithm for a product; leave MT_GEMM out");
  return call;
}

#endif

}  // namespace

bool library_product(const Product& p) {
  if (!asked()) return false;
#if defined(__linux__) && !defined(MT_CUDA_EMULATED)
  auto aligned = [](const void* data, int64_t cols) { return cols % 8 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  static const Library lib;
  if (!p.narrow || p.a.rows <= kFewRows || p.bias || p.residual || p.gelu || p.a2.cols || p.a.type != DType::bf16 || p.b.type != DType::bf16 || !p.inner(p.a) || !aligned(p.a.data, p.a.cols) || !aligned(p.b.data, p.b.cols) ||
      !aligned(p.c, p.n()))
    return false;
  static std::mutex mutex;
  static std::map<int, Handle> handles;  // by device
  static std::map<std::tuple<int, Form, int64_t, int64_t, int64_t, DType>, Call> calls;
  std::unique_lock lock(mutex);
  const int device = current().device();
  Handle& handle = handles[device];
  if (!handle) require_done(lib.cublasLtCreate(&handle), "its start");
  const std::tuple key{device, p.form, p.m(), p.n(), p.inner(p.a), p.type};
  auto it = calls.find(key);
  if (it == calls.end()) it = calls.emplace(key, prepare(lib, handle, p)).first;
  const Call& call = it->second;
  lock.unlock();
  Scratch workspace(call.found.workspace);
  const float beta = 0;
  require_done(lib.cublasLtMatmul(handle, call.operation, &p.alpha, p.b.data, call.b, p.a.data, call.a, &beta, p.c, call.c, p.c, call.c, &call.found.algorithm, workspace.as<void>(), call.found.workspace,
                                  current_stream()),
               "a product");
  return true;
#else
  (void)p;
  throw std::runtime_error("MT_GEMM=cublaslt asks for cuBLASLt, which this build does not call; leave MT_GEMM out");
#endif
}

}  // namespace mt::cuda
