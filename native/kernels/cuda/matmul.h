// Matrix products on a CUDA device, for every operator that contains one. matmul() calls cuBLASLt for large products of
// bfloat16 where the library is found, and otherwise chooses a kernel of this folder.
//
//   c [m,n] = f(alpha·(a·b + factor·a2·b2) + bias [n] + residual [m,n]), f the identity or GELU
//
// The form says how a and b lie in memory:
//
//   nt   a [m,k], b [n,k]
//   nn   a [m,k], b [k,n]
//   tn   a [k,m], b [k,n]
//
// The second pair is a low-rank update, of the same form and with an inner size of its own: its terms are added to the
// same sums, so that c is written once. Each matrix is float32, bfloat16 or float16; sums are float32.
#pragma once
#include <string>

#include "core/quantised.h"
#include "core/view.h"

namespace mt::cuda {

struct Matrix {
  const void* data = nullptr;
  DType type = DType::f32;
  int64_t rows = 0, cols = 0;  // row-major
  int64_t padding = 0;         // zeros between one row and the next
  Quantised quantised = {};    // in place of data where the type says so: b of the forms nt and nn
  int64_t pitch() const { return cols + padding; }
};
/// Where a view begins; null where it is absent.
inline void* address(const View& v) {
  return v ? static_cast<char*>(v.storage->data()) + v.offset * int64_t(size_of(v.dtype)) : nullptr;
}
inline const float* numbers(const Maybe& v) { return v ? v.data<float>() : nullptr; }
/// v [..., width] as [rows, width].
inline Matrix matrix(const View& v) {
  if (is_quantised(v.dtype)) return {nullptr, v.dtype, v.size(0), v.size(1), 0, quantised(v)};
  return {address(v), v.dtype, v.rows(), v.size(-1)};
}

inline constexpr int kFewRows = 8;  // rows of a up to which a product counts as one of few rows

enum class Form { nt, nn, tn };

struct Matmul {
  Form form;
  Matrix a, b;
  void* c;
  DType type;  // of c: float32 or bfloat16
  /// Factors may be rounded to bfloat16, for tensor cores: activations are bfloat16. Otherwise, and with at most
  /// kFewRows rows, the arithmetic is float32.
  bool narrow = false;
  const float* bias = nullptr;  // cuBLASLt rounds it to bfloat16
  float alpha = 1;
  Matrix a2 = {}, b2 = {};
  float factor = 1;  // other than 1 only where a2 is float32
  // Applied in float32, before c is rounded: a residual in the forms nt and nn, GELU in nt.
  const void* residual = nullptr;  // like c
  bool gelu = false;
  void* before = nullptr;  // like c: gets the input of GELU

  int64_t m() const { return form == Form::tn ? a.cols : a.rows; }
  int64_t n() const { return form == Form::nt ? b.rows : b.cols; }
  /// The inner size of the pair whose left matrix is x.
  int64_t inner(const Matrix& x) const { return form == Form::tn ? x.rows : x.cols; }
};

void matmul(const Matmul& p);

/// c = a·b for activations: a, or in form tn both factors. Further terms may be set.
inline Matmul activations(Form form, const View& a, const View& b, const View& c) {
  return {
      .form = form, .a = matrix(a), .b = matrix(b), .c = address(c), .type = c.dtype, .narrow = a.dtype == DType::bf16};
}

/// Whether cuBLASLt computes large products of bfloat16, and why. MT_GEMM=own|cublaslt decides it; by default the
/// library is used where it is found (kernels/cuda/cublaslt.h). The search runs once.
struct MatmulChoice {
  bool library;
  std::string reason;
};
MatmulChoice matmul_choice();

}  // namespace mt::cuda
