// Shapes and element types as JavaScript gives them.
#include <algorithm>

#include "binding/functions.h"
#include "core/quantised.h"

namespace mt::binding {

Integers integers(const Napi::Value& v, const char* function, int position) {
  Integers out;
  const auto counted = [&](size_t n) {
    require(n <= kMaxRank, "argument ", position + 1, ": expected at most ", kMaxRank, " dimensions, but got ", n, ".");
    out.count = int(n);
  };
  napi_typedarray_type type;
  size_t length;
  void* data;
  if (napi_get_typedarray_info(v.Env(), v, &type, &length, &data, nullptr, nullptr) == napi_ok &&
      type == napi_float64_array) {
    counted(length);
    for (int i = 0; i < out.count; ++i)
      out.at[i] = Decoder<int64_t>::integer(static_cast<const double*>(data)[i], v.Env(), function, position);
    return out;
  }
  if (!v.IsArray()) refuse(v, function, position, "an array of integers");
  auto a = v.As<Napi::Array>();
  counted(a.Length());
  for (int i = 0; i < out.count; ++i) out.at[i] = Decoder<int64_t>::decode(a.Get(uint32_t(i)), function, position);
  return out;
}

DType dtype_argument(const Napi::Value& v, const char* function, int position) {
  if (v.IsNumber()) {
    const int64_t number = Decoder<int64_t>::decode(v, function, position);
    constexpr auto count = int64_t(std::size(dtype_names));
    require(number >= 0 && number < count, "dtype: expected 0 to ", count - 1, ", but got ", number, ".");
    return DType(number);
  }
  if (!v.IsString()) refuse(v, function, position, "a dtype name");
  return dtype_of(v.As<Napi::String>().Utf8Value());
}

View shaped(const int64_t* shape, int rank, DType dtype) {
  if (is_quantised(dtype)) require_quantised_shape(shape, rank, dtype);
  View v;
  v.dtype = dtype;
  v.rank = rank;
  int64_t n = 1;
  for (int i = v.rank - 1; i >= 0; --i) {
    require(shape[i] >= 0, "shape: expected sizes of 0 or more, but got ", shape[i], ".");
    v.shape[i] = shape[i];
    v.stride[i] = n;
    // Sizes of 0 are left out, so that no product of the others overflows either.
    int64_t size = std::max<int64_t>(shape[i], 1);
    require(n <= kMostElements / size, "shape: expected at most 2^46 elements, but got ", shape_text(shape, v.rank),
            ".");
    n *= size;
  }
  return v;
}

}  // namespace mt::binding
