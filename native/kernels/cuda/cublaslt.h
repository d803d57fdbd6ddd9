// cuBLASLt: the part of its interface that matrix products use, and where the library is searched for. It is opened at
// run time, so that neither its headers nor the library are needed to build or to run. Host code only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mt::cuda::cublaslt {

// ---- the interface: versions 12 and 13 (test/cuda/cublaslt/header.cc compares it with NVIDIA's header) ----

using Handle = void*;
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

enum Status : int { kSuccess = 0, kNotSupported = 15 };
enum DataType : int { kF32 = 0, kBf16 = 14 };
enum : int { kComputeF32 = 68 };
/// Attributes of a description: int32, int32, uint32, a pointer.
enum Description : int { kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBiasPointer = 8 };
enum Epilogue : uint32_t { kNoEpilogue = 1, kAddBias = 4 };
/// Attributes of a preference: the first uint64, the others uint32.
enum Preference : int { kWorkspaceBytes = 1, kReductions = 3, kAlignmentA = 5, kAlignmentB, kAlignmentC, kAlignmentD };
/// Pieces of a sum are stored in float32 and added in a separate step: a rerun gives the same bits.
enum Reduction : uint32_t { kReduceInF32 = 2 };

/// Every function that is called: f(name, result, parameters).
#define MT_CUBLASLT_FUNCTIONS(f)                                                                                      \
  f(cublasLtGetVersion, size_t, ()) f(cublasLtCreate, int, (Handle*))                                                 \
      f(cublasLtMatmulDescCreate, int, (Handle*, int compute, int scale))                                             \
          f(cublasLtMatmulDescSetAttribute, int, (Handle, int, const void*, size_t))                                  \
              f(cublasLtMatrixLayoutCreate, int, (Handle*, int type, uint64_t rows, uint64_t cols, int64_t pitch))    \
                  f(cublasLtMatmulPreferenceCreate, int, (Handle*))                                                   \
                      f(cublasLtMatmulPreferenceSetAttribute, int, (Handle, int, const void*, size_t))                \
                          f(cublasLtMatmulPreferenceDestroy, int, (Handle))                                           \
                              f(cublasLtMatmulAlgoGetHeuristic, int,                                                  \
                                (Handle, Handle operation, Handle a, Handle b, Handle c, Handle d, Handle preference, \
                                 int wanted, Heuristic*, int*))                                                       \
                                  f(cublasLtMatmul, int,                                                              \
                                    (Handle, Handle operation, const void* alpha, const void* a, Handle la,           \
                                     const void* b, Handle lb, const void* beta, const void* c, Handle lc, void* d,   \
                                     Handle ld, const Algorithm*, void* workspace, size_t bytes, void* stream))

struct Library {
#define MT_DECLARE(name, result, arguments) result(*name) arguments = nullptr;
  MT_CUBLASLT_FUNCTIONS(MT_DECLARE)
#undef MT_DECLARE
  std::string path;      // of the opened file
  std::string version;   // such as 13.1.0
  void* file = nullptr;  // from dlopen()
};

// ---- finding it ----

/// Files and names that may be the library, in the order in which they are tried. MT_CUBLASLT alone where it is set,
/// else
///   1. names, which the loader searches for
///   2. the CUDA toolkit: CUDA_HOME, CUDA_PATH, /usr/local/cuda*
///   3. Python's packages: VIRTUAL_ENV, CONDA_PREFIX, every python3 in the PATH, ~/.local, /usr/local, /usr
std::vector<std::string> candidates();

/// The first candidate that can be opened and has every function. Null where there is none, and `why` says so.
/// `required`: a symbol that the library must have as well; null: none.
const Library* open(std::string& why, const char* required = nullptr);

}  // namespace mt::cuda::cublaslt
