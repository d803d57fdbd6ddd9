// Frozen matrices in 8 and 4 bits: how one lies in memory, the same on every device and in files, and what its numbers
// stand for (docs/weights.md). The parts lie behind each other, each from a multiple of 64 bytes on:
//
//   int8  codes [N,K] int8, 0 in columns that are kept · scales [N] float32 · columns [C] int32, ascending ·
//         kept [N,C] bfloat16, C = ⌈K/128⌉
//   nf4   codes, two in a byte, the first in the upper half · blocks [⌈NK/64⌉] uint8 · groups [⌈NK/16384⌉] · what
//         codes stand for: of blocks [256] float32, of numbers [16] float32
//
// Rows from a multiple of kGroupElements on are a matrix of their own in the same memory, so that one product computes
// several.
#pragma once
#include <cstring>

#include "core/round.h"
#include "core/view.h"

namespace mt {

inline constexpr int64_t kColumnsPerKept = 128;  // int8: one column of so many stays bfloat16
inline constexpr int64_t kBlockElements = 64;    // nf4: of one scale
inline constexpr int64_t kGroupBlocks = 256;     // nf4: scales that are quantised together
inline constexpr int64_t kGroupElements = kBlockElements * kGroupBlocks;

/// A scale of group g is map[code]·g.scale + g.offset.
struct ScaleGroup {
  float scale, offset;
};

/// A quantised matrix [rows, width], wherever its memory lies.
struct Quantised {
  DType dtype;
  int64_t rows, width;
  const uint8_t* codes;
  // int8
  const float* scales;
  const int32_t* columns;
  const bf16* kept;
  int64_t kept_columns;
  // nf4
  const uint8_t* blocks;
  const ScaleGroup* groups;
  const float *map, *levels;
};

/// Bytes from the start of a matrix to each of its parts, and to its end.
struct QuantisedLayout {
  size_t second, third, fourth, end;
};
inline int64_t kept_columns(int64_t width) { return ceil_div(width, kColumnsPerKept); }
inline QuantisedLayout quantised_layout(DType t, int64_t rows, int64_t width) {
  auto after = [](size_t from, int64_t bytes) { return round_up(from + size_t(bytes), size_t(64)); };
  const int64_t n = rows * width;
  QuantisedLayout l{};
  if (!n) return l;
  if (t == DType::i8) {
    l.second = after(0, n);
    l.third = after(l.second, rows * int64_t(sizeof(float)));
    l.fourth = after(l.third, kept_columns(width) * int64_t(sizeof(int32_t)));
    l.end = after(l.fourth, rows * kept_columns(width) * int64_t(sizeof(bf16)));
  } else {
    l.second = after(0, ceil_div(n, int64_t(2)));
    l.third = after(l.second, ceil_div(n, kBlockElements));
    l.fourth = after(l.third, ceil_div(n, kGroupElements) * int64_t(sizeof(ScaleGroup)));
    l.end = after(l.fourth, (256 + 16) * int64_t(sizeof(float)));
  }
  return l;
}

/// Bytes of a contiguous tensor of that shape and dtype.
inline size_t bytes_of(const View& shape) {
  return is_quantised(shape.dtype) ? quantised_layout(shape.dtype, shape.shape[0], shape.shape[1]).end
                                   : size_t(shape.numel()) * size_of(shape.dtype);
}

/// The matrix that a view shows: all rows of its storage, or some as the layout allows.
inline Quantised quantised(const View& v) {
  const int64_t width = v.shape[1], first = v.offset, all = v.storage->elements() / std::max<int64_t>(width, 1);
  const QuantisedLayout l = quantised_layout(v.dtype, all, width);
  const auto* base = static_cast<const uint8_t*>(v.storage->data());
  Quantised q{};
  q.dtype = v.dtype;
  q.rows = v.shape[0];
  q.width = width;
  if (v.dtype == DType::i8) {
    const int64_t row = first / std::max<int64_t>(width, 1);
    q.codes = base + first;
    q.kept_columns = kept_columns(width);
    q.scales = reinterpret_cast<const float*>(base + l.second) + row;
    q.columns = reinterpret_cast<const int32_t*>(base + l.third);
    q.kept = reinterpret_cast<const bf16*>(base + l.fourth) + row * q.kept_columns;
  } else {
    q.codes = base + first / 2;
    q.blocks = base + l.second + first / kBlockElements;
    q.groups = reinterpret_cast<const ScaleGroup*>(base + l.third) + first / kGroupElements;
    q.map = reinterpret_cast<const float*>(base + l.fourth);
    q.levels = q.map + 256;
  }
  return q;
}

/// Whether a view shows all of its storage.
inline bool is_whole(const View& v) { return v.offset == 0 && v.numel() == v.storage->elements(); }

// ---- checks ----

inline void require_quantised_shape(const int64_t* shape, int rank, DType t) {
  require(rank == 2, "shape: expected 2 dimensions for ", name(t), ", but got ", shape_text(shape, rank), ".");
}
/// Columns that are kept, of a matrix whose bytes came from outside: kernels use them as indices.
inline void require_columns(const View& v) {
  if (v.dtype != DType::i8 || !v.numel()) return;
  const Quantised q = quantised(v);
  for (int64_t i = 0; i < q.kept_columns; ++i)
    require(q.columns[i] >= (i ? q.columns[i - 1] + 1 : 0) && q.columns[i] < q.width,
            "expected columns of a matrix in ascending order in its bytes, but got ", q.columns[i], " of ", q.width,
            "; they are damaged, quantize() the weight again.");
}

/// The 16 levels of NF4: quantiles of the normal distribution, 0 among them.
inline constexpr float kNf4Levels[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/// What divides them: the midpoints of neighbours, which belong to the lower one.
inline constexpr float kNf4Edges[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,   -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
    -0.13791173323988914f, -0.045525018125772475f, 0.03979014977812767f, 0.1202552504837513f,   0.2035212516784668f,
    0.2920137718319893f,   0.3893125355243683f,    0.5016634166240692f,  0.6427869200706482f,   0.8614784181118011f,
};

/// The 256 values of the dynamic map by which scales are quantised, ascending: 0, 1, and ± the midpoints of 2^i equal
/// parts of [0.1, 1] times 10^(i-6), i = 0 … 6. Every step is rounded to float32, as PyTorch's linspace has it.
const float* dynamic_map();

}  // namespace mt
