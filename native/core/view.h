// An operator's view of a tensor: memory, element type, shape and strides. Cheap to copy; holding one keeps the memory
// alive.
#pragma once
#include <algorithm>
#include <memory>
#include <string>

#include "core/dtype.h"
#include "core/storage.h"

namespace mt {

inline constexpr int kMaxRank = 6;

struct View {
  std::shared_ptr<Storage> storage;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};  // in elements; 0 repeats
  int64_t offset = 0;             // in elements

  /// False for an optional argument that was not given.
  explicit operator bool() const { return storage != nullptr; }

  template <typename T>
  T* data() const {
    return static_cast<T*>(storage->data()) + offset;
  }
  /// Size of dimension i; negative counts from the end.
  int64_t size(int i) const { return shape[i < 0 ? rank + i : i]; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  /// Product of all dimensions but the last: the rows of a matrix or normalisation.
  int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank; ++i) n *= shape[i];
    return n;
  }
  /// Whether the elements are contiguous in row-major order; true for an empty view.
  bool contiguous() const {
    if (!numel()) return true;
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
  /// The pitch: elements from one row to the next where each row is contiguous and all are evenly spaced, as in columns
  /// of a matrix; else −1. For a contiguous tensor it is the length of a row.
  int64_t pitch() const {
    if (contiguous() || rank == 0) return rank ? shape[rank - 1] : 1;
    if (shape[rank - 1] != 1 && stride[rank - 1] != 1) return -1;
    int64_t apart = 0,
            next = 0;  // of the dimensions so far: the pitch, and the stride that the next outer dimension must have
    for (int i = rank - 2; i >= 0; --i) {
      if (shape[i] == 1) continue;
      if (!apart) apart = stride[i];
      else if (stride[i] != next) return -1;
      next = stride[i] * shape[i];
    }
    return apart ? apart : shape[rank - 1];
  }
  bool same_shape(const View& other) const {
    if (rank != other.rank) return false;
    for (int i = 0; i < rank; ++i)
      if (shape[i] != other.shape[i]) return false;
    return true;
  }
};

/// An optional argument.
struct Maybe : View {};
/// A result: allocated by the queue before the operator runs; its old content is ignored.
struct Out : View {};
/// An optional result.
struct MaybeOut : View {};
/// Read and written in place.
struct InOut : View {};

// The same for activations, which are float32, or bfloat16 all of an operator's. Checks see them as float32. Where an
// operator's header names no dtype, an activation is one of these two and every other tensor float32.
struct Act : View {};
struct MaybeAct : Maybe {};
struct ActOut : Out {};
struct MaybeActOut : MaybeOut {};
struct ActInOut : InOut {};

/// A parameter's type, and whether it is an activation's. `Float32` is what it is to a twin that knows float32 alone.
template <typename T>
struct Parameter {
  using Float32 = T;
  static constexpr bool activation = false;
};
template <typename Plain>
struct Activation {
  using Float32 = Plain;
  static constexpr bool activation = true;
};
template <> struct Parameter<Act> : Activation<View> {};
template <> struct Parameter<MaybeAct> : Activation<Maybe> {};
template <> struct Parameter<ActOut> : Activation<Out> {};
template <> struct Parameter<MaybeActOut> : Activation<MaybeOut> {};
template <> struct Parameter<ActInOut> : Activation<InOut> {};
template <typename T>
struct Parameter<const T&> : Parameter<T> {
  using Float32 = const typename Parameter<T>::Float32&;
};

/// A shape for a message: text is made of it only where the message is printed. Refers to the numbers.
struct ShapeText {
  const int64_t* shape;
  int rank;
  friend std::ostream& operator<<(std::ostream& to, ShapeText s) {
    for (int i = 0; i < s.rank; ++i) to << (i ? "," : "[") << s.shape[i];
    return to << (s.rank ? "]" : "[]");
  }
};
inline ShapeText shape_text(const int64_t* shape, int rank) { return {shape, rank}; }
inline ShapeText shape_text(const View& v) { return {v.shape, v.rank}; }

// ---- checks: each names the argument, what was expected and what came ----

inline void require_dtype(const View& v, const char* what, DType t) {
  require(v.dtype == t, what, ": expected dtype ", name(t), ", but got ", name(v.dtype), ".");
}
inline void require_contiguous(const View& v, const char* what) {
  require(v.contiguous(), what, ": expected a contiguous tensor, but got strides for shape ", shape_text(v),
          "; call contiguous() first.");
}
inline void require_rank(const View& v, const char* what, int rank) {
  require(v.rank == rank, what, ": expected ", rank, " dimensions, but got shape ", shape_text(v), ".");
}
inline void require_shape(const View& v, const char* what, std::initializer_list<int64_t> shape) {
  bool ok = v.rank == int(shape.size()) && std::equal(shape.begin(), shape.end(), v.shape);
  require(ok, what, ": expected shape ", shape_text(shape.begin(), int(shape.size())), ", but got ", shape_text(v),
          ".");
}
inline void require_same_shape(const View& v, const char* what, const View& other, const char* whose) {
  require(v.same_shape(other), what, ": expected the shape of ", whose, ", ", shape_text(other), ", but got ",
          shape_text(v), ".");
}
/// float32, rows contiguous and evenly spaced.
inline void require_pitched(const View& v, const char* what) {
  require_dtype(v, what, DType::f32);
  require(v.pitch() >= 0, what, ": expected contiguous rows that are evenly spaced, but got strides for shape ",
          shape_text(v), "; call contiguous() first.");
}
/// float32 and contiguous: the requirement of most operators.
inline void require_dense(const View& v, const char* what) {
  require_dtype(v, what, DType::f32);
  require_contiguous(v, what);
}

}  // namespace mt
