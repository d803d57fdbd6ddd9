// cuBLASLt in place of the project's own kernels, for products of bfloat16 matrices with more than a few rows. The
// library adds a residual (beta = 1) and a bias. Its GELU is the approximation by tanh and is never used. Where GELU
// follows, or where there is a low-rank pair, the library computes a·b, and an own kernel the rest.
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string_view>
#include <tuple>

#include "core/error.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/matmul_tile.h"

#if defined(MT_CUDA_EMULATED) && defined(__linux__)
#include <dlfcn.h>
#endif

namespace mt::cuda {
namespace {

using namespace cublaslt;

// ---- the choice ----

struct Choice {
  const Library* library = nullptr;
  bool asked = false;  // whether a missing library is an error
  std::string reason, error;
  std::mutex mutex;     // protects `failure`
  std::string failure;  // the library's first failure, after which own kernels are used
};

#if defined(MT_CUDA_EMULATED)
// A library for real devices cannot use the emulator's streams. A library for the emulator exports this pointer to a
// function that puts its work into one.
constexpr const char* kRequired = "mt_emulator_enqueue";
using Enqueue = int (*)(void* stream, void (*run)(void*), void* argument, void (*release)(void*));
void connect(const Library& library) {
#if defined(__linux__)
  *static_cast<Enqueue*>(dlsym(library.file, kRequired)) = [](void* stream, void (*run)(void*), void* argument,
                                                              void (*release)(void*)) {
    std::shared_ptr<void> held(argument, release);
    return int(simt::enqueue(static_cast<cudaStream_t>(stream),
                             {dim3(1), dim3(1), 0, [=] { run(held.get()); }, std::source_location::current()}));
  };
#endif
}
#else
constexpr const char* kRequired = nullptr;
void connect(const Library&) {}
#endif

Choice& choice() {
  static Choice* made = [] {
    auto* c = new Choice;
    auto variable = [](const char* name) {
      const char* value = std::getenv(name);
      return std::string_view(value ? value : "");
    };
    const std::string_view gemm = variable("MT_GEMM"), file = variable("MT_CUBLASLT");
    c->asked = gemm == "cublaslt";
    if (gemm == "own") {
      c->reason = "MT_GEMM=own";
    } else if (!gemm.empty() && !c->asked) {
      c->error = text("MT_GEMM: expected own or cublaslt, but got \"", gemm, "\"");
    } else if (std::string why; !(c->library = open(why, kRequired))) {
      c->reason = why;
      if (!file.empty()) c->error = text("MT_CUBLASLT: expected the file of cuBLASLt 12 or 13, but ", why);
      else if (c->asked)
        c->error = text("MT_GEMM=cublaslt asks for cuBLASLt, which was not found: ", why,
                        "; name the file in MT_CUBLASLT, or leave MT_GEMM out");
    } else {
      connect(*c->library);
      c->reason = text("cuBLASLt ", c->library->version, ", ", c->library->path);
    }
    if (!c->error.empty()) c->reason = c->error;
    return c;
  }();
  return *made;
}

// ---- calls ----

/// A call that the library refused.
struct Refused {
  int status;
  const char* what;
};
void require_done(int status, const char* what) {
  if (status) throw Refused{status, what};
}
std::string sentence(const Refused& r) { return text("cuBLASLt: ", r.what, " failed with status ", r.status); }

/// What is created once for every shape, and lives as long as the process.
struct Call {
  bool supported = false;
  Handle operation, a, b, c;
  Heuristic found;
};

/// c [m,n] = alpha·a·b + bias [n] + beta·from, with bfloat16 factors.
struct Sums {
  Form form;
  Matrix a, b;
  void* c;
  DType type;
  const void* bias;  // like a row of c, or null
  const void* from;  // like c; may be c
  float alpha, beta;
  int64_t m, n, k;
};

constexpr uint32_t kAlignment = 16;

/// The library's matrices are column-major: a row-major c = a·b is its cᵀ = bᵀ·aᵀ, and a bias of c's columns is one of
/// its rows.
Call prepare(const Library& lib, Handle handle, const Sums& s) {
  constexpr uint64_t kWorkspace = 32 << 20;
  Call call{};
  auto type = [](DType t) { return int(t == DType::bf16 ? kBf16 : kF32); };
  auto describe = [&](int attribute, auto value) {
    require_done(lib.cublasLtMatmulDescSetAttribute(call.operation, attribute, &value, sizeof value), "a description");
  };
  require_done(lib.cublasLtMatmulDescCreate(&call.operation, kComputeF32, kF32), "a description");
  describe(kTransposeA, int32_t(s.form == Form::nt));
  describe(kTransposeB, int32_t(s.form == Form::tn));
  if (s.bias) {
    describe(kEpilogue, uint32_t(kAddBias));
    describe(kBiasPointer, s.bias);  // its alignment matters here; its elements have the type of c
  }
  auto layout = [&](Handle* to, const Matrix& x) {
    require_done(lib.cublasLtMatrixLayoutCreate(to, type(x.type), uint64_t(x.cols), uint64_t(x.rows), x.pitch()),
                 "a layout");
  };
  layout(&call.a, s.a);
  layout(&call.b, s.b);
  layout(&call.c, {s.c, s.type, s.m, s.n});
  Handle preference;
  require_done(lib.cublasLtMatmulPreferenceCreate(&preference), "a preference");
  auto prefer = [&](int attribute, auto value) {
    require_done(lib.cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "a preference");
  };
  prefer(kWorkspaceBytes, kWorkspace);
  prefer(kReductions, uint32_t(kReduceInF32));
  for (int which : {kAlignmentA, kAlignmentB, kAlignmentC, kAlignmentD}) prefer(which, kAlignment);
  int count = 0;
  const int status = lib.cublasLtMatmulAlgoGetHeuristic(handle, call.operation, call.b, call.a, call.c, call.c,
                                                        preference, 1, &call.found, &count);
  lib.cublasLtMatmulPreferenceDestroy(preference);
  require_done(status, "the choice of an algorithm");
  if (!count) throw Refused{kNotSupported, "the choice of an algorithm"};
  require_done(call.found.status, "the choice of an algorithm");
  call.supported = true;
  return call;
}

/// A matrix as the library can read it: a copy where it is not aligned, so that a matrix's address does not decide
/// which kernel computes.
class Aligned {
 public:
  Aligned(const void* data, size_t bytes)
      : moved_(reinterpret_cast<uintptr_t>(data) % kAlignment ? bytes : 0),
        data_(moved_.as<void>() ? moved_.as<void>() : data) {}
  void fill(const void* data, size_t bytes) {
    if (data_ != data)
      check(cudaMemcpyAsync(moved_.as<void>(), data, bytes, cudaMemcpyDeviceToDevice, current_stream()),
            "cudaMemcpyAsync");
  }
  const void* data() const { return data_; }

