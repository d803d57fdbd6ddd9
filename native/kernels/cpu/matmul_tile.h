// The register tile of the matrix product; included like vec.h, after it.

namespace {

using kernels::kMaxRows;
using kernels::Target;
using kernels::Tile;

/// Rows of a tile: with two vectors a row, the sums and operands fill the registers.
constexpr int kTileRows = kLanes == 16 ? 14 : kRegisters == 32 ? 12 : kLanes == 8 ? 6 : 4;

/// Prefetches memory that is read soon; hardware does not predict it, since rows lie pages apart.
template <typename T>
inline void ahead([[maybe_unused]] const T* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#endif
}

/// Prefetches a tile's next operands to the first-level cache.
template <typename T>
inline void prefetch_panel([[maybe_unused]] const T* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 3);
#endif
}

inline void prefetch_result([[maybe_unused]] const float* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 1, 3);
#endif
}

// ---- tile: R rows times C vectors, all sums in registers ----

/// One product of two vectors, added to a third.
struct Fma {
  static inline vec of(vec sum, vec left, vec right) { return fma(left, right, sum); }
};

/// sum[i] += left(i)·right for R rows, the word of each `at` words behind where its pointer stands.
template <typename Multiply, int R, int C>
inline void add_products(vec (&sum)[R][C], const float* const* p, int64_t row, int64_t at, const vec (&right)[C]) {
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    vec left = splat(p[i / 3][(i % 3) * row + at]);
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) sum[i][v] = Multiply::of(sum[i][v], left, right[v]);
  }
}

/// The steps of a tile by what its panels hold: next() adds the products of one row of the panel, `step` words of the
/// left factor. Words: float32, or as Multiply interprets them.
template <typename Multiply>
struct Words {
  static constexpr int step = 1;
  /// The products of one word of each lane's column.
  static inline vec add(vec sum, const float* left, vec words) { return Multiply::of(sum, splat(*left), words); }
  template <int R, int C>
  static inline void next(vec (&sum)[R][C], const float* const* p, int64_t row, int64_t, const float* b, bool) {
    vec right[C];
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = load(b + v * kLanes);
    add_products<Multiply, R, C>(sum, p, row, 0, right);
  }
};
/// Pairs of 16-bit numbers by float32. First all lower halves, then all upper ones: both at a time would exceed the
/// registers.
template <typename Half>
struct Pairs {
  static constexpr int step = 2;
  static inline vec add(vec sum, const float* left, vec words) {
    return fma(splat(left[1]), high(as_int(words), Half{}), fma(splat(left[0]), low(as_int(words), Half{}), sum));
  }
  template <int R, int C>
  static inline void next(vec (&sum)[R][C], const float* const* p, int64_t row, int64_t col, const float* b,
                          bool both) {
    const int32_t* pairs = reinterpret_cast<const int32_t*>(b);
    vec right[C];
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = low(load(pairs + v * kLanes), Half{});
    add_products<Fma, R, C>(sum, p, row, 0, right);
    if (!both) return;
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) right[v] = high(load(pairs + v * kLanes), Half{});
    add_products<Fma, R, C>(sum, p, row, col, right);
  }
};

/// c = alpha·sum + bias, plus c where `add`.
template <int R, int C>
inline void put(const vec (&sum)[R][C], const Target& out) {
  vec alpha = splat(out.alpha);
#pragma GCC unroll 16
  for (int v = 0; v < C; ++v) {
    int n = out.columns - v * kLanes;
    if (n >= kLanes) {
      vec bias = out.bias ? load(out.bias + v * kLanes) : splat(0);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        float* c = out.c + i * out.ldc + v * kLanes;
        vec base = out.add ? load(c) + bias : bias;
        store(c, fma(alpha, sum[i][v], base));
      }
    } else if (n > 0) {
      vec bias = out.bias ? load_part(out.bias + v * kLanes, n) : splat(0);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        float* c = out.c + i * out.ldc + v * kLanes;
        vec base = out.add ? load_part(c, n) + bias : bias;
        store_part(c, fma(alpha, sum[i][v], base), n);
      }
    }
  }
}

template <typename Steps, int R, int C>
void tile(int64_t k, const float* a, int64_t row, int64_t col, const float* b, int64_t ldb, const Target& out) {
  vec sum[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) sum[i][v] = splat(0);
  // Three rows share a pointer: base, base + row, base + 2·row are addresses that an x86 instruction forms by itself.
  const float* p[(R + 2) / 3];
#pragma GCC unroll 16
  for (int i = 0; i < (R + 2) / 3; ++i) p[i] = a + 3 * i * row;
  // Prefetches the result's cache lines while the sums are formed.
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < C; ++v) prefetch_result(out.c + i * out.ldc + v * kLanes);
  const float* next = out.next;
  const int64_t leap = out.leap - out.every * out.pace;
  int64_t turn = out.every;
  for (int64_t x = 0; x < k; x += Steps::step) {
    prefetch_panel(next);
    next += out.pace;
    if (--turn == 0) next += leap, turn = out.every;
    Steps::template next<R, C>(sum, p, row, col, b, x + 1 < k);
#pragma GCC unroll 16
    for (int i = 0; i < (R + 2) / 3; ++i) p[i] += Steps::step * col;
    b += ldb;
  }
  put(sum, out);
}

/// One row by columns that lie as rows in memory, `across` words apart: the bits of a tile by their panel, which is
/// made in registers alone.
template <typename Steps>
void one_row(int64_t words, const float* a, const float* b, int64_t across, const Target& out) {
  vec sum[1][2] = {{splat(0), splat(0)}};
  const float* next = out.next;
  for (int64_t x = 0; x < words; x += kLanes) {
    const int wide = int(words - x < kLanes ? words - x : kLanes);
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const int columns = out.columns - v * kLanes;
      const float* from = b + v * kLanes * across + x;
      vec block[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) {
        block[r] = r >= columns     ? splat(0)
                   : wide == kLanes ? load(from + r * across)
                                    : load_part(from + r * across, wide);
        if (r % (16 / kLanes) == 0) prefetch_panel(next), next += 16;
      }
      transpose(block);
      if (wide == kLanes) {
#pragma GCC unroll 16
        for (int t = 0; t < kLanes; ++t) sum[0][v] = Steps::add(sum[0][v], a + (x + t) * Steps::step, block[t]);
      } else {
        for (int t = 0; t < wide; ++t) sum[0][v] = Steps::add(sum[0][v], a + (x + t) * Steps::step, block[t]);
      }
    }
  }
  put(sum, out);
}

template <typename Steps, int R>
constexpr void fill_tiles(Tile (&tiles)[2][kMaxRows]) {
  if constexpr (R > 0) {
    tiles[0][R - 1] = tile<Steps, R, 1>;
    tiles[1][R - 1] = tile<Steps, R, 2>;
    fill_tiles<Steps, R - 1>(tiles);
  }
}

}  // namespace
