// Compares kernels/cuda/cublaslt.h with NVIDIA's header: this file compiles only where they agree.
#include <cublasLt.h>

#include "kernels/cuda/cublaslt.h"

namespace lt = mt::cuda::cublaslt;

static_assert(CUBLAS_STATUS_SUCCESS == lt::kSuccess && CUBLAS_STATUS_NOT_SUPPORTED == lt::kNotSupported);
static_assert(CUDA_R_32F == lt::kF32 && CUDA_R_16BF == lt::kBf16 && CUBLAS_COMPUTE_32F == lt::kComputeF32);
static_assert(CUBLASLT_MATMUL_DESC_TRANSA == lt::kTransposeA && CUBLASLT_MATMUL_DESC_TRANSB == lt::kTransposeB);
static_assert(CUBLAS_OP_N == 0 && CUBLAS_OP_T == 1);
static_assert(CUBLASLT_MATMUL_DESC_EPILOGUE == lt::kEpilogue && CUBLASLT_MATMUL_DESC_BIAS_POINTER == lt::kBiasPointer);
static_assert(CUBLASLT_EPILOGUE_DEFAULT == lt::kNoEpilogue && CUBLASLT_EPILOGUE_BIAS == lt::kAddBias);
static_assert(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES == lt::kWorkspaceBytes &&
              CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK == lt::kReductions);
static_assert(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE == lt::kReduceInF32);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES == lt::kAlignmentA &&
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES == lt::kAlignmentB);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES == lt::kAlignmentC &&
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES == lt::kAlignmentD);
static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(lt::Algorithm));
static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == sizeof(lt::Heuristic));
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) == offsetof(lt::Heuristic, workspace));
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, state) == offsetof(lt::Heuristic, status));

/// Both declare the same number of parameters, each passed in a register of the same kind.
template <typename T>
constexpr bool whole = std::is_pointer_v<T> || std::is_integral_v<T> || std::is_enum_v<T>;
template <typename R, typename... A, typename Q, typename... B>
constexpr bool alike(R (*)(A...), Q (*)(B...)) {
  if constexpr (sizeof...(A) != sizeof...(B)) return false;
  else
    return sizeof(R) == sizeof(Q) &&
           ((sizeof(A) == sizeof(B) && whole<A> && whole<B> && std::is_pointer_v<A> == std::is_pointer_v<B>) && ...);
}
#define CHECK(name, result, arguments)                                                                             \
  static_assert(alike(static_cast<decltype(&::name)>(nullptr), static_cast<decltype(lt::Library::name)>(nullptr)), \
                #name);
MT_CUBLASLT_FUNCTIONS(CHECK)
