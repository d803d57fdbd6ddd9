#include "kernels/cpu/quantised.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/parallel.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own intrinsics' undefined operands
#endif
#define MT_EACH_ISA "kernels/cpu/quantised_rows.h"
#include "kernels/cpu/each_isa.h"

namespace mt::kernels {

void dequantise(const Quantised& q, int64_t row, int64_t col, int64_t n, float* to) {
  MT_FOR_ISA(dequantise_row)(q, row, col, n, to);
}
void in_order_of_codes(const Quantised& q, const float* from, float* to) { MT_FOR_ISA(in_order_of_codes)(q, from, to); }
void quantised_dots(const Quantised& q, int64_t row, int64_t columns, const float* x, int64_t apart, int64_t rows,
                    float* scratch, float* sums) {
  MT_FOR_ISA(quantised_dots)(q, row, columns, x, apart, rows, scratch, sums);
}
int64_t dots_scratch(const Quantised& q) { return q.width + 4; }

namespace {

constexpr int64_t kPiece = 4096;  // numbers that are widened at a time
constexpr int64_t kCost = 8;      // scalar operations per number

/// Numbers from `first` on as float32.
void widen(const Source& s, int64_t first, int64_t n, float* to) {
  if (s.dtype == DType::f32) std::copy_n(static_cast<const float*>(s.data) + first, n, to);
  else if (s.dtype == DType::bf16) MT_FOR_ISA(widen_row)(static_cast<const bf16*>(s.data) + first, to, n);
  else
    std::transform(static_cast<const f16*>(s.data) + first, static_cast<const f16*>(s.data) + first + n, to,
                   [](f16 x) { return float(x); });
}

template <typename T>
T* writable(const T* p) {
  return const_cast<T*>(p);
}

// ---- int8 ----

/// Calls f(row of the whole, its numbers, a thread's scratch) for all rows.
template <typename F>
void each_row(const Source* sources, size_t count, int64_t width, F f) {
  for (int64_t first = 0; count--; first += sources++->rows)
    parallel_for(sources->rows, width * kCost, [&](int64_t begin, int64_t end) {
      std::vector<float> row(static_cast<size_t>(width));
      for (int64_t r = begin; r < end; ++r) {
        widen(*sources, r * width, width, row.data());
        f(first + r, row.data());
      }
    });
}

/// The columns that stand out, ascending: those with the largest of |w| ÷ the root of its row's mean square. Of equal
/// ones the first.
std::vector<int32_t> outlying(const Source* sources, size_t count, const Quantised& to) {
  std::vector<float> inverse(size_t(to.rows));
  each_row(sources, count, to.width, [&](int64_t r, const float* row) {
    double squares = 0;
    for (int64_t i = 0; i < to.width; ++i) squares += double(row[i]) * row[i];
    inverse[size_t(r)] = squares != 0 ? float(1 / std::sqrt(squares / double(to.width))) : 0;
  });
  std::vector<float> most(size_t(to.width));
  constexpr int64_t kStrip = 512;
  parallel_for(ceil_div(to.width, kStrip), to.rows * kStrip * kCost, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * kStrip, n = std::min(to.width, end * kStrip) - from;
    std::vector<float> row(static_cast<size_t>(n));
    int64_t whole = 0;
    for (const Source* s = sources; s != sources + count; ++s)
      for (int64_t r = 0; r < s->rows; ++r, ++whole) {
        widen(*s, r * to.width + from, n, row.data());
        MT_FOR_ISA(raise)(row.data(), inverse[size_t(whole)], n, most.data() + from);
      }
  });
  std::vector<int32_t> columns(size_t(to.width));
  std::iota(columns.begin(), columns.end(), 0);
  std::stable_sort(columns.begin(), columns.end(),
                   [&](int32_t a, int32_t b) { return most[size_t(a)] > most[size_t(b)]; });
  columns.resize(size_t(to.kept_columns));
  std::sort(columns.begin(), columns.end());
  return columns;
}

void int8(const Source* sources, size_t count, const Quantised& to) {
  const std::vector<int32_t> columns = outlying(sources, count, to);
  std::copy(columns.begin(), columns.end(), writable(to.columns));
  each_row(sources, count, to.width, [&](int64_t r, float* row) {
    bf16* kept = writable(to.kept) + r * to.kept_columns;
    for (int32_t c : columns) *kept++ = bf16(row[c]), row[c] = 0;
    const float most = MT_FOR_ISA(largest)(row, to.width), step = most == 0 ? 127 : most;
    writable(to.scales)[r] = step / 127;
    MT_FOR_ISA(int8_codes)(row, step, to.width, reinterpret_cast<int8_t*>(writable(to.codes)) + r * to.width);
  });
}

// ---- nf4 ----

/// The number of the value of the map that is nearest, of two the lower.
uint8_t nearest(const float* map, float x) {
  const auto above = std::lower_bound(map, map + 256, x) - map;
  if (above == 0) return 0;
  if (above == 256) return 255;
  return uint8_t(map[above] - x < x - map[above - 1] ? above : above - 1);
}

void nf4(const Source& s, int64_t width, const Quantised& to) {
  const int64_t n = s.rows * width, blocks = ceil_div(n, kBlockElements), groups = ceil_div(n, kGroupElements);
  std::vector<float> largest(static_cast<size_t>(blocks));
  constexpr int64_t kBlocks = kPiece / kBlockElements;
  parallel_for(ceil_div(blocks, kBlocks), kPiece * kCost, [&](int64_t begin, int64_t end) {
    float numbers[kPiece];
    uint8_t codes[kPiece + 1];
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece * kPiece, held = std::min(kPiece, n - first);
      widen(s, first, held, numbers);
      for (int64_t i = 0; i < held; i += kBlockElements) {
        const int64_t size = std::min(kBlockElements, held - i);
        const float most = MT_FOR_ISA(largest)(numbers + i, size);
        largest[size_t((first + i) / kBlockElements)] = most;
        MT_FOR_ISA(nf4_codes)(numbers + i, most == 0 ? 0 : 1 / most, size, codes + i);
      }
      codes[held] = 0;
      uint8_t* out = writable(to.codes) + first / 2;
      for (int64_t i = 0; i < held; i += 2) out[i / 2] = uint8_t(codes[i] << 4 | codes[i + 1]);
    }
  });
  const float mean = float(std::accumulate(largest.begin(), largest.end(), 0.0) / double(blocks));
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first = g * kGroupBlocks, last = std::min(blocks, first + kGroupBlocks);
    float scale = 0;
    for (int64_t i = first; i < last; ++i) scale = std::max(scale, std::fabs(largest[size_t(i)] - mean));
    writable(to.groups)[g] = {scale, mean};
    for (int64_t i = first; i < last; ++i)
      writable(to.blocks)[i] = nearest(to.map, scale > 0 ? (largest[size_t(i)] - mean) / scale : 0);
  }
}

}  // namespace

void quantise(const Source* sources, size_t count, const Quantised& to) {
  if (to.dtype == DType::i8) return int8(sources, count, to);
  std::copy_n(dynamic_map(), 256, writable(to.map));
  std::copy_n(kNf4Levels, 16, writable(to.levels));
  Quantised part = to;
  for (const Source* s = sources; s != sources + count; ++s) {
    part.rows = s->rows;
    if (s->rows) nf4(*s, to.width, part);
    const int64_t n = s->rows * to.width;
    part.codes += n / 2, part.blocks += n / kBlockElements, part.groups += n / kGroupElements;
  }
}

}  // namespace mt::kernels
