// Matrix products on a CUDA device, for every operator that contains one: all of them pass through matmul(), which
// asks cuBLASLt for large ones of bfloat16 where the library is found, and chooses one of the own kernels else.
//
//   c [m,n] = f(alpha·(a·b + factor·a2·b2) + bias [n] + residual [m,n]), f the identity or GELU
//
// How a and b lie in memory is the form: nt, a [m,k] and b [n,k]; nn, a [m,k] and b [k,n]; tn, a [k,m] and b [k,n]. The
// second pair, of the same form and an inner size of its own, is a low-rank update: more columns for the same sums, so
// that c is written once. Elements may be float32, bfloat16 or float16, each matrix as it likes; sums are float32.
#pragma once
#include <string>

#include "core/view.h"

namespace mt::cuda {

struct Matrix {
  const void* data = nullptr;
  DType type = DType::f32;
  int64_t rows = 0, cols = 0;  // row-major, rows behind each other
  int64_t padding = 0;         // zeros between them
  int64_t pitch() const { return cols + padding; }
};
inline void* address(const View& v) {
  return static_cast<char*>(v.storage->data()) + v.offset * int64_t(size_of(v.dtype));
}
/// v [..., width] as [rows, width].
inline Matrix matrix(const View& v) { return {address(v), v.dtype, v.rows(), v.size(-1)}; }

inline constexpr int kFewRows = 8;  // of activations: a's rows in every form

enum class Form { nt, nn, tn };

struct Matmul {
  Form form;
  Matrix a, b;
  void* c;
  DType type;  // of c: float32 or bfloat16
  /// Factors may be rounded to bfloat16, as activations are: tensor cores. Else, and where there are kFewRows at most,
  /// every product is formed in float32.
  bool narrow = false;
  const float* bias = nullptr;  // rounded as b is, where cuBLASLt adds it to bfloat16
  float alpha = 1;
  Matrix a2 = {}, b2 = {};
  float factor = 1;  // other than 1 only where a2 is float32
  // What else c is made of, in float32 before its one rounding: of a residual in the forms nt and nn, of a GELU in nt.
  const void* residual = nullptr;  // like c
  bool gelu = false;
  void* before = nullptr;  // like c: gets what GELU is applied to

  int64_t m() const { return form == Form::tn ? a.cols : a.rows; }
  int64_t n() const { return form == Form::nt ? b.rows : b.cols; }
  /// The inner size of a pair whose left matrix is x.
  int64_t inner(const Matrix& x) const { return form == Form::tn ? x.rows : x.cols; }
};

void matmul(const Matmul& p);

/// What computes large products of bfloat16: cuBLASLt or the own kernels, and why. MT_GEMM=own|cublaslt decides it,
/// else whether the library is found (kernels/cuda/cublaslt.h). Looks for it once.
struct MatmulChoice {
  bool library;
  std::string reason;
};
MatmulChoice matmul_choice();

}  // namespace mt::cuda
