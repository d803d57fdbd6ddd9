#include "ops/quantize.h"

#include <vector>

#include "core/parallel.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/quantised.h"

namespace mt {

// ---- checks ----

namespace {
void require_quantised(const View& v, const char* what) {
  require(is_quantised(v.dtype), what, ": expected dtype int8 or nf4, but got ", name(v.dtype), ".");
}
}  // namespace

void check_quantize(const Views& ws, Out out) {
  require_quantised(out, "out");
  require(is_whole(out), "out: expected a whole matrix of dtype ", name(out.dtype), ", but got some of its rows.");
  require(!ws.empty(), "ws: expected one matrix or more, but got none.");
  int64_t rows = 0;
  for (size_t i = 0; i < ws.size(); ++i) {
    const View& w = ws[i];
    require(w.dtype == DType::f32 || w.dtype == DType::bf16 || w.dtype == DType::f16,
            "ws: expected dtype float32, bfloat16 or float16, but got ", name(w.dtype), ".");
    require_rank(w, "ws", 2);
    require_contiguous(w, "ws");
    require(w.size(1) == out.size(1), "ws: expected matrices of ", out.size(1), " columns, as out has, but got shape ",
            shape_text(w), ".");
    require(out.dtype == DType::i8 || i + 1 == ws.size() || w.numel() % kGroupElements == 0,
            "ws: expected a multiple of ", kGroupElements, " elements before another matrix, but got shape ",
            shape_text(w), ".");
    require(!w.storage->device().decided() || w.storage->device() == cpu_device,
            "ws: expected a matrix on the CPU, but got one on ", w.storage->device(), "; move it with to().");
    rows += w.size(0);
  }
  require_shape(out, "out", {rows, out.size(1)});
  require(!out.storage->device().decided() || out.storage->device() == cpu_device,
          "out: expected a matrix on the CPU, but got one on ", out.storage->device(), ".");
}
void check_dequantize(const View& q, Out w) {
  require_quantised(q, "q");
  require_dense(w, "w");
  require_same_shape(w, "w", q, "q");
}

// ---- CPU ----

namespace cpu {

void quantize(const Views& ws, Out out) {
  std::vector<kernels::Source> sources;
  for (const View& w : ws) sources.push_back({first_of(w), w.dtype, w.size(0)});
  std::memset(out.storage->data(), 0, out.storage->bytes());  // what lies between the parts as well
  kernels::quantise(sources.data(), sources.size(), quantised(out));
}

void dequantize(const View& q, Out w) {
  const Quantised m = quantised(q);
  parallel_for(m.rows, m.width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) kernels::dequantise(m, r, 0, m.width, w.data<float>() + r * m.width);
  });
}

}  // namespace cpu
}  // namespace mt