 private:
  Scratch moved_;
  const void* data_;
};
size_t bytes_of(const Matrix& x) { return size_t(x.rows * x.pitch()) * size_of(x.type); }

/// Computes s by the library. False where it does not support such a product, which own kernels then compute.
bool compute(const Library& lib, Sums s) {
  static std::mutex mutex;
  static std::map<int, Handle> handles;  // by device
  static std::map<std::tuple<int, Form, int64_t, int64_t, int64_t, int64_t, int64_t, DType, bool>, Call> calls;
  const int device = current().device();
  std::lock_guard lock(mutex);
  const std::tuple key{device, s.form, s.m, s.n, s.k, s.a.padding, s.b.padding, s.type, s.bias != nullptr};
  auto it = calls.find(key);
  try {
    if (it == calls.end()) {
      it = calls.emplace(key, Call{}).first;
      Handle& handle = handles[device];
      if (!handle) require_done(lib.cublasLtCreate(&handle), "its start");
      it->second = prepare(lib, handle, s);
    }
    const Call& call = it->second;
    if (!call.supported) return false;
    if (s.bias)
      require_done(lib.cublasLtMatmulDescSetAttribute(call.operation, kBiasPointer, &s.bias, sizeof s.bias),
                   "a description");
    const size_t all = size_t(s.m * s.n) * size_of(s.type);
    Aligned a(s.a.data, bytes_of(s.a)), b(s.b.data, bytes_of(s.b)), c(s.c, all),
        from(s.from == s.c ? c.data() : s.from, all);
    a.fill(s.a.data, bytes_of(s.a));
    b.fill(s.b.data, bytes_of(s.b));
    if (s.beta != 0 && s.from == s.c) c.fill(s.c, all);
    else if (s.beta != 0) from.fill(s.from, all);
    void* const to = const_cast<void*>(c.data());
    const Scratch workspace(call.found.workspace);
    const int status = lib.cublasLtMatmul(handles[device], call.operation, &s.alpha, b.data(), call.b, a.data(), call.a,
                                          &s.beta, s.beta != 0 ? from.data() : to, call.c, to, call.c,
                                          &call.found.algorithm, workspace.as<void>(), call.found.workspace,
                                          current_stream());
    if (status == kNotSupported) throw Refused{status, "a product"};
    if (status) throw std::runtime_error(text(sentence({status, "a product"}), "; MT_GEMM=own computes without it"));
    if (to != s.c) check(cudaMemcpyAsync(s.c, to, all, cudaMemcpyDeviceToDevice, current_stream()), "cudaMemcpyAsync");
    return true;
  } catch (const Refused& r) {
    it->second.supported = false;
    if (r.status == kNotSupported) return false;
    Choice& c = choice();
    if (c.asked) throw std::runtime_error(text(sentence(r), "; leave MT_GEMM out to go on without it"));
    std::lock_guard hold(c.mutex);
    if (c.failure.empty()) c.failure = sentence(r);
    return false;
  }
}

/// Whether the library may compute a product, by sizes and types alone. A product with few columns has a low-rank
/// factor: reading the other factor takes the time, which own kernels split between blocks. A bias is added to bfloat16
/// only.
bool fits(const Matmul& p) {
  constexpr int64_t kColumns = 32;
  return (!p.bias || p.type == DType::bf16) && p.a.type == DType::bf16 && p.b.type == DType::bf16 && p.inner(p.a) > 0 &&
         p.a.pitch() % 8 == 0 && p.b.pitch() % 8 == 0 && p.n() % 8 == 0 && p.n() > kColumns &&
         p.m() > (p.form == Form::tn ? kColumns : 0);
}

}  // namespace

MatmulChoice matmul_choice() {
  Choice& c = choice();
  std::lock_guard hold(c.mutex);
  return {c.library && c.error.empty(),
          c.failure.empty() ? c.reason : text(c.reason, "; own kernels where it failed: ", c.failure)};
}

void require_choice() {
  if (const Choice& c = choice(); !c.error.empty()) throw std::runtime_error(c.error);
}

bool library_matmul(const Matmul& p, const Plan& own) {
  if (!choice().library || !fits(p)) return false;
  const Library& lib = *choice().library;
  const int64_t m = p.m(), n = p.n(), k = p.inner(p.a);
  Sums sums{p.form, p.a, p.b, p.c, p.type, nullptr, nullptr, p.alpha, 0, m, n, k};
  switch (choose_way(m, n, {p.bias != nullptr, p.a2.cols > 0, p.gelu, int64_t(size_of(p.type))}, own)) {
    case Way::own: return false;
    case Way::direct: {
      const Packed bias({p.bias, DType::f32, 1, n}, p.bias != nullptr);
      sums.bias = bias.matrix().data;
      if (p.residual) sums.from = p.residual, sums.beta = 1;
      return compute(lib, sums);
    }
    case Way::onto: {
      Matmul rest = p;  // all terms but a·b
      if (p.form == Form::tn) rest.a.rows = rest.b.rows = 0;
      else rest.a.cols = rest.a.padding = 0, (p.form == Form::nt ? rest.b.cols : rest.b.rows) = 0;
      matmul(rest);
      sums.from = p.c;
      sums.beta = 1;
      return compute(lib, sums);  // where it returns false, c is computed again
    }
    case Way::sums: {
      const Scratch part(size_t(m * n) * sizeof(float));
      sums.c = part.as<void>();
      sums.type = DType::f32;
      sums.alpha = 1;
      if (!compute(lib, sums)) return false;
      finish(job(p), part.as<float>());
      return true;
    }
  }
  return false;
}

}  // namespace mt::cuda
